"""The fields of a manifest's row, and the rules that rows and Parquet columns obey."""

import difflib
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from truetag.errors import InputError
from truetag.io.text import one_line, shown

TEXT_FIELDS = ("id", "image", "video", "features", "split", "group")
LIST_FIELDS = (
    *("frames", "captions", "tags", "tag_sources", "unknown_tags", "verified_tags", "rejected_tags"),
    *("true_captions", "true_tags", "changes"),
)
PROBABILITIES = "tag_probabilities"
"""The one field that is an object: a probability for each of some tags. In Parquet, a list of tag and probability."""
FIELDS = (*TEXT_FIELDS, *LIST_FIELDS, PROBABILITIES)
ANY_TAG = "*"
"""In `unknown_tags`: every tag that the row does not name."""
MEDIA_FIELDS = ("image", "frames", "video", "features")

Row = dict[str, Any]

_USUAL_SPLITS = {"train": "train", "training": "train", "restval": "train", "test": "test", "testing": "test"}
_USUAL_SPLITS |= dict.fromkeys(("val", "valid", "validate", "validation", "dev", "eval"), "validation")


class Problem(NamedTuple):
    """A record of an annotation file that cannot be used: its line (0 if it has none), and why."""

    line: int
    reason: str


class ImportedRows(NamedTuple):
    """The rows of an annotation file, whether or not their photos exist."""

    rows: list[Row]
    notes: list[str]
    """How the file was read, for a person to check."""
    problems: list[Problem]


_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_LIST_TYPES = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)


def split_named(name: str | None) -> str | None:
    """A split by the name that truetag uses, for the usual names of training, validation and test; others stay.

    >>> [split_named(name) for name in ("val", "Dev", "training", "testing", "fold 3", None)]
    ['validation', 'validation', 'train', 'test', 'fold 3', None]
    """
    return None if name is None else _USUAL_SPLITS.get(name.strip().lower(), name)


def media_name(row: Row) -> str | None:
    """The file of a row, as the manifest names it: its photo or clip, or the first of its frames."""
    return row.get("image") or row.get("video") or next(iter(row.get("frames") or ()), None)


def is_header(first: Row) -> bool:
    """Whether the first object of a file is a header: it has none of a row's fields."""
    return not any(name in FIELDS for name in first)


def check_row(location: str, row: Row) -> None:
    """Check one row; `location` names its file and line in the message.

    Raises:
        InputError: a field is unknown or of a wrong type, the id is missing, or there is not exactly one medium.
    """
    for name, value in row.items():
        if value is None:
            continue
        if name not in FIELDS:
            raise InputError(f"{location}: unknown field {shown(name)}; {_hint(name)}")
        if name in TEXT_FIELDS and not isinstance(value, str):
            raise InputError(f"{location}: {name} must be text, got {shown(value)}")
        if name in LIST_FIELDS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise InputError(f"{location}: {name} must be a list of texts, got {shown(value)}")
    if (probabilities := row.get(PROBABILITIES)) is not None:
        _check_probabilities(location, probabilities)
    if (sources := row.get("tag_sources")) is not None and len(sources) != len(row.get("tags") or ()):
        num_tags = len(row.get("tags") or ())
        raise InputError(f"{location}: tag_sources: expected one for each of {num_tags} tags, got {len(sources)}")
    if not row.get("id"):
        raise InputError(f"{location}: id is missing or empty")
    media = [name for name in MEDIA_FIELDS if row.get(name)]
    if len(media) != 1:
        got = " and ".join(media) or "none of them"
        raise InputError(f"{location}: expected exactly one of {', '.join(MEDIA_FIELDS)}, got {got}")


def _check_probabilities(location: str, probabilities: Any) -> None:
    if not isinstance(probabilities, dict):
        got = shown(probabilities)
        raise InputError(f"{location}: {PROBABILITIES}: expected an object of tags and their probabilities, got {got}")
    for tag, value in probabilities.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(tag, str) or not is_number or not 0 <= value <= 1:
            got = f"{shown(value)} for {shown(tag)}"
            raise InputError(f"{location}: {PROBABILITIES}: expected probabilities from 0 to 1, got {got}")


def check_columns(path: Path, schema: pa.Schema) -> None:
    """Check the columns of a Parquet file, before any of its rows is read.

    Raises:
        InputError: a column is unknown, repeated or of a wrong type.
    """
    names: list[str] = schema.names
    for name, kind in zip(names, schema.types, strict=True):
        if pa.types.is_null(kind) or _PANDAS_INDEX.fullmatch(name):
            continue
        if name not in FIELDS:
            raise InputError(f"{path}: unknown column {shown(name)}; {_hint(name)}")
        if names.count(name) > 1:
            raise InputError(f"{path}: expected column {name!r} once, got it {names.count(name)} times")
        if name in TEXT_FIELDS and not _holds_text(kind):
            raise InputError(f"{path}: {name} must be text, got a column of {one_line(kind, 80)}")
        if name in LIST_FIELDS and not (isinstance(kind, _LIST_TYPES) and _holds_text(kind.value_type)):
            raise InputError(f"{path}: {name} must be a list of texts, got a column of {one_line(kind, 80)}")
        if name == PROBABILITIES and not (isinstance(kind, _LIST_TYPES) and _holds_probabilities(kind.value_type)):
            raise InputError(f"{path}: {name} must be a list of tag and probability, got {one_line(kind, 80)}")


def _holds_probabilities(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or {field.name for field in kind} != {"tag", "probability"}:
        return False
    return _holds_text(kind.field("tag").type) and pa.types.is_floating(kind.field("probability").type)


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name[:40], FIELDS, 1)
    return f"did you mean {close[0]!r}?" if close else f"fields are: {', '.join(FIELDS)}"
