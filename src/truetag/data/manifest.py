"""The manifest: one example per row, in JSON Lines or Parquet, read through Hugging Face `datasets` (memory-mapped).

A row names one photo or clip and what people said about it. In JSON Lines the first line may be a header object (it has
none of a row's fields); in Parquet the header is schema metadata under the key `truetag`. Paths in rows are relative to
the header's `media_root`, which is itself relative to the manifest's folder and defaults to it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from truetag.data.rows import (
    FIELDS,
    LIST_FIELDS,
    PROBABILITIES,
    TEXT_FIELDS,
    Row,
    check_columns,
    check_row,
    is_header,
    split_named,
)
from truetag.errors import InputError
from truetag.io.files import replacing
from truetag.io.fingerprints import fingerprint_file
from truetag.io.text import one_line, parse_line, require_file, shown, text_lines

if TYPE_CHECKING:
    import datasets

ROWS_PER_WRITE = 1000
ROWS_PER_READ = 1000
_TABLES = (".csv", ".tsv", ".txt", ".json", ".xlsx")
_SCHEMA = pa.schema(
    {name: pa.string() for name in TEXT_FIELDS}
    | {name: pa.list_(pa.string()) for name in LIST_FIELDS}
    | {PROBABILITIES: pa.list_(pa.struct({"tag": pa.string(), "probability": pa.float64()}))}
)

Rows = Iterable[Any]
"""A list of rows, a stream of them, or a memory-mapped `datasets.Dataset`."""


@dataclass(frozen=True)
class Manifest:
    """A manifest, read and checked: `rows` is memory-mapped, and an absent field is None."""

    path: Path
    rows: "datasets.Dataset"
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def media_root(self) -> Path:
        """The folder that the paths in the rows are relative to."""
        return media_root(self.path, self.header)

    def media_path(self, name: str, path: str, allow_outside: bool = False) -> Path:
        """The file that `path`, in the row with the id `name`, points to.

        Raises:
            InputError: it lies outside the media root, and `allow_outside` is False.
        """
        root = self._absolute_root
        if not allow_outside and not os.path.normpath(os.path.join(root, path)).startswith(root):  # noqa: PTH118
            got = f"{self.path}: {shown(path)} of row {shown(name)} leads out of the media root {root}"
            raise InputError(f"{got}; add --allow-outside to read it anyway")
        return self.media_root / path

    @cached_property
    def _absolute_root(self) -> str:
        """The media root with a slash at its end; symbolic links are not resolved."""
        return os.path.join(os.path.abspath(self.media_root), "")  # noqa: PTH100, PTH118

    def in_split(self, split: str | None) -> "datasets.Dataset":
        """The rows of one split (all rows for None), in file order.

        Raises:
            InputError: no row belongs to `split`.
        """
        if split is None:
            return self.rows
        splits = self.rows["split"][:]
        chosen = [i for i, name in enumerate(splits) if name == split_named(split)]
        if not chosen:
            have = one_line(", ".join(sorted({name or "(none)" for name in splits})))
            raise InputError(f"{self.path}: no row has split {shown(split)}; its splits are: {have}")
        return self.rows.select(chosen)


def media_root(path: Path, header: dict[str, Any]) -> Path:
    """The media root that the header of the manifest at `path` names, or the manifest's own folder."""
    return path.parent / header.get("media_root", ".")


def read_manifest(path: Path | str) -> Manifest:
    """Read and check a whole manifest.

    Raises:
        InputError: the file is missing or empty, or a row breaks a rule; the message names the file and the line.
    """
    path = Path(path)
    header = read_header(path)
    import datasets  # here, as it takes longer than to find most mistakes
    from datasets import config
    from datasets.exceptions import DatasetGenerationError

    features = datasets.Features.from_arrow_schema(_SCHEMA)
    datasets.disable_progress_bars()
    # the digest gives a changed file a new cache entry
    arguments = {"path": str(path.resolve()), "digest": fingerprint_file(path)}
    try:
        rows = datasets.Dataset.from_generator(_checked_rows, features=features, gen_kwargs=arguments)
    except DatasetGenerationError as error:  # wraps a mistake in the file, or a full disk under the cache
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror or str(cause), str(config.HF_DATASETS_CACHE)) from None
        if isinstance(cause, InputError):
            raise cause from None
        raise
    assert isinstance(rows, datasets.Dataset)
    return Manifest(path, rows, header)


