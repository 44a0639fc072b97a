"""Published annotation files, read into manifest rows: COCO, Karpathy's splits, MSR-VTT, Open Images, class folders.

Each `read_*` gives one row for every photo or clip that the file names, whether or not the photo or clip exists.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truetag.data.columns import is_media_name
from truetag.data.rows import ANY_TAG, ImportedRows, Problem, Row, split_named
from truetag.data.table_rows import CaptionOptions, media_field, read_captions, table_problems
from truetag.data.tables import as_text, read_table
from truetag.errors import InputError
from truetag.io.text import counted, read_json, require_file, shown
from truetag.media.names import list_files

_COCO = "a COCO object with 'images' and 'annotations'"
_MSRVTT = "an MSR-VTT object with 'videos' and 'sentences', or a list of objects with 'video_id' and 'caption'"


def read_coco(annotations: Path, categories: Path | None = None) -> ImportedRows:
    """The photos of a COCO file: of captions, in the order of their annotation ids, or of instances, as tags.

    Annotations of photos that the file does not list are left out.

    Args:
        annotations: captions or instances.
        categories: instances of the same photos; the names of their categories become `true_tags`. A photo that they
            do not list gets none.

    Raises:
        InputError: a file breaks the rules of its format, or the categories are of other photos.
    """
    content = _read_json(annotations)
    photos: dict[int, str] = {}
    for record in _records(annotations, content, "images", {"id": int, "file_name": str}):
        if record["id"] in photos:
            raise InputError(f"{annotations}: image id {shown(record['id'])} is listed twice")
        photos[record["id"]] = record["file_name"]
    rows: dict[int, Row] = {number: {"id": str(number), "image": name} for number, name in photos.items()}
    problems: list[Problem] = []
    for number, name in photos.items():
        if not name.strip():
            problems.append(Problem(0, f"image {number} has no file_name"))
            del rows[number]
    notes: list[str] = []
    if _is_instances(content):
        if categories is not None:
            raise InputError(f"categories: expected captions beside them, got instances in {annotations}")
        names = _category_names(annotations, content)
        for number, row in rows.items():
            row["tags"] = sorted(names[number])
        notes.append(f"COCO instances: {len(content['categories'])} categories as tags")
    else:
        captions: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
        for record in _records(annotations, content, "annotations", {"id": int, "image_id": int, "caption": str}):
            captions[record["image_id"]].append((record["id"], record["caption"].strip()))
        for number, row in rows.items():
            row["captions"] = [caption for _, caption in sorted(captions[number])]
        notes.append("COCO captions")
    if categories is not None:
        notes.append(_add_true_tags(annotations, rows, categories))
    return ImportedRows(list(rows.values()), notes, problems)


def read_karpathy(annotations: Path) -> ImportedRows:
    """The photos of one of Karpathy's `dataset_*.json` with its splits; `restval` is for training.

    Raises:
        InputError: the file breaks the rules of its format.
    """
    content = _read_json(annotations, "an object with 'images', each with 'filename', 'split' and 'sentences'")
    rows: dict[str, Row] = {}
    records = _records(annotations, content, "images", {"filename": str, "split": str, "sentences": list})
    for number, record in enumerate(records):
        folder = record.get("filepath")
        name = f"{folder}/{record['filename']}" if isinstance(folder, str) and folder else record["filename"]
        kinds = {"raw": str}
        sentences = _records(annotations, record, "sentences", kinds, f"images[{number}].")
        captions = [sentence["raw"].strip() for sentence in sentences]
        if name in rows:
            raise InputError(f"{annotations}: filename {shown(name)} is listed twice")
        rows[name] = {
            "id": name,
            "image": name,
            "captions": [caption for caption in captions if caption],
            "split": split_named(record["split"]),
        }
    return ImportedRows(list(rows.values()), ["Karpathy's captions with their splits"], [])


def read_msrvtt(annotations: Path) -> ImportedRows:
    """The clips of MSR-VTT, each with its captions in file order and its official split, where the file gives it.

    The official `*_videodatainfo.json` is read, and lists of records (JSON, JSON Lines, CSV) as mirrors have them. A
    caption whose clip the official file does not list is left out.

    Raises:
        InputError: the file breaks the rules of its format.
    """
    require_file(annotations, "annotation file")
    if annotations.suffix.lower() != ".json" or _starts_with_list(annotations):
        return _with_clips(read_captions(annotations, CaptionOptions()))
    content = _read_json(annotations, _MSRVTT)
    captions: dict[str, list[str]] = defaultdict(list)
    for record in _records(annotations, content, "sentences", {"video_id": str, "caption": str}):
        captions[record["video_id"]].append(record["caption"].strip())
    rows: dict[str, Row] = {}
    for number, record in enumerate(_records(annotations, content, "videos", {"video_id": str})):
        name, split = record["video_id"], record.get("split")
        if not name:
            raise InputError(f"{annotations}: videos[{number}]: the video_id is empty")
        if name in rows:
            raise InputError(f"{annotations}: video_id {shown(name)} is listed twice")
        if split is not None and not isinstance(split, str):
            raise InputError(f"{annotations}: videos[{number}]: expected 'split' (str), got {shown(split)}")
        rows[name] = {"id": name, "video": f"{name}.mp4", "captions": captions[name]}
        if split:
            rows[name]["split"] = split_named(split)
    return ImportedRows(list(rows.values()), ["MSR-VTT"], [])


def read_open_images(annotations: Path, classes: Path | None = None) -> ImportedRows:
    """The photos of a label table of Open Images: ImageID, LabelName, Confidence.

    Confidence 1 is a tag. Confidence 0 is a tag that a person found absent (`rejected_tags`). All other tags of a photo
    are unknown.

    Args:
        annotations: `*-annotations-human-imagelabels*.csv`.
        classes: `class-descriptions*.csv`, which gives the labels their names.

    Raises:
        InputError: a file is no table, or lacks these columns.
    """
    table = read_table(annotations)
    wanted = ("ImageID", "LabelName", "Confidence")
    if missing := [name for name in wanted if name not in table.columns]:
        got = shown(", ".join(table.columns))
        raise InputError(f"{annotations}: expected the columns {', '.join(wanted)}, got {got}, without {missing[0]}")
    names = {} if classes is None else _class_names(classes)
    rows: dict[str, Row] = {}
    problems = table_problems(table)
    for line, cells in table.records:
        image, label, confidence = (as_text(cells.get(name)) for name in wanted)
        if not image or not label or confidence not in ("0", "1", "0.0", "1.0"):
            got = shown(f"{image}, {label}, {confidence}")
            problems.append(Problem(line, f"expected a photo, a label and a confidence of 0 or 1, got {got}"))
            continue
        if classes is not None and label not in names:
            problems.append(Problem(line, f"{classes} has no name for {shown(label)}"))
            continue
        row = rows.setdefault(
            image,
            {"id": image, "image": f"{image}.jpg", "tags": [], "rejected_tags": [], "unknown_tags": [ANY_TAG]},
        )
        tags = row["tags" if confidence.startswith("1") else "rejected_tags"]
        if (name := names.get(label, label)) not in tags:
            tags.append(name)
    return ImportedRows(list(rows.values()), ["Open Images: what nobody verified is unknown"], problems)


def read_folders(media_dir: Path) -> ImportedRows:
    """The photos and clips in the folders of their classes: each folder's name is a tag of everything below it.

    Where the upper folders are called train, validation or test, they are the splits.

    Raises:
        InputError: there is no such folder, or no photo lies in a folder of it.
    """
    if not media_dir.is_dir():
        raise InputError(f"{media_dir}: no such folder of photos")
    rows: list[Row] = []
    num_loose = 0
    upper = {split_named(path.name) for path in media_dir.iterdir() if path.is_dir()}
    has_splits = upper <= {"train", "validation", "test"}
    num_others = 0
    for name in list_files(media_dir):
        parts = tuple(name.split("/"))
        if not is_media_name(name):
            num_others += 1
            continue
        split, folders = (parts[0], parts[1:-1]) if has_splits and len(parts) > 1 else (None, parts[:-1])
        if not folders:
            num_loose += 1
        else:
            row: Row = {"id": name, media_field(name): name, "tags": list(dict.fromkeys(folders))}
            rows.append(row | ({"split": split_named(split)} if split else {}))
    if not rows:
        raise InputError(f"{media_dir}: expected photos in folders that are named like their tags, got none in folders")
    notes = [f"{len({tag for row in rows for tag in row['tags']})} names of folders as tags"]
    if has_splits:
        notes.append("the upper folders are splits")
    left_out = [(num_loose, "photo", "outside folders"), (num_others, "file", "of other kinds")]
    notes += [f"{counted(number, noun)} {where} left out" for number, noun, where in left_out if number]
    return ImportedRows(rows, notes, [])


def _with_clips(imported: ImportedRows) -> ImportedRows:
    """The rows with names of clips; names without a suffix get the usual one."""
    rows = []
    for row in imported.rows:
        name = row.pop("image", None) or row.pop("video")
        split = split_named(row.get("split"))
        clip = name if is_media_name(name) else f"{name}.mp4"
        rows.append(row | {"video": clip} | ({"split": split} if split else {}))
    return imported._replace(rows=rows)


def _add_true_tags(annotations: Path, rows: dict[int, Row], categories: Path) -> str:
    content = _read_json(categories)
    names = _category_names(categories, content)
    listed = content.get("images")
    covered = rows.keys()
    if isinstance(listed, list) and listed:
        covered &= {record["id"] for record in _records(categories, content, "images", {"id": int})}
    if not covered or not covered & names.keys():
        raise InputError(f"{categories}: expected instances of the photos in {annotations}, got those of other photos")
    for number in covered:
        rows[number]["true_tags"] = sorted(names[number])
    missing = len(rows) - len(covered)
    return "true tags from the categories" + (f"; {missing} photos are not in them and have none" if missing else "")


def _is_instances(content: dict[str, Any]) -> bool:
    records = content.get("annotations")
    first = records[0] if isinstance(records, list) and records else None
    return isinstance(first, dict) and "category_id" in first and "caption" not in first


def _category_names(path: Path, content: dict[str, Any]) -> defaultdict[int, set[str]]:
    """The names of the categories in each photo."""
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


def _class_names(classes: Path) -> dict[str, str]:
    table = read_table(classes, header=False)
    if len(table.columns) != 2:
        raise InputError(f"{classes}: expected two columns (label, name), got {len(table.columns)}")
    return {as_text(cells["1"]): as_text(cells["2"]) for _, cells in table.records}


def _starts_with_list(path: Path) -> bool:
    with path.open("rb") as file:
        return re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", file.read(256)) is not None


def _read_json(path: Path, expected: str = _COCO) -> dict[str, Any]:
    require_file(path, "annotation file")
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {expected}, got {shown(content)}")
    return content


def _records(
    path: Path, content: dict[str, Any], key: str, kinds: dict[str, type], prefix: str = ""
) -> Iterator[dict[str, Any]]:
    """The records listed under `key`, each checked.

    Args:
        path: the file, for messages.
        content: the JSON object that holds the list.
        key: where the list stands.
        kinds: the keys that each record must have, with the type of their values.
        prefix: where the object stands, for messages.
    """
    records = content.get(key)
    if not isinstance(records, list):
        got = shown(records) if key in content else f"the keys {shown(list(content))}"
        raise InputError(f"{path}: expected a list under {key!r}, got {got}")
    for number, record in enumerate(records):
        for name, kind in kinds.items():
            value = record.get(name) if isinstance(record, dict) else record
            if not isinstance(record, dict) or not isinstance(value, kind) or isinstance(value, bool):
                where = f"{prefix}{key}[{number}]"
                raise InputError(f"{path}: {where}: expected {name!r} ({kind.__name__}), got {shown(value)}")
        yield record
