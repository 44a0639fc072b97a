"""Tables of tags and of captions, read into manifest rows.

A row that cannot be used is a problem with its line; only what casts doubt on the whole table is an error.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from truetag.data.cells import find_separator, is_flag_column, is_missing, items_of, read_flags, separated_by
from truetag.data.columns import Columns, TableOptions, find_columns, is_clip_name, name_of_file
from truetag.data.rows import ImportedRows, Problem, Row
from truetag.data.tables import Record, Table, as_text, read_table
from truetag.errors import InputError
from truetag.io.text import counted, shown

# a line of Flickr8k.token.txt
_NUMBERED_NAME = re.compile(r"(.+\.\w{3,4})#\d+")

Several = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class TagOptions(TableOptions):
    """How a table of tags is read; what is left open is found from its columns and cells, and said."""

    tags_column: Several = ()
    """A column of tags, or of one tag's 1 and 0; may be given several times."""
    separator: str | None = None
    """The text between tags in a cell; `none` if a cell is one tag."""
    absent: Literal["0", "-1"] | None = None
    """Which of 0 and -1 means absent, where columns of one tag each hold both; the other means unknown."""
    duplicates: Literal["merge", "first", "error"] = "merge"
    """What to do with a photo on several rows: unite their tags, take the first, or stop."""
    untagged: Literal["keep", "skip"] = "keep"
    """Whether photos without tags stay, as photos where every tag is absent."""


@dataclass(frozen=True)
class CaptionOptions(TableOptions):
    """How a table of captions is read; what is left open is found from its columns and cells, and said."""

    caption_column: Several = ()
    """A column of captions; may be given several times."""


def read_tags(annotations: Path, options: TagOptions = TagOptions()) -> ImportedRows:
    """The photos or clips of a table of tags, each with its distinct tags in their order.

    Tags may stand in one cell, one in each of several columns, one on each of several rows, or have a column each that
    says whether they are present.

    Raises:
        InputError: the file is no table, or it is in doubt how to read it.
    """
    table = read_table(annotations, options.header, ragged=True)
    columns = find_columns(table, "tags", options, options.tags_column)
    names = Counter(name_of_file(record.cells.get(columns.image)) for record in table.records)
    is_repeated = sum(count for name, count in names.items() if name and count > 1) > 0.5 * names.total()
    try:
        reader, layout = _tag_reader(table, columns, options, is_repeated)
    except InputError as error:
        raise InputError(f"{annotations}: {error}") from None
    rows, problems = _read_rows(table, columns, reader)
    notes = [f"{table.layout}; {columns.layout}; {layout}"]
    merged, dropped = _unite(annotations, rows, options.duplicates)
    if len(merged) < len(rows):
        done = "their tags are united" if options.duplicates == "merge" else "the first row counts"
        num = sum(count > 1 for count in Counter(row["id"] for _, row in rows).values())
        notes.append(f"on several rows: {counted(num, 'name')}; {done}")
    untagged = [row["id"] for row in merged if not row["tags"]]
    if untagged and options.untagged == "keep":
        notes.append("rows without tags are kept as rows where every tag is absent (--untagged skip leaves them out)")
    elif untagged:
        merged = [row for row in merged if row["tags"]]
        notes.append(f"{counted(len(untagged), 'row')} without tags left out")
    return ImportedRows(merged, notes, [*table_problems(table), *problems, *dropped])


def read_captions(annotations: Path, options: CaptionOptions = CaptionOptions()) -> ImportedRows:
    """The photos or clips of a table of captions in order of first appearance, each with its captions in their order.

    A table may have one caption a row, several columns of captions, or lists of them. The files of Flickr8k and
    Flickr30k are read as they are.

    Raises:
        InputError: the file is no table, or it is in doubt how to read it.
    """
    table = _read_numbered(annotations, options) or read_table(annotations, options.header)
    columns = find_columns(table, "captions", options, options.caption_column)

    def captions_of(record: Record) -> Row:
        captions: list[str] = []
        for column in columns.values:
            cell = record.cells.get(column)
            captions += _captions_in(cell)
        return {"captions": captions}

    rows, problems = _read_rows(table, columns, captions_of)
    merged, dropped = _unite(annotations, rows, "merge")
    return ImportedRows(merged, [f"{table.layout}; {columns.layout}"], [*table_problems(table), *problems, *dropped])


def table_problems(table: Table) -> list[Problem]:
    """The records of a table that cannot be read."""
    return [Problem(line, reason) for line, reason in table.problems]


def media_field(name: str) -> Literal["image", "video"]:
    """The field of a row that holds such a name."""
    return "video" if is_clip_name(name) else "image"


def _captions_in(cell: object) -> list[str]:
    items = items_of(cell)
    texts = [as_text(cell)] if items is None else items
    return [text for text in texts if not is_missing(text)]


def _read_numbered(annotations: Path, options: CaptionOptions) -> Table | None:
    """The table of Flickr8k.token.txt, whose rows are `name#number <tab> caption` without a header."""
    if options.image_column or annotations.suffix.lower() not in (".txt", ".token", ".tsv", ".csv"):
        return None
    table = read_table(annotations, header=False)
    if len(table.columns) != 2 or not table.records:
        return None
    names = [_NUMBERED_NAME.fullmatch(as_text(record.cells["1"])) for record in table.records]
    if not all(names[:100]):
        return None
    problems = [
        (record.line, "expected NAME#NUMBER") for record, name in zip(table.records, names, strict=True) if not name
    ]
    records = [
        Record(record.line, {"image": name[1], "caption": record.cells["2"]})
        for record, name in zip(table.records, names, strict=True)
        if name
    ]
    layout = f"{table.layout}, names with the number of their caption"
    return replace(
        table, columns=["image", "caption"], records=records, problems=table.problems + problems, layout=layout
    )