def read_header(path: Path | str) -> dict[str, Any]:
    """The manifest's header; empty if it has none.

    Raises:
        InputError: the file is missing, its first line is not JSON, or `media_root` is not a path.
    """
    path = Path(path)
    require_file(path, "manifest file")
    if path.suffix.lower() in _TABLES:
        raise InputError(
            f"{path}: expected a manifest (.jsonl or .parquet), got a table; make one with `truetag import tags` or "
            "`truetag import captions`"
        )
    with _reading(path):
        if path.suffix == ".parquet":
            metadata = pq.read_schema(path).metadata or {}
            header = parse_line(f"{path}, metadata 'truetag'", metadata.get(b"truetag", b"{}").decode()) or {}
        else:
            first = parse_line(f"{path}, line 1", next(text_lines(path), (1, ""))[1])
            header = first if first is not None and is_header(first) else {}
    root = header.get("media_root", ".")
    if not isinstance(root, str) or "\0" in root:
        raise InputError(f"{path}: the header's media_root must be text, the path of a folder, got {shown(root)}")
    return header


def iterate_rows(path: Path | str) -> Iterator[Row]:
    """Stream checked rows; each has every field, with None for the fields that the file lacks.

    Other usual names of splits (`val`, `dev`, `training`) become those that truetag uses.

    Raises:
        InputError: a row breaks a rule; the message names the file and the line.
    """
    path = Path(path)
    require_file(path, "manifest file")
    unit = "row" if path.suffix == ".parquet" else "line"
    line_of_id: dict[str, int] = {}
    with _reading(path):
        for line, row in _numbered_rows(path):
            location = f"{path}, {unit} {line}"
            check_row(location, row)
            if row["id"] in line_of_id:
                first = line_of_id[row["id"]]
                raise InputError(f"{location}: id {shown(row['id'])} was already used on {unit} {first}")
            line_of_id[row["id"]] = line
            yield {name: row.get(name) for name in FIELDS} | {"split": split_named(row.get("split"))}


def stream_rows(rows: Rows, fields: Sequence[str]) -> Iterator[Row]:
    """The rows one by one; from a memory-mapped dataset only `fields` are read, many rows at a time."""
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        yield from rows
        return
    narrow = rows.select_columns([name for name in fields if name in rows.column_names])
    for batch in narrow.iter(ROWS_PER_READ):
        columns = dict(batch)
        for values in zip(*columns.values(), strict=True):
            yield _from_arrow(dict(zip(columns, values, strict=True)))


def relative_root(media_dir: Path, out: Path) -> str:
    """`media_dir` relative to the folder of the manifest `out`, so that both can be moved together."""
    try:
        return Path(os.path.relpath(media_dir.resolve(), out.parent.resolve())).as_posix()
    except ValueError:  # another drive
        return media_dir.resolve().as_posix()


def write_manifest(path: Path | str, rows: Iterable[Row], header: dict[str, Any] | None = None) -> int:
    """Write rows as JSON Lines, or as Parquet if the name ends in `.parquet`; fields that are None are left out.

    The file appears whole or not at all.

    Returns:
        The number of rows written.
    """
    path = Path(path)
    write = _write_parquet if path.suffix == ".parquet" else _write_lines
    with replacing(path) as temporary:
        return write(temporary, rows, header or {})


def _to_arrow(row: Row) -> Row:
    """The row with its probabilities as Arrow holds them: it knows no object of any keys."""
    if row.get(PROBABILITIES) is None:
        return row
    return row | {PROBABILITIES: [{"tag": tag, "probability": p} for tag, p in row[PROBABILITIES].items()]}


def _from_arrow(row: Row) -> Row:
    if row.get(PROBABILITIES) is None:
        return row
    return row | {PROBABILITIES: {entry["tag"]: entry["probability"] for entry in row[PROBABILITIES]}}


def _checked_rows(path: str, digest: str) -> Iterator[Row]:
    row = None
    for row in iterate_rows(path):
        yield _to_arrow(row)
    if row is None:  # `datasets` would report it differently
        raise InputError(f"{path}: holds no rows")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in the message if it is not what its name promises."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # a disk error; pyarrow sets no errno for a damaged file
            raise
        raise InputError(f"{path}: not a readable Parquet file ({one_line(error)})") from None


def _numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    if path.suffix == ".parquet":
        line = 0
        with pq.ParquetFile(path) as file:
            check_columns(path, file.schema_arrow)
            known = [name for name in file.schema_arrow.names if name in FIELDS]  # and no index of pandas
            for batch in file.iter_batches(ROWS_PER_WRITE, columns=known):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    line += 1
                    yield line, _from_arrow(row)
        return
    for line, text in text_lines(path):
        row = parse_line(f"{path}, line {line}", text)
        if row is not None and not (line == 1 and is_header(row)):
            yield line, row


def _write_lines(path: Path, rows: Iterable[Row], header: dict[str, Any]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        if header:
            file.write(json.dumps(header, ensure_ascii=False) + "\n")
        for row in rows:
            present = {name: value for name, value in row.items() if value is not None}
            file.write(json.dumps(present, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, rows: Iterable[Row], header: dict[str, Any]) -> int:
    schema = _SCHEMA.with_metadata({"truetag": json.dumps(header)})
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append(_to_arrow({name: row.get(name) for name in FIELDS}))
            count += 1
            if len(batch) == ROWS_PER_WRITE:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count
