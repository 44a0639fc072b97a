"""Manifest rows as bags of tensors: cached features or photos, each with its observed labels."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from truetag.data.bags import MediaBags
from truetag.media.files import MediaFiles, Skipped
from truetag.media.photos import MediaError
from truetag.media.preprocessing import Preprocessing

Pick = tuple[int, bool] | tuple[int, bool, int]
"""The index of a bag in a data set, whether its photos are mirrored, and the seed of what else is varied, if anything
is."""
Variation = Callable[[Image.Image, bool, int], Tensor]
"""From a photo, whether it is mirrored, and a seed to the varied square [3, H, W] that a backbone reads."""
_BAGS_PER_BATCH = 512


class Batch(NamedTuple):
    """B bags of up to T frames: pixels [B, T, 3, H, W] or features of regions [B, T, R, D], and observed labels."""

    inputs: Float[Tensor, "B T ..."]
    labels: Shaped[Tensor, "B K"]
    indices: Int64[Tensor, "B"]
    """The index of each bag in the data set."""
    mask: Bool[Tensor, "B T"] | None
    """False at the padding of bags with fewer than T frames; None if all bags have T frames."""
    skipped: list[Skipped]
    """The frames that could not be decoded; they are padding, too."""


class FeatureBags(Dataset):
    """N bags of cached features.

    Args:
        features: a (memory-mapped) array with the features of R regions in each row.
        rows: the row of each frame in that array.
        starts: bag i has the frames `starts[i]` to `starts[i + 1]`.
        labels: the observed labels of the bags.
        ids: the ids of the bags.
    """

    def __init__(
        self,
        features: Shaped[np.ndarray, "M R D"],
        rows: Int64[np.ndarray, "F"],
        starts: Int64[np.ndarray, "S"],
        labels: Shaped[Tensor, "N K"],
        ids: Sequence[str],
    ) -> None:
        self.features, self.rows, self.starts, self.labels, self.ids = features, rows, starts, labels, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, picks: list[Pick]) -> Batch:
        """Fetch a whole batch at once: one gather instead of one call per bag."""
        indices = [pick[0] for pick in picks]
        frames, mask = frame_indices(self.starts, indices)  # [B, T]
        features = torch.from_numpy(self.features[self.rows[frames]]).float()  # [B, T, R, D]
        return Batch(features, self.labels[indices], torch.tensor(indices), mask, [])


def batches_of_means(bags: FeatureBags) -> Iterator[Float[Tensor, "B D"]]:
    """The mean over regions and frames of each bag, many bags at a time."""
    for first in range(0, len(bags), _BAGS_PER_BATCH):
        frame_of, mask = frame_indices(bags.starts, range(first, min(first + _BAGS_PER_BATCH, len(bags))))  # B T
        rows = bags.rows[frame_of]  # B T
        usable = torch.from_numpy(rows >= 0)
        usable = usable if mask is None else usable & mask
        frames = torch.from_numpy(np.asarray(bags.features[rows])).float().mean(2)  # B T D
        total = torch.where(usable.unsqueeze(-1), frames, 0).sum(1)  # B D
        yield total / usable.sum(1, keepdim=True).clamp(min=1)


class PhotoBags(Dataset):
    """Bags of photos that are decoded when a batch is fetched.

    A frame that cannot be decoded becomes padding. A bag whose frames all fail becomes a black frame with unknown
    labels, which contributes no gradient.

    Args:
        bags: the photos.
        labels: the observed labels of the bags.
        preprocessing: what the backbone expects of a photo.
        variation: how photos are varied whose pick has a seed.
    """

    def __init__(
        self,
        bags: MediaBags,
        labels: Shaped[Tensor, "N K"],
        preprocessing: Preprocessing,
        variation: Variation | None = None,
    ) -> None:
        self.bags, self.labels, self.preprocessing, self.variation = bags, labels, preprocessing, variation
        self.ids, self.starts = bags.ids, bags.starts

    def __len__(self) -> int:
        return len(self.bags)

    def __getitems__(self, picks: list[Pick]) -> Batch:
        """Decode a batch."""
        side = self.preprocessing.resolution
        indices = [pick[0] for pick in picks]
        frames, mask = frame_indices(self.starts, indices)  # [B, T]
        inputs, labels = torch.zeros(*frames.shape, 3, side, side), self.labels[indices]  # [B, T, 3, H, W], [B, K]
        wanted = torch.ones(frames.shape, dtype=torch.bool) if mask is None else mask
        usable = wanted.clone()
        skipped = []
        for bag, column in wanted.nonzero().tolist():
            frame = int(frames[bag, column])
            try:
                inputs[bag, column] = self._read(frame, picks[bag])
            except MediaError as error:
                usable[bag, column] = False
                skipped.append(self.bags.frames.skip(frame, error))
        if skipped:
            is_lost = ~usable.any(1)  # [B]
            labels[is_lost] = -1
            usable[is_lost, 0] = True  # pooling needs a frame, and this one is black
            mask = usable
        return Batch(inputs, labels, torch.tensor(indices), mask, skipped)

    def _read(self, frame: int, pick: Pick) -> Float[Tensor, "3 H W"]:
        photo = self.bags.frames.read(frame)
        if self.variation is None or len(pick) == 2:
            return self.preprocessing(photo, flip=pick[1])
        return self.variation(photo, *pick[1:])


def frame_indices(
    starts: Int64[np.ndarray, "S"], bags: Sequence[int]
) -> tuple[Int64[np.ndarray, "B T"], Bool[Tensor, "B T"] | None]:
    """Find the frames of some bags, T being the length of the longest.

    Args:
        starts: bag i has the frames `starts[i]` to `starts[i + 1]`.
        bags: indices of B bags.

    Returns:
        The indices of their frames, where shorter bags are padded with their first frame; and a mask that is False at
        the padding, or None if there is no padding.
    """
    chosen = np.asarray(bags, dtype=np.int64)
    first, lengths = starts[chosen], starts[chosen + 1] - starts[chosen]  # [B]
    steps = np.arange(lengths.max(initial=1))  # [T]
    is_frame = steps < lengths[:, None]  # [B, T]
    frames = first[:, None] + np.where(is_frame, steps, 0)  # [B, T]
    return frames, None if is_frame.all() else torch.from_numpy(is_frame)


class EpochBatches(Sampler[list[Pick]]):
    """The batches of an epoch; (seed, epoch) alone decides their order and flips, so that an epoch can be repeated.

    Args:
        num_examples: the size of the data set.
        batch_size: examples per batch.
        seed: decides, with the epoch, the order and the flips.
        shuffle: whether the order is random, as in training; otherwise it is the order of the data set.
        flip: whether half of the examples, chosen at random, are mirrored.
        vary: whether each pick has a seed of its own, by which the example is varied.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool,
        flip: bool = False,
        vary: bool = False,
    ) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.shuffle, self.flip, self.vary = shuffle, flip, vary
        self.drop_last = False
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Pick]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = range(self.num_examples)
        if self.shuffle:
            order = torch.randperm(self.num_examples, generator=generator).tolist()
        flips = (torch.rand(self.num_examples, generator=generator) < 0.5 * self.flip).tolist()
        picks: list[Pick] = list(zip(order, flips, strict=True))
        if self.vary:
            seeds = torch.randint(2**31, (self.num_examples,), generator=generator).tolist()
            picks = list(zip(order, flips, seeds, strict=True))
        starts = self._starts()
        for start, end in zip(starts, [*starts[1:], len(picks)], strict=True):
            yield picks[start:end]

    def _starts(self) -> list[int]:
        starts = list(range(0, self.num_examples, self.batch_size))
        # a lone last example has no batch statistics: in training it joins the batch before it
        return starts[:-1] if self.shuffle and len(starts) > 1 and self.num_examples - starts[-1] == 1 else starts


