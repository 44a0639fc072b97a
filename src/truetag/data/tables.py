"""Tables as people have them, read into records: text with any usual delimiter, JSON, JSON Lines, Parquet and Excel.

A record that cannot be read is a problem with its line; only what casts doubt on the whole table is an error.
"""

import csv
import importlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from truetag.errors import InputError
from truetag.io.text import one_line, parse_json, read_json, require_file, shown, text_lines

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
CELL_LIMIT = 20_000_000  # characters; an unclosed quote would put the rest of the file into one cell
SAMPLE_LINES = 100
BLANK = "a blank row"
SUFFIXES = ("csv", "tsv", "txt", "json", "jsonl", "parquet", "xlsx")

# a column that pandas writes without being asked
_INDEX_COLUMN = re.compile(r"unnamed: \d+|__index_level_\d+__")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE | re.DOTALL)


class Record(NamedTuple):
    """The line (in Parquet, JSON and Excel the row) that a record ends on, and its cells by column."""

    line: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The records of a file under the names of its columns; empty names and index columns are left out."""

    path: Path
    columns: list[str]
    records: list[Record]
    problems: list[tuple[int, str]] = field(default_factory=list)
    """The lines of records that cannot be read, and why."""
    layout: str = ""
    """How the file was read, for a person to check."""
    is_named: bool = True
    """Whether the file names its columns; otherwise they are called 1, 2, and so on."""


def read_table(path: Path, header: bool = True, ragged: bool = False) -> Table:
    """Read a table in the format that its suffix names; text for every unknown suffix.

    Args:
        path: the file.
        header: whether its first record names the columns; otherwise their names are 1, 2, and so on. JSON and Parquet
            always name them.
        ragged: whether the rows of text without a header may have different numbers of cells.

    Raises:
        InputError: the file is missing or is not a table.
    """
    require_file(path, "annotation file")
    match path.suffix.lower():
        case ".parquet" | ".pq":
            return _read_parquet(path)
        case ".jsonl" | ".ndjson":
            return _from_objects(path, _json_lines(path), "JSON Lines")
        case ".json":
            return _read_json(path)
        case ".xlsx" | ".xlsm":
            return _read_excel(path, header)
        case ".xls" | ".ods" | ".numbers":
            raise InputError(f"{path}: expected a table ({', '.join(SUFFIXES)}), got {path.suffix}; export it as CSV")
        case _:
            return _read_text(path, header, ragged and not header)


def as_text(value: object) -> str:
    """A cell as text, stripped; empty for a missing value.

    >>> [as_text(value) for value in (" a ", None, 1.0, True, float("nan"))]
    ['a', '', '1', '1', '']
    """
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float():
            return "" if value != value else str(int(value)) if value.is_integer() else str(value)
        case _:
            return str(value).strip()


def _read_text(path: Path, header: bool, ragged: bool) -> Table:
    csv.field_size_limit(max(csv.field_size_limit(), CELL_LIMIT))  # the limit is global to the process
    lines = _lines_without_nul(path)
    sample = list(itertools.islice(lines, SAMPLE_LINES))
    num_before = 0  # lines that the reader of records does not see
    while sample and not sample[0].strip():
        sample.pop(0)
        num_before += 1
    if sample and (match := _SEPARATOR_LINE.fullmatch(sample[0].strip("\r\n"))):
        delimiter = match[1]
        sample.pop(0)
        num_before += 1
    else:
        delimiter = _find_delimiter(sample)
    problems: list[tuple[int, str]] = []
    rows: list[tuple[int, list[str]]] = []
    blank: list[int] = []
    for line, cells in _records(path, itertools.chain(sample, lines), delimiter, problems):
        if any(cell.strip() for cell in cells):
            rows.append((line, cells))
        elif rows and len(cells) > 1:
            blank.append(line)
    problems += [(line, BLANK) for line in blank]
    names = [name.strip() for name in rows.pop(0)[1]] if header and rows else []
    if rows and not header:
        width = max(len(cells) for _, cells in rows) if ragged else len(rows[0][1])
        names = [str(number + 1) for number in range(width)]
    _require_distinct(path, names)
    records: list[Record] = []
    for line, cells in rows:
        missing, extra = names[len(cells) :], cells[len(names) :]
        if any(cell.strip() for cell in extra) or (any(missing) and not ragged):
            hint = f" (cells that hold {DELIMITERS.get(delimiter, shown(delimiter))} need quotes)" if extra else ""
            problems.append((line, f"expected {len(names)} cells, got {len(cells)}{hint}"))
        else:
            records.append(Record(line + num_before, dict(zip(names, cells, strict=False))))
    problems = sorted((line + num_before, reason) for line, reason in problems)
    layout = f"{DELIMITERS.get(delimiter, shown(delimiter))} between columns" if len(names) > 1 else "one column"
    return Table(path, _named(names), records, problems, layout, header)


def _records(
    path: Path, lines: Iterable[str], delimiter: str, problems: list[tuple[int, str]]
) -> Iterator[tuple[int, list[str]]]:
    """The records of delimited text with the number of their last line; broken ones become problems."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
            yield reader.line_num, cells
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error) or "larger than field limit" in str(error):
                hint = "is a quote left open, or not doubled within quotes?"
                raise InputError(f"{path}, line {first}: not a readable table ({one_line(error)}); {hint}") from None
            problems.append((reader.line_num, f"broken quotes ({one_line(error)})"))


