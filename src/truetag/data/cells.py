"""Cells of tags: lists in a cell, the text between the tags of a column, and columns that hold one tag each.

How the tags of a column are separated follows from the whole column. Where it is in doubt, an error shows cells with
what each choice would make of them.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from truetag.data.tables import as_text
from truetag.errors import InputError
from truetag.io.text import shown

SEPARATORS = {"|": "bars", ";": "semicolons", ",": "commas", "\n": "line ends", "\t": "tabs"}
WHOLE = "none"
"""The name of the choice that takes each cell as one tag."""

_RARE_SEPARATORS = "/&+"  # which are parts of names as often
_CLEAR = 20  # one separator is clear if it stands in so many times more cells than any other
_REPEATED = 3  # cells with blanks are single tags if each is used so many times on average
_MISSING = {"", "nan", "none", "null", "n/a", "na", "<na>", "[]", "()", "{}", "set()"}
_PRESENT, _ABSENT = (
    {"1", "1.0", "true", "yes", "present", "positive", "y", "t", "x"},
    {*("0", "0.0", "false", "no", "absent", "negative", "n", "f")},
)
_MINUS = {"-1", "-1.0"}
_FLAGS = (
    {"1", "1.0", "0", "0.0", *_MINUS},
    {"true", "false"},
    {"yes", "no"},
    {"present", "absent"},
    {"positive", "negative"},
    {"y", "n"},
    {"t", "f"},
    {"x"},
)


@dataclass(frozen=True)
class TagColumn:
    """How the cells of a column become tags, and how that is said to a person."""

    split: Callable[[str], list[str]]
    layout: str

    def tags(self, cell: object) -> list[str]:
        """The distinct tags of a cell, in order.

        Raises:
            ValueError: the cell is a list of something else than texts.
        """
        return list(dict.fromkeys(self._all_tags(cell)))

    def _all_tags(self, cell: object) -> list[str]:
        if (items := items_of(cell)) is not None:
            return [tag for item in items if (tag := _clean(item))]
        text = as_text(cell)
        return [] if is_missing(text) else [tag for part in self.split(text) if (tag := _clean(part))]


def is_missing(text: str) -> bool:
    """Whether a cell says that it has no value, in one of the usual spellings."""
    return text.lower() in _MISSING


def items_of(cell: object) -> list[str] | None:
    """The texts of a list, or of a text that spells one; None for any other cell.

    Raises:
        ValueError: an item is no text and no number.
    """
    if isinstance(cell, str):
        cell = _spelt_list(cell.strip())
    if not isinstance(cell, list | tuple | set):
        if isinstance(cell, dict):
            raise ValueError(f"expected tags, got {shown(cell)}")
        return None
    for item in cell:
        if isinstance(item, dict | list):
            raise ValueError(f"expected a list of texts, got {shown(item)}")
    return [as_text(item) for item in cell]


def find_separator(column: str, cells: Sequence[object], one_each: bool = False) -> TagColumn:
    """How the tags in the cells of a column are separated.

    Args:
        column: its name, for messages.
        cells: all cells of the column.
        one_each: whether the table shows otherwise that a cell holds one tag: by several rows or columns for a photo.

    Raises:
        InputError: it is in doubt.
    """
    texts = [text for cell in cells if isinstance(cell, str) and not is_missing(text := cell.strip())]
    plain = [text for text in texts if not _spells_something(text)]
    if not plain:
        return TagColumn(
            _whole, "lists of tags" if texts or any(isinstance(cell, list) for cell in cells) else "no tags"
        )
    if all(text.startswith("[") and text.endswith("]") for text in plain):  # [cat, dog], without quotes
        inner = find_separator(column, [text[1:-1] for text in plain])
        return TagColumn(lambda text: inner.split(text.strip("[]")), f"{inner.layout}, in brackets")
    if all(word.startswith("#") for text in plain for word in text.split()):
        return TagColumn(lambda text: [word.lstrip("#") for word in text.split()], "hashtags")
    counts = Counter({mark: sum(mark in text for text in plain) for mark in SEPARATORS})
    (mark, most), (other, second) = counts.most_common(2)
    if most and most < _CLEAR * second:
        raise _doubt(column, plain, [mark, other])
    if most:
        with_mark = [text for text in plain if mark in text]
        if len(with_mark) >= _REPEATED * len(set(with_mark)) and not _parts_recur(plain, mark):
            raise _doubt(column, with_mark, [mark, WHOLE])  # perhaps names such as "Shoes, Bags and Belts"
        return separated_by(mark)
    for mark in _RARE_SEPARATORS:
        if _parts_recur(plain, mark):
            raise _doubt(column, [text for text in plain if mark in text], [mark, WHOLE])
    spaced = [text for text in plain if " " in text]
    if not spaced or one_each or len(spaced) >= _REPEATED * len(set(spaced)):
        return TagColumn(_whole, "one tag in a cell")
    raise _doubt(column, spaced, [" ", WHOLE])


def _spells_something(text: str) -> bool:
    try:
        return _spelt_list(text) is not None
    except ValueError:
        return True


def _parts_recur(texts: Sequence[str], mark: str) -> bool:
    """Whether most parts between the marks occur in several different cells, as tags do."""
    cells_with = Counter(part for text in set(texts) for part in {part.strip() for part in text.split(mark)})
    parts = {part.strip() for text in texts if mark in text for part in text.split(mark)}
    return 2 * sum(cells_with[part] > 1 for part in parts) > len(parts)


def separated_by(separator: str) -> TagColumn:
    """Tags with the same text between them; cells that spell a list are lists all the same.

    Raises:
        InputError: the separator is empty.
    """
    if not separator:
        raise InputError(f"separator: expected at least one character, or {WHOLE!r} for one tag per cell, got ''")
    if separator == WHOLE:
        return TagColumn(_whole, "one tag in a cell")
    separator = {"\\t": "\t", "\\n": "\n"}.get(separator, separator)
    if not separator.strip(" "):
        return TagColumn(str.split, "tags separated by blanks")
    name = SEPARATORS.get(separator, shown(separator))
    return TagColumn(lambda text: text.split(separator), f"tags separated by {name}")


def is_flag_column(cells: Sequence[object], letters: bool = True) -> bool:
    """Whether a column says of one tag whether it is present: 1 and 0, true and false, blanks.

    Args:
        cells: all cells of the column.
        letters: whether that may be said with single letters, too: y and n, t and f, x.
    """
    if any(isinstance(cell, list | dict) for cell in cells):
        return False
    spelt = {as_text(cell).lower() for cell in cells} - _MISSING
    return bool(spelt) and any(spelt <= flags for flags in (_FLAGS if letters else _FLAGS[:-3]))


@dataclass(frozen=True)
class Flags:
    """What the values of the columns with one tag each mean."""

    absent: frozenset[str]
    layout: str

    def state(self, cell: object) -> bool | None:
        """True if the tag is present, False if it is absent, None if that is unknown."""
        text = as_text(cell).lower()
        return True if text in _PRESENT else False if text in self.absent else None


def read_flags(columns: Sequence[Sequence[object]], absent: str | None = None) -> Flags:
    """What blanks and -1 mean in columns of one tag each: absent where nothing else says so, otherwise unknown.

    Args:
        columns: the cells of each column.
        absent: "0" or "-1", which of them means absent where both occur.

    Raises:
        InputError: 0 and -1 both occur, and `absent` does not say which of them means absent.
    """
    texts = {as_text(cell).lower() for cells in columns for cell in cells}
    zeros, minus = texts & _ABSENT, bool(texts & _MINUS)
    if zeros and minus and absent not in ("0", "-1"):
        raise InputError(
            "absent: expected 0 or -1, got neither: the columns hold both, and one of them means 'absent', the other "
            "'unknown'; say which means 'absent' with --absent 0 or --absent -1"
        )
    if zeros and not (minus and absent == "-1"):
        unknown = " and ".join(name for name, there in (("-1", minus), ("blank", bool(texts & _MISSING))) if there)
        return Flags(frozenset(_ABSENT), "1 present, 0 absent" + (f", {unknown} unknown" if unknown else ""))
    if minus:
        unknown = " and ".join(name for name, there in (("0", zeros), ("blank", texts & _MISSING)) if there)
        return Flags(frozenset(_MINUS), "1 present, -1 absent" + (f", {unknown} unknown" if unknown else ""))
    return Flags(frozenset(_MISSING), "1 present, blank absent")


def _doubt(column: str, texts: list[str], marks: list[str]) -> InputError:
    """The error that shows three cells, and what each choice would make of them."""
    telling = sorted(dict.fromkeys(texts), key=lambda text: -sum(mark in text for mark in marks if mark != WHOLE))
    choices = []
    for mark in marks:
        option = {"\t": "\\t", "\n": "\\n"}.get(mark, mark)
        examples = "; ".join(f"{shown(text)} is {separated_by(mark).tags(text)}" for text in telling[:3])
        choices.append(f"  --separator {json.dumps(option)}: {examples}")
    return InputError(
        f"separator: expected one that is clear from column {shown(column)}, got cells that can be read in several "
        "ways; choose one:\n" + "\n".join(choices)
    )


def _whole(text: str) -> list[str]:
    return [text]


def _clean(tag: str) -> str:
    """A tag without blanks and quotes around it."""
    tag = tag.strip()
    if len(tag) > 1 and tag[0] == tag[-1] and tag[0] in "\"'":
        tag = tag[1:-1].strip()
    return "" if is_missing(tag) else tag


def _spelt_list(text: str) -> list[Any] | None:
    """The list that a text spells as JSON, Python or numpy would; None if it spells none.

    Raises:
        ValueError: it spells an object.
    """
    if (text[:1], text[-1:]) not in {("[", "]"), ("(", ")"), ("{", "}")}:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        if isinstance(value, dict):
            raise ValueError(f"expected tags, got {shown(value)}")
        return value if isinstance(value, list) else None
    items = re.findall(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([,\s]+)|(.)""", text[1:-1], re.DOTALL)
    if any(other for *_, other in items) or not any(single or double for single, double, *_ in items):
        return None
    return [re.sub(r"\\(.)", r"\1", single or double) for single, double, gap, _ in items if not gap]
