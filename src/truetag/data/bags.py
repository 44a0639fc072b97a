"""Manifest rows as bags of tensors: cached features or photos, each with its observed labels."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from truetag.data.media import MediaError, Preprocessing, read_photo

Pick = tuple[int, bool]
"""Which bag of a data set, and whether its photo is mirrored."""


class Batch(NamedTuple):
    """B bags: photos [B, 3, H, W] or features of regions [B, R, D], and their observed labels."""

    inputs: Float[Tensor, "B ..."]
    labels: Int8[Tensor, "B K"]


class Skipped(NamedTuple):
    """A file that could not be used, and why."""

    path: Path
    reason: str


class FeatureBags(Dataset):
    """Bags whose features are cached: a memory-mapped array and the row of each bag in it."""

    def __init__(self, features: np.ndarray, rows: np.ndarray, labels: Int8[Tensor, "N K"]) -> None:
        self.features, self.rows, self.labels = features, rows, labels
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, picks: list[Pick]) -> Batch:
        """Fetch a whole batch at once: one gather instead of a call an example."""
        indices = [index for index, _ in picks]
        features = torch.from_numpy(self.features[self.rows[indices]]).float()
        return Batch(features, self.labels[indices])


class PhotoBags(Dataset):
    """Bags that are one photo each, decoded when asked for.

    Of a photo that cannot be decoded nothing is known: it becomes a black square with unknown labels, which trains
    nothing.
    """

    def __init__(self, paths: Sequence[Path], labels: Int8[Tensor, "N K"], preprocessing: Preprocessing) -> None:
        self.paths, self.labels, self.preprocessing = paths, labels, preprocessing
        self._broken: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, picks: list[Pick]) -> Batch:
        """Decode a batch."""
        side = self.preprocessing.resolution
        inputs, labels = torch.zeros(len(picks), 3, side, side), self.labels[[index for index, _ in picks]]
        for row, (index, flip) in enumerate(picks):
            try:
                inputs[row] = self.preprocessing(read_photo(self.paths[index]), flip)
            except MediaError as error:
                labels[row] = -1
                self._broken[self.paths[index]] = str(error)
        return Batch(inputs, labels)

    @property
    def skipped(self) -> list[Skipped]:
        """The photos that could not be decoded so far, as far as this process tried."""
        return [Skipped(path, reason) for path, reason in self._broken.items()]


class EpochBatches(Sampler[list[Pick]]):
    """Batches of one epoch: order and flips are decided by (seed, epoch) alone, so that an epoch can be repeated."""

    def __init__(self, num_examples: int, batch_size: int, seed: int, *, shuffle: bool, flip: bool = False) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.shuffle, self.flip = shuffle, flip
        self.drop_last = False
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[list[Pick]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = range(self.num_examples)
        if self.shuffle:
            order = torch.randperm(self.num_examples, generator=generator).tolist()
        flips = (torch.rand(self.num_examples, generator=generator) < 0.5 * self.flip).tolist()
        picks = list(zip(order, flips, strict=True))
        for start in range(0, len(picks), self.batch_size):
            yield picks[start : start + self.batch_size]


@dataclass(frozen=True)
class PhotoBatch:
    """Decoded photos of consecutive paths; `positions` are those of the paths that could be decoded."""

    photos: Float[Tensor, "B 3 H W"]
    positions: list[int]
    skipped: list[Skipped]


def stream_photos(
    paths: Sequence[Path], preprocessing: Preprocessing, batch_size: int, num_threads: int = 2
) -> Iterator[PhotoBatch]:
    """Decode photos in order, a batch ahead of the consumer, in threads: decoders release Python's lock."""

    def decode(path: Path) -> Tensor | Skipped:
        try:
            return preprocessing(read_photo(path))
        except MediaError as error:
            return Skipped(path, str(error))

    with ThreadPoolExecutor(num_threads) as pool:
        starts = range(0, len(paths), batch_size)
        ahead = [pool.submit(decode, path) for path in paths[:batch_size]]
        for start in starts:
            now, following = ahead, paths[start + batch_size : start + 2 * batch_size]
            ahead = [pool.submit(decode, path) for path in following]
            results = [future.result() for future in now]
            good = [(start + i, photo) for i, photo in enumerate(results) if isinstance(photo, Tensor)]
            side = preprocessing.resolution
            photos = torch.stack([photo for _, photo in good]) if good else torch.zeros(0, 3, side, side)
            yield PhotoBatch(photos, [i for i, _ in good], [skip for skip in results if isinstance(skip, Skipped)])