def _tag_reader(
    table: Table, columns: Columns, options: TagOptions, is_repeated: bool
) -> tuple[Callable[[Record], Row], str]:
    """A function from a record to its tags, and how that is said.

    Args:
        table: the table.
        columns: its columns.
        options: what is known of the table.
        is_repeated: whether most photos stand on several rows.
    """

    def cells(names: Sequence[str]) -> list[object]:
        return [record.cells.get(name) for name in names for record in table.records]

    is_flag = {name: table.is_named and is_flag_column(cells([name])) for name in columns.values}
    flag_columns = [name for name in columns.values if is_flag[name]]
    list_columns = [name for name in columns.values if not is_flag[name]]
    extra = [columns.optional[role] for role in ("unknown_tags", "true_tags") if role in columns.optional]
    flags = read_flags([cells([name]) for name in flag_columns], options.absent) if flag_columns else None
    lists = separated_by(options.separator) if options.separator is not None else None
    if lists is None and (list_columns or extra):
        is_one_each = is_repeated or len(list_columns) > 1
        lists = find_separator(_joined(list_columns or extra), cells([*list_columns, *extra]), is_one_each)

    def tags_of(record: Record) -> Row:
        tags: dict[str, None] = {}
        unknown: dict[str, None] = {}
        if flags:
            states = {name: flags.state(record.cells.get(name)) for name in flag_columns}
            tags |= dict.fromkeys(name for name, state in states.items() if state)
            unknown |= dict.fromkeys(name for name, state in states.items() if state is None)
        row: Row = {}
        if lists:
            for name in list_columns:
                tags |= dict.fromkeys(lists.tags(record.cells.get(name)))
            row = {
                role: lists.tags(record.cells.get(columns.optional[role]))
                for role in ("unknown_tags", "true_tags")
                if role in columns.optional
            }
        unknown |= dict.fromkeys(row.get("unknown_tags", []))
        return row | {"tags": list(tags)} | ({"unknown_tags": list(unknown)} if unknown else {})

    said = [f"{len(flag_columns)} columns of one tag each ({flags.layout})"] if flags else []
    said += [lists.layout] if lists and list_columns else []
    return tags_of, ", ".join(said)


def _read_rows(
    table: Table, columns: Columns, read: Callable[[Record], Row]
) -> tuple[list[tuple[int, Row]], list[Problem]]:
    """The rows of a table with their lines, and the records that cannot be used."""
    rows: list[tuple[int, Row]] = []
    problems: list[Problem] = []
    for record in table.records:
        name = name_of_file(record.cells.get(columns.image))
        if is_missing(name):
            problems.append(Problem(record.line, f"no name in {shown(columns.image)}"))
            continue
        row: Row = {"id": name, media_field(name): name}
        for role in ("id", "split", "group"):
            if role in columns.optional and not is_missing(text := as_text(record.cells.get(columns.optional[role]))):
                row[role] = text
        try:
            rows.append((record.line, row | read(record)))
        except ValueError as error:
            problems.append(Problem(record.line, str(error)))
    return _named_by_photo(rows), problems


def _named_by_photo(rows: list[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """The rows with their photos' names as ids, if the ids count rows: a photo has several of them."""
    id_of: dict[str, str] = {}
    if all(id_of.setdefault(_medium(row), row["id"]) == row["id"] for _, row in rows):
        return rows
    return [(line, row | {"id": _medium(row)}) for line, row in rows]


def _medium(row: Row) -> str:
    return row.get("image") or row["video"]


def _unite(
    path: Path, rows: list[tuple[int, Row]], duplicates: Literal["merge", "first", "error"]
) -> tuple[list[Row], list[Problem]]:
    """One row for each id: what several rows say is united, unless they contradict each other."""
    united: dict[str, Row] = {}
    first_line: dict[str, int] = {}
    problems: list[Problem] = []
    for line, row in rows:
        name = row["id"]
        if name not in united:
            united[name], first_line[name] = row, line
            continue
        location = f"{shown(name)} was already on line {first_line[name]}"
        if duplicates == "error":
            raise InputError(f"{path}, line {line}: {location}")
        if duplicates == "first":
            problems.append(Problem(line, location))
            continue
        first = united[name]
        texts = ("image", "video", "split", "group")
        if wrong := [key for key in texts if row.get(key) and row[key] != first.get(key, row[key])]:
            got = f"{shown(row[wrong[0]])}, on line {first_line[name]} {shown(first[wrong[0]])}"
            problems.append(Problem(line, f"{wrong[0]} of {shown(name)} is {got}"))
            continue
        for key, value in row.items():
            if key in ("tags", "unknown_tags", "true_tags"):
                first[key] = list(dict.fromkeys([*first.get(key, []), *value]))
            elif key == "captions":
                first[key] = first[key] + value
            else:
                first.setdefault(key, value)
        if "unknown_tags" in first:
            first["unknown_tags"] = [tag for tag in first["unknown_tags"] if tag not in set(first["tags"])]
    return list(united.values()), problems


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names)
