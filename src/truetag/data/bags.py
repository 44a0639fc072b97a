"""Bags of photos as files: the frames of each row of a manifest, or of each file, before any of them is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
from jaxtyping import Bool, Int64

from truetag.data.manifest import Manifest
from truetag.errors import InputError
from truetag.io.text import shown
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.files import Photos, Skipped
from truetag.media.frame_cache import cached_frames


@dataclass(frozen=True)
class MediaBags:
    """N bags: bag i is `ids[i]`, comes from `sources[i]`, and has the frames `starts[i]` to `starts[i + 1]`."""

    ids: Sequence[str]
    sources: Sequence[Path]
    frames: Photos
    starts: Int64[np.ndarray, "S"]

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def lengths(self) -> Int64[np.ndarray, "N"]:
        """How many frames each bag has."""
        return np.diff(self.starts)

    def select(self, positions: Sequence[int]) -> "MediaBags":
        """Some of the bags, in the order of `positions`."""
        frames = [frame for i in positions for frame in range(self.starts[i], self.starts[i + 1])]
        lengths = self.lengths[np.asarray(positions, dtype=np.int64)]
        ids, sources = [self.ids[i] for i in positions], [self.sources[i] for i in positions]
        return MediaBags(ids, sources, self.frames.select(frames), starts_of(lengths))

    def keep_frames(self, usable: Bool[np.ndarray, "F"]) -> tuple["MediaBags", list[int]]:
        """The bags with their usable frames alone, and the positions of those bags that have any."""
        before = np.concatenate([[0], np.cumsum(usable)])
        lengths = before[self.starts[1:]] - before[self.starts[:-1]]
        kept = np.flatnonzero(lengths).tolist()
        frames = self.frames.select(np.flatnonzero(usable).tolist())
        ids, sources = [self.ids[i] for i in kept], [self.sources[i] for i in kept]
        return MediaBags(ids, sources, frames, starts_of(lengths[kept])), kept

    def each_frame(self) -> "MediaBags":
        """Every frame as a bag of its own."""
        bag_of = np.repeat(np.arange(len(self)), self.lengths)
        numbers = np.arange(len(bag_of)) - self.starts[bag_of]
        ids = [f"{self.ids[bag]}#{number}" for bag, number in zip(bag_of.tolist(), numbers.tolist(), strict=True)]
        return MediaBags(ids, self.frames.paths, self.frames, np.arange(len(bag_of) + 1))


def read_bags(
    manifest: Manifest,
    rows: datasets.Dataset | None = None,
    *,
    allow_outside: bool = False,
    num_frames: int = 26,
    cache: Path | None = None,
    max_skipped: float = 1.0,
) -> tuple[MediaBags, list[Skipped]]:
    """The photos of some rows of a manifest. Clips become frames on disk; one that cannot be used is without frames.

    Args:
        manifest: where the rows are from.
        rows: some of its rows; None for all.
        allow_outside: take files that lie outside the media root.
        num_frames: frames of a clip.
        cache: where the frames of clips are kept; by default in the user's cache folder.
        max_skipped: stop if more than this share of the clips cannot be used.

    Raises:
        InputError: a row has cached features alone, a path leads out of the media root, or too many clips are broken.
    """
    columns = (manifest.rows if rows is None else rows).select_columns(["id", "image", "frames", "video"])
    ids = columns["id"][:]
    images, lists, videos = (columns[name][:] for name in ("image", "frames", "video"))
    files: list[list[Path]] = []
    for name, image, frames, video in zip(ids, images, lists, videos, strict=True):
        listed = [image] if image else [video] if video else frames or []
        if not listed:
            raise InputError(f"{manifest.path}: row {shown(name)} has no photos; rows of features are not read yet")
        files.append([manifest.media_path(name, path, allow_outside) for path in listed])
    root = None if allow_outside else manifest.media_root.resolve()
    is_clip = [bool(video) for video in videos]
    return _with_clips(ids, files, is_clip, root, num_frames, cache, max_skipped)


def bags_of_files(
    ids: Sequence[str], files: Sequence[Path], num_frames: int = 26, cache: Path | None = None, max_skipped: float = 1.0
) -> tuple[MediaBags, list[Skipped]]:
    """Each photo or clip as a bag; which it is its suffix tells."""
    is_clip = [path.suffix.lower() in CLIP_SUFFIXES for path in files]
    return _with_clips(ids, [[path] for path in files], is_clip, None, num_frames, cache, max_skipped)


def join_bags(parts: Sequence[MediaBags]) -> MediaBags:
    """The bags of several lists, one list behind the other."""
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(part.lengths for part in parts)])
    return MediaBags(
        _chain(part.ids for part in parts),
        _chain(part.sources for part in parts),
        Photos(*(_chain(getattr(part.frames, name) for part in parts) for name in ("ids", "paths", "roots"))),
        starts_of(lengths),
    )


def starts_of(lengths: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "S"]:
    """Where bags of these lengths start, one behind the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _with_clips(
    ids: Sequence[str],
    files: list[list[Path]],
    is_clip: Sequence[bool],
    root: Path | None,
    num_frames: int,
    cache: Path | None,
    max_skipped: float,
) -> tuple[MediaBags, list[Skipped]]:
    """Bags of these photos, where clips are replaced by their frames."""
    sources = [paths[0] for paths in files]
    roots = [root] * len(files)
    clips = [position for position, clip in enumerate(is_clip) if clip]
    skipped: list[Skipped] = []
    if clips:
        named = Photos([ids[i] for i in clips], [sources[i] for i in clips], [root] * len(clips))
        found = cached_frames(named, cache, num_frames, max_skipped)
        skipped = found.skipped
        for position, paths in zip(clips, found.paths, strict=True):
            files[position], roots[position] = paths, None  # the cache is ours
    lengths = np.array([len(paths) for paths in files], dtype=np.int64)
    frames = Photos(
        [name for name, paths in zip(ids, files, strict=True) for _ in paths],
        _chain(files),
        [fence for fence, paths in zip(roots, files, strict=True) for _ in paths],
    )
    return MediaBags(ids, sources, frames, starts_of(lengths)), skipped


def _chain(parts: Iterable[Iterable]) -> list:
    return list(chain.from_iterable(parts))
