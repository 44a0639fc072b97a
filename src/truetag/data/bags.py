"""Bags of photos as files: the frames of each row of a manifest, or of each file, before any of them is decoded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from jaxtyping import Bool, Int64

from truetag.data.embeddings import NO_FEATURES, Embeddings, open_embeddings
from truetag.data.manifest import Manifest
from truetag.errors import InputError
from truetag.io.text import shown
from truetag.media.clips import CLIP_SUFFIXES, NUM_FRAMES
from truetag.media.files import MediaFiles, Reading, SkipList, Skipped
from truetag.media.frame_cache import cached_frames


@dataclass(frozen=True)
class MediaBags:
    """N bags of F frames in total; the frames of all bags stand in one list, one bag after the other."""

    ids: Sequence[str]
    paths: Sequence[Path]
    """The photo or clip that each bag comes from; the first photo of a bag that lists several."""
    frames: MediaFiles
    starts: Int64[np.ndarray, "S"]
    """Bag i has the frames `starts[i]` to `starts[i + 1]`; a bag may be empty."""

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def lengths(self) -> Int64[np.ndarray, "N"]:
        """The number of frames in each bag."""
        return np.diff(self.starts)

    def frames_of(self, index: int) -> range:
        """The indices of the frames of one bag."""
        return range(int(self.starts[index]), int(self.starts[index + 1]))

    def select(self, indices: Sequence[int]) -> "MediaBags":
        """Some of the bags, in the order of `indices`."""
        return MediaBags(
            [self.ids[i] for i in indices],
            [self.paths[i] for i in indices],
            self.frames.select(frame for i in indices for frame in self.frames_of(i)),
            starts_of(self.lengths[np.asarray(indices, dtype=np.int64)]),
        )

    def keep_frames(self, usable: Bool[np.ndarray, "F"]) -> tuple["MediaBags", list[int]]:
        """Drop the frames that cannot be used, and the bags that are left without any.

        Returns:
            The bags that are left, and their indices among all bags.
        """
        num_usable_before = np.concatenate([[0], np.cumsum(usable)])  # [F + 1]: before each frame, and in total
        lengths = np.diff(num_usable_before[self.starts])  # [N]: usable frames in each bag
        indices = np.flatnonzero(lengths).tolist()
        bags = MediaBags(
            [self.ids[i] for i in indices],
            [self.paths[i] for i in indices],
            self.frames.select(np.flatnonzero(usable).tolist()),
            starts_of(lengths[indices]),
        )
        return bags, indices

    def each_frame(self) -> "MediaBags":
        """Every frame as a bag of its own."""
        bag_of = np.repeat(np.arange(len(self)), self.lengths)  # [F]
        numbers = np.arange(len(bag_of)) - self.starts[bag_of]  # [F]: counted within the bag
        ids = [f"{self.ids[bag]}#{number}" for bag, number in zip(bag_of.tolist(), numbers.tolist(), strict=True)]
        return MediaBags(ids, self.frames.paths, self.frames, np.arange(len(bag_of) + 1))


class _Item(NamedTuple):
    """A bag by the files that are given for it: photos, or one clip."""

    id: str
    files: list[Path]
    is_clip: bool


def read_bags(
    manifest: Manifest,
    rows: datasets.Dataset | None = None,
    reading: Reading = Reading(),
    skips: SkipList | None = None,
    num_frames: int = NUM_FRAMES,
    features: Path | None = None,
) -> MediaBags:
    """The photos of some rows of a manifest; clips become frames on disk. Rows of embeddings are bags of one frame.

    Args:
        manifest: the manifest that the rows belong to.
        rows: some of its rows; None for all.
        reading: where frames are cached, and whether files may lie outside the media root.
        skips: expects the files of the rows and gets the clips that cannot be used, whose bags are empty. Without it,
            nothing but the limit of `reading` shows that clips cannot be used.
        num_frames: frames per clip.
        features: a file of embeddings to take instead of the photos.

    Raises:
        InputError: a path leads out of the media root, too many clips or rows cannot be used, or some rows have photos
            and others embeddings.
    """
    rows = manifest.rows if rows is None else rows
    skips = SkipList(reading.max_skipped) if skips is None else skips
    if features is not None:
        return _bags_by_id(manifest, rows, features, skips)
    if any(rows["features"][:]):
        return _bags_by_row(manifest, rows, reading, skips)
    columns = rows.select_columns(["id", "image", "frames", "video"])
    values = (columns[name][:] for name in ("id", "image", "frames", "video"))
    items = []
    for name, image, frames, video in zip(*values, strict=True):
        listed = [image] if image else [video] if video else frames
        files = [manifest.media_path(name, path, reading.allow_outside) for path in listed]
        items.append(_Item(name, files, is_clip=bool(video)))
    return _cut_clips(items, reading.fence(manifest.media_root), reading.cache, skips, num_frames)


def bags_of_files(
    ids: Sequence[str],
    files: Sequence[Path],
    reading: Reading = Reading(),
    skips: SkipList | None = None,
    num_frames: int = NUM_FRAMES,
) -> MediaBags:
    """Each photo or clip as a bag; the suffix decides which of the two a file is.

    Args:
        ids: the ids of the bags.
        files: the file of each bag.
        reading: where frames are cached; these files may lie anywhere.
        skips: as in `read_bags`.
        num_frames: frames per clip.

    Raises:
        InputError: too many clips cannot be used.
    """
    items = [_Item(name, [path], path.suffix.lower() in CLIP_SUFFIXES) for name, path in zip(ids, files, strict=True)]
    skips = SkipList(reading.max_skipped) if skips is None else skips
    return _cut_clips(items, None, reading.cache, skips, num_frames)


def bags_of_embeddings(embeddings: Embeddings) -> MediaBags:
    """Each row of a file as a bag; its id is that in the file, or its number."""
    rows = range(len(embeddings.array))
    return _bags_of_rows([embeddings.name_of(row) for row in rows], embeddings.path, rows)


def features_file(manifest: Manifest) -> Path | None:
    """The file of embeddings that the rows of a manifest name; None for rows of photos or clips.

    Raises:
        InputError: the rows name several files, or only some name one.
    """
    values = manifest.rows["features"][:]
    named = dict.fromkeys(value.rpartition("#")[0] for value in values if value)
    if not named:
        return None
    if len(named) > 1 or not all(values):
        got = ", ".join(map(shown, list(named)[:2])) if len(named) > 1 else "photos in some rows"
        raise InputError(f"{manifest.path}: expected all rows to name embeddings in one file, got {got}")
    return manifest.media_root / next(iter(named))


def join_bags(parts: Sequence[MediaBags]) -> MediaBags:
    """The bags of several lists, one list after the other.

    Raises:
        InputError: some are of photos and others of embeddings, or embeddings are in several files.
    """
    rows = [part.frames.rows for part in parts]
    files = {path for part in parts if part.frames.rows is not None for path in part.frames.paths}
    if len(files) > 1 or (files and None in rows):
        got = ", ".join(map(str, sorted(files))) + (" and photos" if None in rows else "")
        raise InputError(f"inputs: expected photos and clips, or embeddings in one file, got {got}")
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(part.lengths for part in parts)])
    return MediaBags(
        _chain(part.ids for part in parts),
        _chain(part.paths for part in parts),
        MediaFiles(
            _chain(part.frames.ids for part in parts),
            _chain(part.frames.paths for part in parts),
            _chain(part.frames.roots for part in parts),
            _chain(part.frames.contents or [None] * len(part.frames) for part in parts),
            _chain(of_part or [] for of_part in rows) if files else None,
        ),
        starts_of(lengths),
    )


def starts_of(lengths: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "S"]:
    """Where bags of these lengths start if one follows the other, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _bags_by_id(manifest: Manifest, rows: datasets.Dataset, path: Path, skips: SkipList) -> MediaBags:
    """Rows of a manifest with the embeddings of their ids; where there are none, empty bags."""
    all_ids = manifest.rows["id"][:]
    embeddings = open_embeddings(path)
    row_of = dict(zip(all_ids, embeddings.rows_of(all_ids, f"rows of {manifest.path}").tolist(), strict=True))
    ids = rows["id"][:]
    skips.expect(len(ids))
    skips.report_all(Skipped(name, path, NO_FEATURES) for name in ids if row_of[name] < 0)
    return _bags_of_rows(ids, path, [row_of[name] for name in ids])