def _find_delimiter(sample: list[str]) -> str:
    """The delimiter that divides the first lines most evenly; a comma where none of them divides the first line."""

    def evenness(delimiter: str) -> tuple[float, int]:
        rows: list[list[str]] = []
        try:
            rows.extend(row for row in csv.reader(sample, delimiter=delimiter) if any(row))
        except csv.Error:
            return 0.0, 0
        width = len(rows[0]) if rows else 0
        if width < 2:
            return 0.0, width
        return sum(len(row) == width for row in rows) / len(rows), width

    return max(DELIMITERS, key=evenness)


def _lines_without_nul(path: Path) -> Iterator[str]:
    for line, text in text_lines(path):
        if "\0" in text:
            raise InputError(f"{path}, line {line}: expected text, got a NUL character in {shown(text)}")
        yield text


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for line, text in text_lines(path):
        if text.strip():
            try:
                yield line, parse_json(text)
            except ValueError as error:
                yield line, error


def _read_json(path: Path) -> Table:
    """A list of objects, or an object from file names to tags or captions."""
    content = read_json(path)
    if isinstance(content, dict):
        _refuse_published(path, content)
        lists = [value for value in content.values() if isinstance(value, list) and value]
        if len(content) == 1 and lists and isinstance(lists[0][0], dict):  # {"data": [{..}, ..]}
            content = lists[0]
        elif content and all(isinstance(value, str | list) for value in content.values()):
            records = [Record(number, {"1": name, "2": content[name]}) for number, name in enumerate(content, start=1)]
            return Table(path, ["1", "2"], records, [], "JSON, by name", is_named=False)
        elif content and all(isinstance(value, dict) for value in content.values()):
            content = _from_nested(content)
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of objects, or an object by file name, got {shown(content)}")
    return _from_objects(path, enumerate(content, start=1), "JSON")


def _from_nested(content: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of an object of objects: by column, as pandas writes a table, or by row, where the key may be a name.

    >>> _from_nested({"image": {"0": "a.jpg"}, "tags": {"0": "cat"}})
    [{'image': 'a.jpg', 'tags': 'cat'}]
    >>> _from_nested({"a.jpg": {"tags": "cat"}})
    [{'key': 'a.jpg', 'tags': 'cat'}]
    """
    if all(key.isdecimal() for column in content.values() for key in column):
        rows = dict.fromkeys(key for column in content.values() for key in column)
        return [{name: column.get(key) for name, column in content.items()} for key in rows]
    if all(key.isdecimal() for key in content):
        return list(content.values())
    return [{"key": key} | row for key, row in content.items()]


def _refuse_published(path: Path, content: dict[str, Any]) -> None:
    """Name the import of a data set that is no table."""
    for command, keys in (("coco", ("images", "annotations")), ("msrvtt", ("videos", "sentences"))):
        if all(key in content for key in keys):
            got = f"{' and '.join(map(repr, keys))}; use `truetag import {command}`"
            raise InputError(f"{path}: expected a table, got an object with {got}")
    images = content.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        raise InputError(f"{path}: expected a table, got photos with sentences; use `truetag import karpathy`")


def _from_objects(path: Path, objects: Iterable[tuple[int, Any]], layout: str) -> Table:
    records: list[Record] = []
    problems: list[tuple[int, str]] = []
    names: dict[str, None] = {}
    for line, value in objects:
        if not isinstance(value, dict):
            reason = (
                f"not JSON ({value})" if isinstance(value, ValueError) else f"expected an object, got {shown(value)}"
            )
            problems.append((line, reason))
            continue
        cells = {name.strip(): cell for name, cell in value.items()}
        names.update(dict.fromkeys(cells))
        records.append(Record(line, cells))
    columns = _named(list(names))
    records = [Record(line, {name: cells.get(name) for name in columns}) for line, cells in records]
    return Table(path, columns, records, problems, layout)


def _read_parquet(path: Path) -> Table:
    try:
        content = pq.read_table(path)
        rows = content.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: not a readable Parquet file ({one_line(error)})") from None
    _require_distinct(path, content.column_names)
    return _from_objects(path, enumerate(rows, start=1), "Parquet")


def _read_excel(path: Path, header: bool) -> Table:
    try:  # imported here: the package is an optional extra
        openpyxl = importlib.import_module("openpyxl")
    except ImportError:
        raise InputError(f'{path}: Excel files need openpyxl: pip install "truetag[excel]"; or export CSV') from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        rows = [[as_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # a zip archive that is no workbook raises any of many kinds
        raise InputError(f"{path}: not a readable Excel file ({one_line(error)})") from None
    filled = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    names: list[str] = []
    if filled:
        names = filled.pop(0)[1] if header else [str(i + 1) for i in range(max(len(row) for _, row in filled))]
    _require_distinct(path, names)
    records = [Record(number, dict(zip(names, row, strict=False))) for number, row in filled]
    others = len(book.worksheets) - 1
    layout = f"Excel, sheet {sheet.title!r}" + (f" (and not the other {others})" if others else "")
    return Table(path, _named(names), records, [], layout, header)


def _named(names: list[str]) -> list[str]:
    return [name for name in names if name and not _INDEX_COLUMN.fullmatch(name.lower())]


def _require_distinct(path: Path, names: list[str]) -> None:
    named = _named(names)
    if twice := [name for name in named if named.count(name) > 1]:
        raise InputError(f"{path}: expected columns with distinct names, got {shown(twice[0])} several times")
