"""Which columns of a table name the photos, and which hold tags or captions: by options, usual names and values."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from truetag.data.cells import is_flag_column
from truetag.data.tables import Table, as_text
from truetag.errors import InputError
from truetag.io.text import one_line, shown
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.photos import PHOTO_SUFFIXES

MEDIA_SUFFIXES = frozenset({*PHOTO_SUFFIXES, *CLIP_SUFFIXES})

# usual names, the best first, in lower case with underscores
_IMAGE_NAMES = (
    "image file_name filename image_path file_path filepath path image_name image_file img img_path "
    "img_name photo photo_name picture file video video_path video_name video_id clip clip_name image_id "
    "imageid media url image_url id"
)
_TAG_NAMES = (
    "tags tag labels label keywords keyword classes class class_name class_names category categories "
    "concepts attributes objects label_names"
)
_CAPTION_NAMES = (
    "captions caption text description descriptions sentences sentence comments comment alt_text alt "
    "title raw name product_name"
)
_OPTIONAL_NAMES = {
    "id": ["id"],
    "split": ["split", "subset", "partition"],
    "group": ["group"],
    "unknown_tags": ["unknown_tags"],
    "true_tags": ["true_tags"],
}
_FILE_SHARE = 0.8  # so many values end like photos or clips in a column of their names


@dataclass(frozen=True)
class TableOptions:
    """How a table is read; what is left open is found from its columns and cells, and said."""

    image_column: str | None = None
    """The column with the names of the photos or clips."""
    header: bool = True
    """Whether the first row names the columns; without, they are called 1, 2, and so on."""


class Columns(NamedTuple):
    """The columns of a table that an import uses."""

    image: str
    values: list[str]
    """The columns of tags or captions."""
    optional: dict[str, str]
    """The columns of id, split, group, unknown_tags and true_tags, where there are such."""
    layout: str
    """What was found, for a person to check."""


@dataclass(frozen=True)
class _Lookup:
    """The columns of a table by their plain names."""

    table: Table
    plain: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.table.columns:
            self.plain.setdefault(_plain(name), name)

    def cells(self, column: str) -> list[object]:
        return [record.cells.get(column) for record in self.table.records]

    def given(self, option: str, name: str) -> str:
        """The column that an option names.

        Raises:
            InputError: there is none.
        """
        if name in self.table.columns:
            return name
        if (plain := _plain(name)) in self.plain:
            return self.plain[plain]
        close = difflib.get_close_matches(name, self.table.columns, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{option}: expected one of {_listed(self.table.columns)}, got {shown(name)}{hint}")

    def usual(self, names: Iterable[str]) -> list[str]:
        """The columns with usual names, the best first."""
        return [self.plain[name] for name in names if name in self.plain]


def find_columns(
    table: Table, kind: Literal["tags", "captions"], options: TableOptions, given: Sequence[str] = ()
) -> Columns:
    """Find the columns of a table.

    Args:
        table: the table.
        kind: what it says about the photos.
        options: what is known of the table.
        given: the names of the columns of tags or captions, if they are known.

    Raises:
        InputError: a column is not there, or it is not clear which one is meant.
    """
    lookup = _Lookup(table)
    image = _find_image(lookup, options)
    optional = {role: names[0] for role, usual in _OPTIONAL_NAMES.items() if (names := lookup.usual(usual))}
    optional = {role: name for role, name in optional.items() if name != image and name not in given}
    _refuse_misspelt(lookup, {image, *given})
    option = "caption_column" if kind == "captions" else "tags_column"
    if given:
        values = list(dict.fromkeys(lookup.given(option, name) for name in given))
    else:
        free = [name for name in table.columns if name != image and name not in optional.values()]
        values = _find_captions(lookup, free) if kind == "captions" else _find_tags(lookup, free)
        if not values:
            got = f"the columns {_listed(table.columns)}"
            advice = f"; name {'it' if kind == 'captions' else 'them'} with --{option.replace('_', '-')}"
            raise InputError(f"{table.path}: expected a column of {kind}, got {got}{advice}")
    used = {image, *values, *optional.values()}
    layout = f"names in {shown(image)}, {kind} in {_listed(values)}"
    if others := [f"{role} in {shown(name)}" for role, name in optional.items() if name != role]:
        layout += f", {', '.join(others)}"
    if unused := [name for name in table.columns if name not in used]:
        layout += f"; not used: {_listed(unused)}"
    return Columns(image, values, optional, layout)


def is_media_name(text: str) -> bool:
    """Whether a text ends like the name of a photo or clip."""
    return PurePosixPath(text.strip().replace("\\", "/")).suffix.lower() in MEDIA_SUFFIXES


def is_clip_name(text: str) -> bool:
    """Whether a text ends like the name of a clip."""
    return PurePosixPath(text.strip().replace("\\", "/")).suffix.lower() in CLIP_SUFFIXES


def name_of_file(cell: object) -> str:
    """The name in a cell; Hugging Face stores photos as an object with their path."""
    return as_text(cell.get("path") if isinstance(cell, dict) else cell)


def _find_image(lookup: _Lookup, options: TableOptions) -> str:
    table = lookup.table
    if options.image_column is not None:
        return lookup.given("image_column", options.image_column)
    if table.is_named and any(is_media_name(name) for name in table.columns):
        raise InputError(
            f"{table.path}: expected names of columns in the first row, got a photo's name ({_listed(table.columns)}); "
            "if it has no such row, add --no-header"
        )
    usual = lookup.usual(_IMAGE_NAMES.split())
    by_value = [name for name in table.columns if _holds_names(lookup.cells(name))]
    if both := [name for name in usual if name in by_value]:
        return both[0]
    if len(by_value) == 1:
        return by_value[0]
    if usual and not by_value:
        return usual[0]
    got = f"{'the columns' if not by_value else 'names in each of'} {_listed(by_value or table.columns)}"
    raise InputError(
        f"{table.path}: expected one column with the names of photos or clips, got {got}; name it with --image-column"
    )


def _holds_names(cells: Sequence[object]) -> bool:
    texts = [name for cell in cells[:1000] if (name := name_of_file(cell))]
    return bool(texts) and sum(map(is_media_name, texts)) >= _FILE_SHARE * len(texts)


def _find_captions(lookup: _Lookup, free: Sequence[str]) -> list[str]:
    if not lookup.table.is_named:
        return list(free)[:1] if len(free) == 1 else []
    if usual := [name for name in lookup.usual(_CAPTION_NAMES.split()) if name in free]:
        return usual[:1]
    stems = _CAPTION_NAMES.replace(" ", "|")
    if numbered := [name for name in free if re.fullmatch(rf"(?:{stems})_?\d+", _plain(name))]:
        return numbered
    texts = [name for name in free if any(" " in as_text(cell) for cell in lookup.cells(name)[:100])]
    return texts if len(texts) == 1 and not any(is_media_name(name) for name in texts) else []


def _find_tags(lookup: _Lookup, free: Sequence[str]) -> list[str]:
    if not lookup.table.is_named:
        return list(free)
    stems = _TAG_NAMES.replace(" ", "|")
    usual = [name for name in lookup.usual(_TAG_NAMES.split()) if name in free]
    ending = [name for name in free if re.fullmatch(r".+_(?:tags?|labels?|keywords?)", _plain(name))]
    numbered = [name for name in free if re.fullmatch(rf"(?:{stems})_?\d+", _plain(name))]
    if usual and is_flag_column(lookup.cells(usual[0]), letters=False):
        others = [name for name in free if name not in usual and is_flag_column(lookup.cells(name))]
        if not others:
            got = f"expected tags in {shown(usual[0])}, got only values such as 1 and 0"
            advice = f"give the column that tag's name, or name it with --tags-column {usual[0]}"
            raise InputError(f"{lookup.table.path}: {got}; if they say whether one tag is present, {advice}")
        return [name for name in free if is_flag_column(lookup.cells(name))]
    if usual:
        return usual[:1]
    if numbered:
        return numbered
    if len(ending) == 1:
        return ending
    return [name for name in free if is_flag_column(lookup.cells(name))]


def _refuse_misspelt(lookup: _Lookup, known: set[str]) -> None:
    optional = ["split", "group", "unknown_tags", "true_tags"]
    known_names = f"{_IMAGE_NAMES} {_TAG_NAMES} {_CAPTION_NAMES}".split()
    for name in lookup.table.columns:
        # other columns are ignored, but this one may be a misspelt one of ours
        if name in known or _plain(name) in {*known_names, *optional}:
            continue
        close = difflib.get_close_matches(_plain(name)[:40], set(optional) - lookup.plain.keys(), 1, 0.8)
        if close and not is_flag_column(lookup.cells(name)):
            raise InputError(f"{lookup.table.path}: unknown column {shown(name)}; did you mean {close[0]!r}?")


def _plain(name: str) -> str:
    return re.sub(r"[\s\-_]+", "_", unicodedata.normalize("NFC", name).strip().lower())


def _listed(names: Iterable[str]) -> str:
    return one_line(", ".join(shown(name) for name in names), 120) or "none"
