"""From the rows of annotations and a folder of media to a manifest, and what to say of it.

Rows and files that cannot be used are listed beside the manifest, in MANIFEST.jsonl.skipped.jsonl.
"""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from truetag.data.columns import is_clip_name
from truetag.data.embeddings import NO_FEATURES, is_embeddings, open_embeddings
from truetag.data.manifest import Row, relative_root, write_manifest
from truetag.data.parts_of_speech import CLOSED_WORDS
from truetag.data.rows import MEDIA_FIELDS, ImportedRows, split_named
from truetag.data.tables import BLANK
from truetag.data.words import is_number_or_letter, normalise, tokenise
from truetag.errors import InputError
from truetag.io.files import refuse_existing, refuse_overwriting
from truetag.io.terminal import Progress
from truetag.io.text import counted, one_line, shown
from truetag.media.clips import sample_frames
from truetag.media.files import MAX_SKIPPED, MediaFiles, Reading, SkipList, Skipped
from truetag.media.names import describe_names, find_files
from truetag.media.photos import MediaError

_FILES_AT_A_TIME = 256
_NUM_FREQUENT = 10


@dataclass(frozen=True)
class ImportOptions:
    """What an import does besides reading."""

    split: str | None = None
    """The split of every row that has none of its own."""
    max_skipped: float = MAX_SKIPPED
    """Stop if more than this share of the rows and photos cannot be used."""
    check: bool = True
    """Decode every photo, or a frame of every clip, once; without it, only check that the files exist."""
    allow_outside: bool = False
    """Take files outside the media folder, which links or names with `..` may lead to."""
    overwrite: bool = False
    """Replace `out` if it exists."""


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote and left out."""

    num_rows: int
    skipped: list[Skipped]
    notes: list[str]
    """What a person should check, a line each."""


def write_imported(
    imported: ImportedRows, annotations: Path, media_dir: Path, out: Path, options: ImportOptions
) -> ImportSummary:
    """Find the files of the rows, look at them, and write what can be used.

    Args:
        imported: the rows.
        annotations: where they come from.
        media_dir: the folder that their names are relative to, or a file of embeddings with their ids.
        out: the manifest.
        options: what else to do.
    """
    refuse_overwriting(out, annotations)
    refuse_existing(out, options.overwrite)
    if media_dir.is_file() and is_embeddings(media_dir):
        return _write_embedded(imported, annotations, media_dir, out, options)
    if not media_dir.is_dir():
        raise InputError(f"{media_dir}: no such folder of photos or clips, or file of embeddings")
    reading = Reading(max_skipped=options.max_skipped, allow_outside=options.allow_outside)
    rows = imported.rows
    skips = SkipList(options.max_skipped, len(rows) + sum(reason != BLANK for _, reason in imported.problems))
    _report_problems(imported, annotations, skips)
    found = find_files(media_dir, [_medium(row) for row in rows])
    rows = [_with_file(row, file.name) for row, file in zip(rows, found, strict=True)]
    root = reading.fence(media_dir)
    files = MediaFiles([row["id"] for row in rows], [media_dir / _medium(row) for row in rows], [root] * len(rows))
    hints = {index: file.hint for index, file in enumerate(found) if file.name is None and file.hint}
    unusable = _find_unusable(files, options.check, hints, skips)
    silent = {index for index, row in enumerate(rows) if row.get("captions") == []} - unusable
    for index in sorted(silent):
        skips.list_only(files.skip(index, "no captions"))
    usable = [row for index, row in enumerate(rows) if index not in unusable | silent]
    if not usable:
        first = next(iter(skips), None)
        example = f"; the first of {len(skips)}: {first.path} ({first.reason})" if first else ""
        raise InputError(f"{annotations}: no photo or clip of it can be used with {media_dir}{example}")
    return _write(usable, [*imported.notes, *describe_names(found)], media_dir, out, options, skips)


def _write_embedded(
    imported: ImportedRows, annotations: Path, path: Path, out: Path, options: ImportOptions
) -> ImportSummary:
    """Write the rows that have embeddings, which are found by their ids or, where the file has none, by their order.

    Args:
        imported: the rows.
        annotations: where they come from.
        path: the file of embeddings.
        out: the manifest.
        options: what else to do.
    """
    refuse_overwriting(out, path)
    embeddings, ids = open_embeddings(path), [row["id"] for row in imported.rows]
    skips = SkipList(options.max_skipped, len(ids) + sum(reason != BLANK for _, reason in imported.problems))
    _report_problems(imported, annotations, skips)
    if embeddings.ids is None and imported.problems:
        raise InputError(
            f"{annotations}: expected no row that cannot be used, as {path} has no ids and its order counts, got "
            f"{len(imported.problems)}: line {imported.problems[0].line} has {imported.problems[0].reason}"
        )
    numbers = embeddings.rows_of(ids, f"rows of {annotations}").tolist()
    skips.report_all(Skipped(name, path, NO_FEATURES) for name, number in zip(ids, numbers, strict=True) if number < 0)
    usable = [
        {name: value for name, value in row.items() if name not in MEDIA_FIELDS} | {"features": f"{path.name}#{number}"}
        for row, number in zip(imported.rows, numbers, strict=True)
        if number >= 0
    ]
    unused = len(embeddings.array) - len(usable)
    how = "by their order" if embeddings.ids is None else "by their ids"
    notes = [
        *imported.notes,
        f"embeddings of {embeddings.array.shape[1]} numbers, {how}; not used: {unused} of the file",
    ]
    return _write(usable, notes, path.parent, out, options, skips)


def _report_problems(imported: ImportedRows, annotations: Path, skips: SkipList) -> None:
    for line, reason in imported.problems:
        entry = Skipped(f"line {line}" if line else "", annotations, reason)
        skips.list_only(entry) if reason == BLANK else skips.report(entry)


def _write(
    rows: list[Row], notes: list[str], root: Path, out: Path, options: ImportOptions, skips: SkipList
) -> ImportSummary:
    """Write the rows and the list of what was skipped.

    Args:
        rows: what can be used.
        notes: how it was read.
        root: the folder that the names of files are relative to.
        out: the manifest.
        options: the split of rows that have none.
        skips: what cannot be used.
    """
    rows = [row | {"split": split} if (split := _split_of(row, options)) else row for row in rows]
    num_rows = write_manifest(out, rows, {"media_root": relative_root(root, out)})
    listing = out.with_name(f"{out.name}.skipped.jsonl")
    skips.write(listing)
    notes = [*notes, *_describe_labels(rows), *_describe_splits(rows)]
    if len(skips):
        notes.append(f"{len(skips)} skipped ({skips.count_reasons()}), listed in {listing}")
    return ImportSummary(num_rows, list(skips), notes)


def format_summary(summary: ImportSummary) -> str:
    """The number of rows, and what a person should check."""
    return "\n".join([counted(summary.num_rows, "row"), *(f"  {note}" for note in summary.notes)])


def _medium(row: Row) -> str:
    return row.get("image") or row["video"]


def _split_of(row: Row, options: ImportOptions) -> str | None:
    return split_named(row.get("split") or options.split)


def _with_file(row: Row, name: str | None) -> Row:
    """The row with the name of the file that was found; its field follows from that name."""
    if name is None:
        return row
    field = "image" if "image" in row else "video"
    return {key: name if key == field else value for key, value in row.items()}


def _describe_labels(rows: list[Row]) -> list[str]:
    """How many captions and tags there are, and the most frequent ones."""
    notes = []
    captions = [caption for row in rows for caption in row.get("captions") or []]
    if captions:
        named = (word for text in captions for word in set(tokenise(text)))
        words = Counter(word for word in named if not (word in CLOSED_WORDS or is_number_or_letter(word)))
        notes.append(f"{counted(len(captions), 'caption')}; most frequent words: {_frequent(words)}")
    tagged = [row["tags"] for row in rows if row.get("tags") is not None]
    if tagged:
        tags = Counter(tag for tags in tagged for tag in {normalise(tag) for tag in tags})
        notes.append(f"{counted(tags.total(), 'tag')}, {len(tags)} of them distinct; most frequent: {_frequent(tags)}")
        notes.append(f"{counted(sum(not tags for tags in tagged), 'row')} without tags")
    if num_true := sum(row.get("true_tags") is not None for row in rows):
        notes.append(f"true tags of {counted(num_true, 'row')}: to evaluate by, never to train on")
    return notes


def _describe_splits(rows: list[Row]) -> list[str]:
    sizes = Counter(row.get("split") or "(none)" for row in rows)
    listed = ", ".join(f"{shown(name).strip(chr(39))} {size}" for name, size in sizes.most_common())
    return [f"splits: {one_line(listed)}"] if sizes.keys() != {"(none)"} else []


def _frequent(counts: Counter[str]) -> str:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NUM_FREQUENT]
    return one_line(", ".join(f"{name} {count}" for name, count in ranked), 240)


def _find_unusable(files: MediaFiles, decode: bool, hints: dict[int, str], skips: SkipList) -> set[int]:
    """Report the files that cannot be used, and return their indices.

    The existence of all files is checked first, which is quick and reveals a wrong folder at once.

    Args:
        files: photos or clips.
        decode: whether files that exist are decoded, too.
        hints: what a file that is not there may be called, by index.
        skips: gets the files that cannot be used.

    Raises:
        InputError: too many files cannot be used.
    """

    def read(index: int) -> None:
        if is_clip_name(files.paths[index].name):
            sample_frames(files.paths[index], 1, files.roots[index])
        else:
            files.read(index)

    steps: list[tuple[str, Callable[[int], object]]] = [("looking for files", files.check)]
    if decode:
        steps.append(("checking files", read))
    usable = list(range(len(files)))
    unusable: set[int] = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for title, examine in steps:
            with Progress(title, len(usable)) as progress:
                for start in range(0, len(usable), _FILES_AT_A_TIME):
                    chunk = usable[start : start + _FILES_AT_A_TIME]
                    reasons = zip(chunk, pool.map(partial(_reason_against, examine), chunk), strict=True)
                    broken = {index: hints.get(index, reason) for index, reason in reasons if reason}
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
