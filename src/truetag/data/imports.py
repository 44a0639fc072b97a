"""`truetag import`: published annotations and a folder of media become a manifest of the photos that can be used.

The photos that cannot be used are listed beside it, in MANIFEST.jsonl.skipped.jsonl. Clips are treated alike.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from truetag.data.manifest import Row, relative_root, write_manifest
from truetag.data.readers import read_captions, read_coco, read_msrvtt, read_tags
from truetag.errors import InputError
from truetag.io.files import refuse_overwriting
from truetag.io.terminal import Progress
from truetag.io.text import shown
from truetag.media.clips import CLIP_SUFFIXES, sample_frames
from truetag.media.files import MAX_SKIPPED, MediaFiles, Reading, SkipList, Skipped
from truetag.media.photos import MediaError

_FILES_AT_A_TIME = 256
_NOUNS = {"image": "photo", "video": "clip"}


@dataclass(frozen=True)
class ImportSummary:
    """The size of the manifest that an import wrote, and the photos or clips that it left out."""

    num_rows: int
    skipped: list[Skipped]


def import_coco(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    categories: Path | None = None,
    split: str | None = None,
    max_skipped: float = MAX_SKIPPED,
    check_photos: bool = True,
    allow_outside: bool = False,
) -> ImportSummary:
    """Write a manifest from a COCO `captions_*.json`.

    Args:
        annotations: the official captions file.
        media_dir: the folder that holds its photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        categories: the matching `instances_*.json`; its category names become `true_tags`.
        split: the split of every row.
        max_skipped: stop if more than this share of the photos cannot be used.
        check_photos: decode every photo once; without it, only check that the files exist.
        allow_outside: take photos outside `media_dir`, which links or names with `..` may lead to.

    Raises:
        InputError: a file breaks the rules of its format, or too many photos cannot be used.
    """
    reading = Reading(max_skipped=max_skipped, allow_outside=allow_outside)
    rows = read_coco(annotations, categories, split)
    return _import(_Job(rows, annotations, media_dir, out, reading, check_photos))


def import_captions(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    split: str | None = None,
    max_skipped: float = MAX_SKIPPED,
    check_photos: bool = True,
    allow_outside: bool = False,
) -> ImportSummary:
    """Write a manifest from a table with one caption per line (Flickr8k style).

    Args:
        annotations: columns `image` and `caption`, optionally `split` and `group`; commas, bars or tabs separate them.
        media_dir: the folder that holds the photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        split: the split of every row that has none of its own.
        max_skipped: stop if more than this share of the photos cannot be used.
        check_photos: decode every photo once; without it, only check that the files exist.
        allow_outside: take photos outside `media_dir`, which links or names with `..` may lead to.

    Raises:
        InputError: the table breaks the rules of its format, or too many photos cannot be used.
    """
    reading = Reading(max_skipped=max_skipped, allow_outside=allow_outside)
    rows = read_captions(annotations, split)
    return _import(_Job(rows, annotations, media_dir, out, reading, check_photos))


def import_tags(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    separator: str = ";",
    max_skipped: float = MAX_SKIPPED,
    check_photos: bool = True,
    allow_outside: bool = False,
) -> ImportSummary:
    """Write a manifest from a table with one photo per line.

    Args:
        annotations: columns `image` and `tags`, optionally `id`, `unknown_tags`, `split` and `group`.
        media_dir: the folder that holds the photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        separator: the text between the tags of a photo.
        max_skipped: stop if more than this share of the photos cannot be used.
        check_photos: decode every photo once; without it, only check that the files exist.
        allow_outside: take photos outside `media_dir`, which links or names with `..` may lead to.

    Raises:
        InputError: the table breaks the rules of its format, or too many photos cannot be used.
    """
    reading = Reading(max_skipped=max_skipped, allow_outside=allow_outside)
    rows = read_tags(annotations, separator)
    return _import(_Job(rows, annotations, media_dir, out, reading, check_photos))


def import_msrvtt(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    split: str | None = None,
    max_skipped: float = MAX_SKIPPED,
    check_clips: bool = True,
    allow_outside: bool = False,
) -> ImportSummary:
    """Write a manifest from an MSR-VTT `*_videodatainfo.json`.

    Args:
        annotations: the official annotation file.
        media_dir: the folder of its clips: `video0.mp4` and so on, or with another suffix (.webm, .avi, .mkv, .mov).
        out: the manifest to write (`.jsonl` or `.parquet`).
        split: the split of every row; without it, the official splits (train, validation, test).
        max_skipped: stop if more than this share of the clips cannot be used.
        check_clips: decode a frame of every clip; without it, only check that the files exist.
        allow_outside: take clips outside `media_dir`, which links or names with `..` may lead to.

    Raises:
        InputError: the file breaks the rules of its format, none of its clips exists, or too many cannot be used.
    """
    reading = Reading(max_skipped=max_skipped, allow_outside=allow_outside)
    rows = list(read_msrvtt(annotations, split))
    if media_dir.is_dir():
        _find_suffixes(rows, annotations, media_dir)
    return _import(_Job(rows, annotations, media_dir, out, reading, check_clips, "video"))


@dataclass(frozen=True)
class _Job:
    """What to import, and how."""

    rows: Iterable[Row]
    annotations: Path
    media_dir: Path
    out: Path
    reading: Reading
    decode: bool
    """Whether files are decoded once; otherwise only their existence is checked."""
    field: Literal["image", "video"] = "image"
    """The field of the rows that names their file."""


def _find_suffixes(rows: list[Row], annotations: Path, media_dir: Path) -> None:
    """Replace the names of clips by those that exist in the folder."""
    names = {path.name for path in media_dir.iterdir()}
    num_found = 0
    for row in rows:
        existing = [name for suffix in CLIP_SUFFIXES if (name := row["id"] + suffix) in names]
        row["video"] = existing[0] if existing else row["video"]
        num_found += bool(existing)
    if rows and not num_found:
        wanted = f"files such as {shown(rows[0]['video'])} (or {', '.join(CLIP_SUFFIXES[1:])})"
        raise InputError(f"{media_dir}: holds none of the {len(rows)} clips of {annotations}; expected {wanted}")


def _import(job: _Job) -> ImportSummary:
    noun, annotations, media_dir = _NOUNS[job.field], job.annotations, job.media_dir
    refuse_overwriting(job.out, annotations)
    if not media_dir.is_dir():
        raise InputError(f"{media_dir}: no such folder of {noun}s")
    rows = list(job.rows)
    root = job.reading.fence(media_dir)
    files = MediaFiles([row["id"] for row in rows], [media_dir / row[job.field] for row in rows], [root] * len(rows))
    skips = SkipList(job.reading.max_skipped, len(rows))
    unusable = _find_unusable(files, job.decode, noun, skips)
    uncaptioned = {index for index, row in enumerate(rows) if row.get("captions") == []} - unusable
    for index in sorted(uncaptioned):
        skips.list_only(files.skip(index, "no captions"))
    usable = [row for index, row in enumerate(rows) if index not in unusable | uncaptioned]
    if not usable:
        first = next(iter(skips), None)
        example = f"; the first of {len(skips)}: {first.path} ({first.reason})" if first else ""
        raise InputError(f"{annotations}: no {noun} of it can be used with {media_dir}{example}")
    num_rows = write_manifest(job.out, usable, {"media_root": relative_root(media_dir, job.out)})
    skips.write(job.out.with_name(f"{job.out.name}.skipped.jsonl"))
    return ImportSummary(num_rows, list(skips))


def _find_unusable(files: MediaFiles, decode: bool, noun: str, skips: SkipList) -> set[int]:
    """Report the files that cannot be used, and return their indices.

    The existence of all files is checked first, which is quick and reveals a wrong folder at once.

    Args:
        files: photos or clips.
        decode: whether files that exist are decoded, too.
        noun: what the files are called.
        skips: gets the files that cannot be used.

    Raises:
        InputError: too many files cannot be used.
    """

    def read_clip(index: int) -> None:
        sample_frames(files.paths[index], 1, files.roots[index])

    steps: list[tuple[str, Callable[[int], object]]] = [(f"looking for {noun}s", files.check)]
    if decode:
        steps.append((f"checking {noun}s", read_clip if noun == "clip" else files.read))
    usable = list(range(len(files)))
    unusable: set[int] = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for title, examine in steps:
            with Progress(title, len(usable)) as progress:
                for start in range(0, len(usable), _FILES_AT_A_TIME):
                    chunk = usable[start : start + _FILES_AT_A_TIME]
                    reasons = zip(chunk, pool.map(partial(_reason_against, examine), chunk), strict=True)
                    broken = {index: reason for index, reason in reasons if reason}
                    unusable |= broken.keys()
                    skips.report_all(files.skip(index, reason) for index, reason in broken.items())
                    progress.advance(len(chunk))
            usable = [index for index in usable if index not in unusable]
    return unusable


def _reason_against(examine: Callable[[int], object], index: int) -> str | None:
    try:
        examine(index)
    except MediaError as error:
        return str(error)
    return None
