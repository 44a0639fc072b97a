"""`truetag import`: published annotations and a folder of media become a manifest of the photos that can be used.

Clips are treated alike. The others are listed beside it, in MANIFEST.jsonl.skipped.jsonl.
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
from truetag.media.files import MAX_SKIPPED, Photos, Skipped, check_share, write_skipped
from truetag.media.photos import MediaError

_PHOTOS_AT_A_TIME = 256
_NOUNS = {"image": "photo", "video": "clip"}


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote, and each photo it left out."""

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
        split: the split that every row belongs to.
        max_skipped: stop if more than this share of the photos cannot be used.
        check_photos: decode every photo once; without it only their files are looked for.
        allow_outside: take photos that lie outside `media_dir`, where links or names with `..` lead.

    Raises:
        InputError: a file is not what it should be, or too many photos cannot be used.
    """
    rows = read_coco(annotations, categories, split)
    return _import(rows, annotations, media_dir, out, max_skipped, check_photos, allow_outside)


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
    """Write a manifest from a table of one caption a line (Flickr8k style).

    Args:
        annotations: columns `image` and `caption`, and if wanted `split` and `group`; comma, bar or tab between them.
        media_dir: the folder that holds the photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        split: the split of every row that has none of its own.
        max_skipped: stop if more than this share of the photos cannot be used.
        check_photos: decode every photo once; without it only their files are looked for.
        allow_outside: take photos that lie outside `media_dir`, where links or names with `..` lead.

    Raises:
        InputError: the table is not what it should be, or too many photos cannot be used.
    """
    rows = read_captions(annotations, split)
    return _import(rows, annotations, media_dir, out, max_skipped, check_photos, allow_outside)


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
    """Write a manifest from a table of one photo a line.

    Args:
        annotations: columns `image` and `tags`, and if wanted `id`, `unknown_tags`, `split` and `group`.
        media_dir: the folder that holds the photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        separator: what stands between the tags of one photo.
        max_skipped: stop if more than this share of the photos cannot be used.
        check_photos: decode every photo once; without it only their files are looked for.
        allow_outside: take photos that lie outside `media_dir`, where links or names with `..` lead.

    Raises:
        InputError: the table is not what it should be, or too many photos cannot be used.
    """
    rows = read_tags(annotations, separator)
    return _import(rows, annotations, media_dir, out, max_skipped, check_photos, allow_outside)


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
        media_dir: the folder that holds its clips: `video0.mp4` and so on; .webm, .avi and .mkv are looked for, too.
        out: the manifest to write (`.jsonl` or `.parquet`).
        split: the split that every row belongs to; without it the official ones (train, validation, test).
        max_skipped: stop if more than this share of the clips cannot be used.
        check_clips: decode a frame of every clip; without it only their files are looked for.
        allow_outside: take clips that lie outside `media_dir`, where links or names with `..` lead.

    Raises:
        InputError: the file is not what it should be, none of its clips is there, or too many cannot be used.
    """
    rows = list(read_msrvtt(annotations, split))
    if media_dir.is_dir():
        _find_suffixes(rows, annotations, media_dir)
    return _import(rows, annotations, media_dir, out, max_skipped, check_clips, allow_outside, "video")


def _find_suffixes(rows: list[Row], annotations: Path, media_dir: Path) -> None:
    """Give the clips the names that they have in the folder."""
    names = {path.name for path in media_dir.iterdir()}
    found = 0
    for row in rows:
        there = [name for suffix in CLIP_SUFFIXES if (name := row["id"] + suffix) in names]
        row["video"] = there[0] if there else row["video"]
        found += bool(there)
    if rows and not found:
        wanted = f"files such as {shown(rows[0]['video'])} (or {', '.join(CLIP_SUFFIXES[1:])})"
        raise InputError(f"{media_dir}: holds none of the {len(rows)} clips of {annotations}; expected {wanted}")


def _import(
    rows: Iterable[Row],
    annotations: Path,
    media_dir: Path,
    out: Path,
    max_skipped: float,
    check_photos: bool,
    allow_outside: bool,
    field: Literal["image", "video"] = "image",
) -> ImportSummary:
    noun = _NOUNS[field]
    check_share(max_skipped)
    refuse_overwriting(out, annotations)
    if not media_dir.is_dir():
        raise InputError(f"{media_dir}: no such folder of {noun}s")
    listed = list(rows)
    root = None if allow_outside else media_dir.resolve()
    photos = Photos([row["id"] for row in listed], [media_dir / row[field] for row in listed], [root] * len(listed))
    unusable = _find_unusable(photos, max_skipped, check_photos, noun)
    uncaptioned = {position: "no captions" for position, row in enumerate(listed) if row.get("captions") == []}
    reasons = uncaptioned | unusable
    skipped = photos.skip_all(reasons)
    found = [row for position, row in enumerate(listed) if position not in reasons]
    if not found:
        example = f"; the first of {len(skipped)}: {skipped[0].path} ({skipped[0].reason})" if skipped else ""
        raise InputError(f"{annotations}: no {noun} of it can be used with {media_dir}{example}")
    num_rows = write_manifest(out, found, {"media_root": relative_root(media_dir, out)})
    write_skipped(out.with_name(f"{out.name}.skipped.jsonl"), skipped, len(listed))
    return ImportSummary(num_rows, skipped)


def _find_unusable(photos: Photos, max_skipped: float, decode: bool, noun: str) -> dict[int, str]:
    """Position -> reason. All files are looked for first, which is quick and tells of a wrong folder at once."""
    reasons: dict[int, str] = {}
    positions = list(range(len(photos)))

    def read_clip(position: int) -> None:
        sample_frames(photos.paths[position], 1, photos.roots[position])

    steps = [
        (f"looking for {noun}s", photos.check),
        (f"checking {noun}s", read_clip if noun == "clip" else photos.read),
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for what, examine in steps if decode else steps[:1]:
            with Progress(what, len(positions)) as progress:
                for start in range(0, len(positions), _PHOTOS_AT_A_TIME):
                    some = positions[start : start + _PHOTOS_AT_A_TIME]
                    found = zip(some, pool.map(partial(_reason_against, examine), some), strict=True)
                    reasons |= {position: reason for position, reason in found if reason}
                    photos.check_reasons(reasons, max_skipped)
                    progress.advance(len(some))
            positions = [position for position in positions if position not in reasons]
    return reasons


def _reason_against(examine: Callable[[int], object], position: int) -> str | None:
    try:
        examine(position)
    except MediaError as error:
        return str(error)
    return None
