"""Manifest rows as bags of tensors: cached features or photos, each with its observed labels."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from truetag.data.bags import MediaBags
from truetag.media.files import Photos, Skipped
from truetag.media.photos import MediaError, Preprocessing

Pick = tuple[int, bool]
"""Which bag of a data set, and whether its photo is mirrored."""


class Batch(NamedTuple):
    """B bags of up to T frames: pixels [B, T, 3, H, W] or features of regions [B, T, R, D], and observed labels."""

    inputs: Float[Tensor, "B T ..."]
    labels: Shaped[Tensor, "B K"]
    indices: Int64[Tensor, "B"]
    """Which bags of the data set they are."""
    mask: Bool[Tensor, "B T"] | None
    """False where a bag has fewer frames than T; None where all have T."""
    skipped: list[Skipped]
    """The frames that could not be decoded."""


class FeatureBags(Dataset):
    """Bags whose features are cached: a memory-mapped array [rows, R, D], and the row of each frame in it.

    The frames of bag i are `rows[starts[i] : starts[i + 1]]`.
    """

    def __init__(
        self,
        features: np.ndarray,
        rows: Int64[np.ndarray, "F"],
        starts: Int64[np.ndarray, "S"],
        labels: Shaped[Tensor, "N K"],
        ids: Sequence[str],
    ) -> None:
        self.features, self.rows, self.starts, self.labels, self.ids = features, rows, starts, labels, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, picks: list[Pick]) -> Batch:
        """Fetch a whole batch at once: one gather instead of a call an example."""
        indices = [index for index, _ in picks]
        places, mask = frame_places(self.starts, indices)
        features = torch.from_numpy(self.features[self.rows[places]]).float()
        return Batch(features, self.labels[indices], torch.tensor(indices), mask, [])


class PhotoBags(Dataset):
    """Bags of photos that are decoded when asked for.

    A frame that cannot be decoded is padding. Of a bag without any nothing is known: it becomes a black frame with
    unknown labels, which trains nothing.
    """

    def __init__(self, bags: MediaBags, labels: Shaped[Tensor, "N K"], preprocessing: Preprocessing) -> None:
        self.bags, self.labels, self.preprocessing = bags, labels, preprocessing
        self.ids, self.starts = bags.ids, bags.starts

    def __len__(self) -> int:
        return len(self.bags)

    def __getitems__(self, picks: list[Pick]) -> Batch:
        """Decode a batch."""
        side = self.preprocessing.resolution
        indices = [index for index, _ in picks]
        places, mask = frame_places(self.starts, indices)
        inputs, labels = torch.zeros(*places.shape, 3, side, side), self.labels[indices]
        wanted = torch.ones(places.shape, dtype=torch.bool) if mask is None else mask
        usable = wanted.clone()
        skipped = []
        for row, column in wanted.nonzero().tolist():
            place = int(places[row, column])
            try:
                inputs[row, column] = self.preprocessing(self.bags.frames.read(place), picks[row][1])
            except MediaError as error:
                usable[row, column] = False
                skipped.append(self.bags.frames.skip(place, error))
        if skipped:
            labels[~usable.any(1)] = -1
            usable[:, 0] |= ~usable.any(1)
            mask = usable
        return Batch(inputs, labels, torch.tensor(indices), mask, skipped)


def frame_places(
    starts: Int64[np.ndarray, "S"], indices: Sequence[int]
) -> tuple[Int64[np.ndarray, "B T"], Bool[Tensor, "B T"] | None]:
    """Where the frames of some bags are, padded with each bag's first; the mask is None where none is padded."""
    chosen = np.asarray(indices, dtype=np.int64)
    first, lengths = starts[chosen], starts[chosen + 1] - starts[chosen]
    steps = np.arange(lengths.max(initial=1))
    inside = steps < lengths[:, None]
    places = first[:, None] + np.where(inside, steps, 0)
    return places, None if inside.all() else torch.from_numpy(inside)


class EpochBatches(Sampler[list[Pick]]):
    """Batches of one epoch: order and flips are decided by (seed, epoch) alone.

    So an epoch can be repeated.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, *, shuffle: bool, flip: bool = False) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.shuffle, self.flip = shuffle, flip
        self.drop_last = False
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Pick]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = range(self.num_examples)
        if self.shuffle:
            order = torch.randperm(self.num_examples, generator=generator).tolist()
        flips = (torch.rand(self.num_examples, generator=generator) < 0.5 * self.flip).tolist()
        picks = list(zip(order, flips, strict=True))
        starts = self._starts()
        for start, end in zip(starts, [*starts[1:], len(picks)], strict=True):
            yield picks[start:end]

    def _starts(self) -> list[int]:
        starts = list(range(0, self.num_examples, self.batch_size))
        # while training the last batch is not left with one example, which has no batch statistics
        return starts[:-1] if self.shuffle and len(starts) > 1 and self.num_examples - starts[-1] == 1 else starts


@dataclass(frozen=True)
class PhotoBatch:
    """Decoded photos of consecutive positions: those at `positions`; the others are `broken`, and why."""

    pixels: Float[Tensor, "B 3 H W"]
    positions: list[int]
    broken: dict[int, MediaError]


def stream_photos(
    photos: Photos, preprocessing: Preprocessing, batches: Sequence[range], num_threads: int = 2
) -> Iterator[PhotoBatch]:
    """Decode batches of photos, one ahead of the consumer, in threads: decoders release Python's lock."""

    def decode(position: int) -> Tensor | MediaError:
        try:
            return preprocessing(photos.read(position))
        except MediaError as error:
            return error

    pool = ThreadPoolExecutor(num_threads)
    try:
        ahead = [pool.submit(decode, position) for position in batches[0]] if batches else []
        for batch, following in zip_longest(batches, batches[1:], fillvalue=range(0)):
            now, ahead = ahead, [pool.submit(decode, position) for position in following]
            results = {position: future.result() for position, future in zip(batch, now, strict=True)}
            good = {position: photo for position, photo in results.items() if isinstance(photo, Tensor)}
            side = preprocessing.resolution
            pixels = torch.stack(list(good.values())) if good else torch.zeros(0, 3, side, side)
            broken = {position: error for position, error in results.items() if isinstance(error, MediaError)}
            yield PhotoBatch(pixels, list(good), broken)
    finally:
        pool.shutdown(cancel_futures=True)  # a consumer that stops early does not wait for the batch ahead


def even_batches(num_photos: int, batch_size: int) -> list[range]:
    """Positions in order, `batch_size` at a time."""
    return [range(start, min(start + batch_size, num_photos)) for start in range(0, num_photos, batch_size)]