def _bags_by_row(manifest: Manifest, rows: datasets.Dataset, reading: Reading, skips: SkipList) -> MediaBags:
    """Rows of a manifest that name a row of a file: FILE#ROW, counted from 0."""
    path = features_file(manifest)
    assert path is not None
    first = rows[0]
    manifest.media_path(first["id"], first["features"].rpartition("#")[0], reading.allow_outside)
    num_rows = len(open_embeddings(path).array)
    ids, numbers = rows["id"][:], []
    for name, value in zip(ids, rows["features"][:], strict=True):
        number = value.rpartition("#")[2]
        if not (number.isascii() and number.isdecimal() and int(number) < num_rows):
            expected = f"FILE#ROW with a row below {num_rows}"
            raise InputError(f"{manifest.path}: features of {shown(name)}: expected {expected}, got {shown(value)}")
        numbers.append(int(number))
    skips.expect(len(ids))
    return _bags_of_rows(ids, path, numbers)


def _bags_of_rows(ids: Sequence[str], path: Path, rows: Sequence[int]) -> MediaBags:
    """Bags of one row each in a file of embeddings; a row of -1 is an empty bag."""
    has_row = [row >= 0 for row in rows]
    used = [row for row in rows if row >= 0]
    names = [name for name, there in zip(ids, has_row, strict=True) if there]
    frames = MediaFiles(names, [path] * len(used), [None] * len(used), rows=used)
    places = [path.with_name(f"{path.name}#{row}") if row >= 0 else path for row in rows]
    return MediaBags(ids, places, frames, starts_of(np.array(has_row, dtype=np.int64)))


def _cut_clips(
    items: Sequence[_Item], root: Path | None, cache: Path | None, skips: SkipList, num_frames: int
) -> MediaBags:
    """Bags of photos: the given ones, and the frames of the clips.

    Args:
        items: what is given for each bag.
        root: the folder that the given files must lie in; None for any.
        cache: the folder of all caches.
        skips: expects the given files and gets the clips that cannot be used.
        num_frames: frames per clip.

    Raises:
        InputError: too many clips cannot be used.
    """
    skips.expect(sum(len(item.files) for item in items))
    clips = [item for item in items if item.is_clip]
    frames_of_clips = iter(())
    if clips:
        files = MediaFiles([clip.id for clip in clips], [clip.files[0] for clip in clips], [root] * len(clips))
        frames_of_clips = iter(cached_frames(files, skips, cache, num_frames))
    photos = [next(frames_of_clips) if item.is_clip else item.files for item in items]
    frames = MediaFiles(
        [item.id for item, paths in zip(items, photos, strict=True) for _ in paths],
        _chain(photos),
        # the cache is ours, so the frames of clips need no fence
        [None if item.is_clip else root for item, paths in zip(items, photos, strict=True) for _ in paths],
    )
    lengths = np.array([len(paths) for paths in photos], dtype=np.int64)
    return MediaBags([item.id for item in items], [item.files[0] for item in items], frames, starts_of(lengths))


def _chain(parts: Iterable[Iterable]) -> list:
    return list(chain.from_iterable(parts))
