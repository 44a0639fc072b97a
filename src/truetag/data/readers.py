"""Published annotation files, read into manifest rows: COCO and MSR-VTT JSON, image-caption and image-tag tables.

Each `read_*` yields one row for every photo or clip that the file names, whether or not the photo or clip exists.
Tables are UTF-8, with or without a byte-order mark.
"""

import csv
import difflib
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from truetag.data.rows import Row
from truetag.errors import InputError
from truetag.io.text import decode, one_line, parse_json, require_file, require_text, shown, text_lines

DELIMITERS = ",|\t"
CELL_LIMIT = 20_000_000  # characters; an unclosed quote would put the rest of the file into one cell


def read_coco(annotations: Path, categories: Path | None = None, split: str | None = None) -> Iterator[Row]:
    """The photos of a COCO captions file, each with its captions in the order of their annotation ids.

    A caption whose photo the file does not list is left out.
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
            raise InputError(f"{annotations}: image id {shown(image_id)} is listed twice")
        seen.add(image_id)
        row: Row = {"id": str(image_id), "image": record["file_name"]}
        row["captions"] = [caption for _, caption in sorted(captions[image_id])]
        if true_tags is not None:
            row["true_tags"] = sorted(true_tags[image_id])
        yield row if split is None else row | {"split": split}


def read_msrvtt(annotations: Path, split: str | None = None) -> Iterator[Row]:
    """The clips of an MSR-VTT `*_videodatainfo.json`, each with its captions in file order.

    `split` is given to every row; without it each row has its official split. A caption whose clip the file does not
    list is left out.
    """
    content = _read_json(annotations, "an MSR-VTT object with 'videos' and 'sentences'")
    captions: dict[str, list[str]] = defaultdict(list)
    for record in _records(annotations, content, "sentences", {"video_id": str, "caption": str}):
        captions[record["video_id"]].append(record["caption"].strip())
    seen: set[str] = set()
    for record in _records(annotations, content, "videos", {"video_id": str, "split": str}):
        name = record["video_id"]
        if not name:
            raise InputError(f"{annotations}: videos[{len(seen)}]: the video_id is empty")
        if name in seen:
            raise InputError(f"{annotations}: video_id {shown(name)} is listed twice")
        seen.add(name)
        official = "validation" if record["split"] == "validate" else record["split"]
        yield {"id": name, "video": f"{name}.mp4", "captions": captions[name], "split": split or official}


def read_captions(annotations: Path, split: str | None = None) -> Iterator[Row]:
    """The photos of an image-caption table in order of first appearance, each with its captions in file order.

    Raises:
        InputError: the table is malformed, or a photo has two splits or groups.
    """
    rows: dict[str, Row] = {}
    for line, cells in _table(annotations, ("image", "caption"), ("split", "group")):
        details = _details(cells, {"split": split, "group": None})
        name = _image_name(annotations, line, cells)
        row = rows.setdefault(name, {"id": name, "image": name, "captions": [], **details})
        for key in ("split", "group"):
            if row.get(key) != details.get(key):
                got = f"{shown(details.get(key))}, earlier {shown(row.get(key))}"
                location = f"{annotations}, line {line}"
                raise InputError(f"{location}: {key} of {shown(name)} is {got}; expected one {key} per photo")
        if caption := cells["caption"].strip():
            row["captions"].append(caption)
    yield from rows.values()


def read_tags(annotations: Path, separator: str = ";") -> Iterator[Row]:
    """The photos of an image-tag table, each with its distinct tags, stripped of spaces.

    Raises:
        InputError: the table is malformed, an id is used twice, or `separator` is empty.
    """
    if not separator:
        raise InputError("separator: expected at least one character, got ''")
    first_line: dict[str, int] = {}
    for line, cells in _table(annotations, ("image", "tags"), ("id", "unknown_tags", "split", "group")):
        name = _image_name(annotations, line, cells)
        row: Row = {"id": cells.get("id", "").strip() or name, "image": name}
        if row["id"] in first_line:
            first = first_line[row["id"]]
            raise InputError(f"{annotations}, line {line}: id {shown(row['id'])} was already used on line {first}")
        first_line[row["id"]] = line
        for column in ("tags", "unknown_tags"):
            if column in cells:
                tags = (tag.strip() for tag in cells[column].split(separator))
                row[column] = list(dict.fromkeys(tag for tag in tags if tag))
        yield row | _details(cells, {"split": None, "group": None})


_COCO = "a COCO object with 'images' and 'annotations'"


def _read_json(path: Path, expected: str = _COCO) -> dict[str, Any]:
    require_file(path, "annotation file")
    encoded = path.read_bytes()
    require_text(path, encoded[:64])
    text = decode(str(path), encoded).removeprefix("\ufeff")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error}); got {shown(text[:80])}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {expected}, got {shown(content)}")
    return content


def _records(path: Path, content: dict[str, Any], key: str, kinds: dict[str, type]) -> Iterator[dict[str, Any]]:
    """The records listed under `key`, each checked.

    Args:
        path: the file, for messages.
        content: the file's JSON object.
        key: where the list stands.
        kinds: the keys that each record must have, with the type of their values.
    """
    records = content.get(key)
    if not isinstance(records, list):
        got = shown(records) if key in content else f"the keys {shown(list(content))}"
        raise InputError(f"{path}: expected a list under {key!r}, got {got}")
    for number, record in enumerate(records):
        for name, kind in kinds.items():
            value = record.get(name) if isinstance(record, dict) else record
            if not isinstance(record, dict) or not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"{path}: {key}[{number}]: expected {name!r} ({kind.__name__}), got {shown(value)}")
        yield record


def _category_names(path: Path) -> defaultdict[int, set[str]]:
    content = _read_json(path)
    names: dict[int, str] = {}
    for record in _records(path, content, "categories", {"id": int, "name": str}):
        if names.setdefault(record["id"], record["name"]) != record["name"]:
            got = f"{shown(names[record['id']])} and {shown(record['name'])}"
            raise InputError(f"{path}: category id {shown(record['id'])} has the names {got}, expected one")
    present: defaultdict[int, set[str]] = defaultdict(set)
    for record in _records(path, content, "annotations", {"image_id": int, "category_id": int}):
        if record["category_id"] not in names:
            got = shown(record["category_id"])
            raise InputError(f"{path}: an annotation has category_id {got}, not one of 'categories'")
        present[record["image_id"]].add(names[record["category_id"]])
    return present


def _table(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The records of a table with a header, blank lines left out: the number of a record's last line, and its cells."""
    require_file(path, "annotation file")
    csv.field_size_limit(max(csv.field_size_limit(), CELL_LIMIT))  # the limit is global to the process
    lines = _lines_without_nul(path)
    start: list[str] = []
    for text in lines:
        start.append(text)
        if text.strip():
            break
    delimiter = max(DELIMITERS, key=start[-1].count) if start else ","
    reader = csv.reader(chain(start, lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1  # where the current record begins
    try:
        for cells in reader:
            if not header and any(cells):
                header = [name.strip().lower() for name in cells]
                _check_header(path, header, required, optional)
            elif cells:
                if len(cells) != len(header):
                    location = f"{path}, line {reader.line_num}"
                    names = one_line(", ".join(header), 80)
                    raise InputError(f"{location}: expected {len(header)} cells ({names}), got {len(cells)}")
                yield reader.line_num, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        hint = "is a quote left open, or not doubled within quotes?"
        raise InputError(f"{path}, line {line}: not a readable table ({one_line(error)}); {hint}") from None
    if not header:
        _check_header(path, header, required, optional)


def _lines_without_nul(path: Path) -> Iterator[str]:
    for line, text in text_lines(path):
        if "\0" in text:
            raise InputError(f"{path}, line {line}: expected text, got a NUL character in {shown(text)}")
        yield text


def _check_header(path: Path, header: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    """Check the columns of a table.

    Args:
        path: the file, for messages.
        header: its columns, in lower case.
        required: the columns that must be there.
        optional: the columns that are read if they are there.
    """
    missing = [name for name in required if name not in header]
    if missing or len(set(header)) < len(header):
        expected = f"{', '.join(required)} (and optionally {', '.join(optional)})"
        got = shown(", ".join(header))
        raise InputError(f"{path}: expected a header with the columns {expected}, each once, got {got}")
    for name in set(header) - {*required, *optional}:
        # other columns are ignored, but this one may be a misspelt one of ours
        if close := difflib.get_close_matches(name[:40], set(optional) - set(header), 1, 0.8):
            raise InputError(f"{path}: unknown column {shown(name)}; did you mean {close[0]!r}?")


def _image_name(path: Path, line: int, cells: dict[str, str]) -> str:
    name = cells["image"].strip()
    if not name:
        raise InputError(f"{path}, line {line}: the image is empty")
    return name


def _details(cells: dict[str, str], defaults: dict[str, str | None]) -> Row:
    """The optional cells that are not empty, or their defaults that are not None."""
    values = {name: cells.get(name, "").strip() or default for name, default in defaults.items()}
    return {name: value for name, value in values.items() if value is not None}