@dataclass(frozen=True)
class PhotoBatch:
    """A batch of consecutive photos: the decoded ones, and why the others cannot be used."""

    pixels: Float[Tensor, "B 3 H W"]
    indices: list[int]
    """The index of each decoded photo."""
    broken: dict[int, MediaError]
    """The index of each photo that cannot be used, and the reason."""


def stream_photos(
    photos: MediaFiles, preprocessing: Preprocessing, batches: Sequence[range], num_threads: int = 2
) -> Iterator[PhotoBatch]:
    """Decode photos in threads (decoders release Python's lock), one batch ahead of the consumer.

    Args:
        photos: all photos.
        preprocessing: what the backbone expects.
        batches: the indices of the photos in each batch.
        num_threads: how many photos are decoded at a time.
    """

    def decode(index: int) -> Tensor | MediaError:
        try:
            return preprocessing(photos.read(index))
        except MediaError as error:
            return error

    pool = ThreadPoolExecutor(num_threads)
    try:
        ahead = [pool.submit(decode, index) for index in batches[0]] if batches else []
        for batch, following in zip_longest(batches, batches[1:], fillvalue=range(0)):
            now, ahead = ahead, [pool.submit(decode, index) for index in following]
            results = {index: future.result() for index, future in zip(batch, now, strict=True)}
            decoded = {index: photo for index, photo in results.items() if isinstance(photo, Tensor)}
            broken = {index: error for index, error in results.items() if isinstance(error, MediaError)}
            side = preprocessing.resolution
            pixels = torch.stack(list(decoded.values())) if decoded else torch.zeros(0, 3, side, side)
            yield PhotoBatch(pixels, list(decoded), broken)
    finally:
        pool.shutdown(cancel_futures=True)  # a consumer that stops early does not wait for the next batch


def even_batches(num_examples: int, batch_size: int) -> list[range]:
    """All indices in order, `batch_size` at a time."""
    return [range(start, min(start + batch_size, num_examples)) for start in range(0, num_examples, batch_size)]
