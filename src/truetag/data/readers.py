"""Annotation files as they are published, read into manifest rows: COCO JSON, image-caption and image-tag tables.

`read_*` yield one row for every photo that a file names, whether or not the photo is there; `import_*` look for the
photos in a folder, write the manifest of those found, and list the others beside it. Tables are UTF-8 with or without
a byte-order mark.
"""

import csv
import difflib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetag.data.manifest import Row, relative_root, write_manifest
from truetag.errors import InputError
from truetag.files import write_text

DELIMITERS = ",|\t"


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote, and each photo it left out as (id, path, reason)."""

    num_rows: int
    skipped: list[tuple[str, str, str]]


def import_coco(
    annotations: Path, media_dir: Path, out: Path, *, categories: Path | None = None, split: str | None = None
) -> ImportSummary:
    """Write a manifest from a COCO `captions_*.json`.

    Args:
        annotations: the official captions file.
        media_dir: the folder that holds its photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        categories: the matching `instances_*.json`; its category names become `true_tags`.
        split: the split that every row belongs to.

    Raises:
        InputError: a file is not what it should be, or none of its photos is in `media_dir`.
    """
    return _write_import(read_coco(annotations, categories, split), annotations, media_dir, out)


def import_captions(annotations: Path, media_dir: Path, out: Path, *, split: str | None = None) -> ImportSummary:
    """Write a manifest from a table of one caption a line (Flickr8k style).

    Args:
        annotations: columns `image` and `caption`, and if wanted `split` and `group`; comma, bar or tab between them.
        media_dir: the folder that holds the photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        split: the split of every row that has none of its own.

    Raises:
        InputError: the table is not what it should be, or none of its photos is in `media_dir`.
    """
    return _write_import(read_captions(annotations, split), annotations, media_dir, out)


def import_tags(annotations: Path, media_dir: Path, out: Path, *, separator: str = ";") -> ImportSummary:
    """Write a manifest from a table of one photo a line.

    Args:
        annotations: columns `image` and `tags`, and if wanted `id`, `unknown_tags`, `split` and `group`.
        media_dir: the folder that holds the photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        separator: what stands between the tags of one photo.

    Raises:
        InputError: the table is not what it should be, or none of its photos is in `media_dir`.
    """
    return _write_import(read_tags(annotations, separator), annotations, media_dir, out)


def read_coco(annotations: Path, categories: Path | None = None, split: str | None = None) -> Iterator[Row]:
    """The photos of a COCO captions file, each with its captions in the order of their annotation ids.

    A caption of a photo that the file does not list is left out.
    """
    content = _read_json(annotations)
    captions: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for record in _records(annotations, content, "annotations", {"id": int, "image_id": int, "caption": str}):
        captions[record["image_id"]].append((record["id"], record["caption"].strip()))
    true_tags = None if categories is None else _category_names(categories)
    seen: set[int] = set()
    for record in _records(annotations, content, "images", {"id": int, "file_name": str}):
        image_id = record["id"]
        if image_id in seen:
            raise InputError(f"{annotations}: image id {image_id} is listed twice")
        seen.add(image_id)
        row: Row = {"id": str(image_id), "image": record["file_name"]}
        row["captions"] = [caption for _, caption in sorted(captions[image_id])]
        if true_tags is not None:
            row["true_tags"] = sorted(true_tags[image_id])
        yield row if split is None else row | {"split": split}


def read_captions(annotations: Path, split: str | None = None) -> Iterator[Row]:
    """The photos of an image-caption table in order of first appearance, each with its captions in file order."""
    rows: dict[str, Row] = {}
    for line, cells in _table(annotations, ("image", "caption"), ("split", "group")):
        details = _details(cells, {"split": split, "group": None})
        name = _image_name(annotations, line, cells)
        row = rows.setdefault(name, {"id": name, "image": name, "captions": [], **details})
        for key in ("split", "group"):
            if row.get(key) != details.get(key):
                got = f"{details.get(key)!r}, earlier {row.get(key)!r}"
                raise InputError(f"{annotations}, line {line}: {key} of {name!r} is {got}; expected one {key} a photo")
        if caption := cells["caption"].strip():
            row["captions"].append(caption)
    yield from rows.values()


def read_tags(annotations: Path, separator: str = ";") -> Iterator[Row]:
    """The photos of an image-tag table; its tags stripped, each once."""
    if not separator:
        raise InputError("separator: expected at least one character, got ''")
    first_line: dict[str, int] = {}
    for line, cells in _table(annotations, ("image", "tags"), ("id", "unknown_tags", "split", "group")):
        name = _image_name(annotations, line, cells)
        row: Row = {"id": cells.get("id", "").strip() or name, "image": name}
        if row["id"] in first_line:
            used = first_line[row["id"]]
            raise InputError(f"{annotations}, line {line}: id {row['id']!r} was already used on line {used}")
        first_line[row["id"]] = line
        for column in ("tags", "unknown_tags"):
            if column in cells:
                tags = (tag.strip() for tag in cells[column].split(separator))
                row[column] = list(dict.fromkeys(tag for tag in tags if tag))
        yield row | _details(cells, {"split": None, "group": None})


def _write_import(rows: Iterable[Row], annotations: Path, media_dir: Path, out: Path) -> ImportSummary:
    if not media_dir.is_dir():
        raise InputError(f"{media_dir}: no such folder of photos")
    found: list[Row] = []
    skipped: list[tuple[str, str, str]] = []
    for row in rows:
        path = media_dir / row["image"]
        if not path.is_file():
            skipped.append((row["id"], str(path), "photo not found"))
        elif row.get("captions") == []:
            skipped.append((row["id"], str(path), "no captions"))
        else:
            found.append(row)
    if not found:
        example = f"; the first of {len(skipped)}: {skipped[0][1]} ({skipped[0][2]})" if skipped else ""
        raise InputError(f"{annotations}: no photo of it can be used with {media_dir}{example}")
    num_rows = write_manifest(out, found, {"media_root": relative_root(media_dir, out)})
    beside = out.with_name(f"{out.stem}.skipped.jsonl")
    beside.unlink(missing_ok=True)  # that of an earlier import would tell of other photos
    if skipped:
        lines = [json.dumps(dict(zip(("id", "path", "reason"), entry, strict=True))) + "\n" for entry in skipped]
        write_text(beside, "".join(lines))
    return ImportSummary(num_rows, skipped)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such annotation file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a COCO object with 'images' and 'annotations', got {content!r:.60}")
    return content


def _records(path: Path, content: dict[str, Any], key: str, kinds: dict[str, type]) -> Iterator[dict[str, Any]]:
    """The list under `key`, each record checked to hold the wanted keys with values of the wanted kinds."""
    records = content.get(key)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a list under {key!r}; its keys are: {', '.join(content) or '(none)'}")
    for number, record in enumerate(records):
        for name, kind in kinds.items():
            if not isinstance(record, dict) or not isinstance(record.get(name), kind):
                got = f"{record!r:.60}" if not isinstance(record, dict) else f"{record.get(name)!r:.60}"
                raise InputError(f"{path}: {key}[{number}]: expected {name!r} ({kind.__name__}), got {got}")
        yield record


def _category_names(path: Path) -> defaultdict[int, set[str]]:
    content = _read_json(path)
    names = {record["id"]: record["name"] for record in _records(path, content, "categories", {"id": int, "name": str})}
    present: defaultdict[int, set[str]] = defaultdict(set)
    for record in _records(path, content, "annotations", {"image_id": int, "category_id": int}):
        if record["category_id"] not in names:
            raise InputError(f"{path}: an annotation has category_id {record['category_id']}, not one of 'categories'")
        present[record["image_id"]].add(names[record["category_id"]])
    return present


def _table(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table under a header, as (number of its last line, cell by column), without blank lines."""
    if not path.is_file():
        raise InputError(f"{path}: no such annotation file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count), strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(path, header, required, optional)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    place = f"{path}, line {reader.line_num}"
                    raise InputError(f"{place}: expected {len(header)} cells ({', '.join(header)}), got {len(cells)}")
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}: not a readable table ({error})") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error})") from None


def _check_header(path: Path, header: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in header]
    if missing or len(set(header)) < len(header):
        wanted = f"{', '.join(required)} (and optionally {', '.join(optional)})"
        raise InputError(f"{path}: expected a header with the columns {wanted}, each once, got {', '.join(header)!r}")
    for name in set(header) - {*required, *optional}:
        # other columns are welcome, but not one that was meant to be read
        if close := difflib.get_close_matches(name, set(optional) - set(header), 1, 0.8):
            raise InputError(f"{path}: unknown column {name!r}; did you mean {close[0]!r}?")


def _image_name(path: Path, line: int, cells: dict[str, str]) -> str:
    name = cells["image"].strip()
    if not name:
        raise InputError(f"{path}, line {line}: the image is empty")
    return name


def _details(cells: dict[str, str], defaults: dict[str, str | None]) -> Row:
    values = {name: cells.get(name, "").strip() or default for name, default in defaults.items()}
    return {name: value for name, value in values.items() if value is not None}
