"""The manifest: one example a row, in JSON Lines or Parquet, read through Hugging Face `datasets` (memory-mapped).

A row names one photo or clip and what people said of it. In JSON Lines the first line may be a header object (it has
none of a row's fields); in Parquet the header is schema metadata under the key `truetag`. Paths are relative to the
header's `media_root`, itself relative to the manifest's folder, or to that folder where there is no `media_root`.
"""

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import config
from datasets.exceptions import DatasetGenerationError

from truetag.errors import InputError
from truetag.io.files import replacing
from truetag.io.fingerprints import fingerprint_file
from truetag.io.text import one_line, parse_line, require_file, shown, text_lines

TEXT_FIELDS = ("id", "image", "video", "features", "split", "group")
LIST_FIELDS = ("frames", "captions", "tags", "unknown_tags", "true_captions", "true_tags")
FIELDS = (*TEXT_FIELDS, *LIST_FIELDS)
MEDIA_FIELDS = ("image", "frames", "video", "features")
ROWS_PER_WRITE = 1000
ROWS_PER_READ = 1000

Row = dict[str, Any]
Rows = Iterable[Row] | datasets.Dataset


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been read and checked: `rows` is memory-mapped, an absent field is None."""

    path: Path
    rows: datasets.Dataset
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def media_root(self) -> Path:
        """The folder to which the paths of the rows are relative."""
        return media_root(self.path, self.header)

    def media_path(self, name: str, path: str, allow_outside: bool = False) -> Path:
        """Where a path of the row called `name` leads.

        Raises:
            InputError: it leads out of the media root and that is not allowed.
        """
        root = self._absolute_root
        if not allow_outside and not os.path.normpath(os.path.join(root, path)).startswith(root):  # noqa: PTH118
            got = f"{self.path}: {shown(path)} of row {shown(name)} leads out of the media root {root}"
            raise InputError(f"{got}; give --allow-outside to read it nevertheless")
        return self.media_root / path

    @cached_property
    def _absolute_root(self) -> str:
        """With a slash at its end; where its own links lead is its business."""
        return os.path.join(os.path.abspath(self.media_root), "")  # noqa: PTH100, PTH118

    def in_split(self, split: str | None) -> datasets.Dataset:
        """The rows of one split (all rows for None), in file order.

        Raises:
            InputError: no row belongs to `split`.
        """
        if split is None:
            return self.rows
        splits = self.rows["split"][:]
        chosen = [i for i, name in enumerate(splits) if name == split]
        if not chosen:
            have = one_line(", ".join(sorted({name or "(none)" for name in splits})))
            raise InputError(f"{self.path}: no row has split {shown(split)}; its splits are: {have}")
        return self.rows.select(chosen)


def media_root(path: Path, header: dict[str, Any]) -> Path:
    """The folder that the header of the manifest at `path` names, or the manifest's own."""
    return path.parent / header.get("media_root", ".")


def read_manifest(path: Path | str) -> Manifest:
    """Read and check a whole manifest.

    Raises:
        InputError: the file is missing or empty, or a row breaks a rule; the message names the file and the line.
    """
    path = Path(path)
    header = read_header(path)
    datasets.disable_progress_bars()
    # the digest makes a changed file a new cache entry
    arguments = {"path": str(path.resolve()), "digest": fingerprint_file(path)}
    try:
        rows = datasets.Dataset.from_generator(_checked_rows, features=_FEATURES, gen_kwargs=arguments)
    except DatasetGenerationError as error:  # around a mistake in the file, or a full disk under the cache
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror or str(cause), str(config.HF_DATASETS_CACHE)) from None
        if isinstance(cause, InputError):
            raise cause from None
        raise
    assert isinstance(rows, datasets.Dataset)
    return Manifest(path, rows, header)


def read_header(path: Path | str) -> dict[str, Any]:
    """The manifest's header; empty where it has none.

    Raises:
        InputError: the file is missing, its first line is not JSON, or `media_root` is no path.
    """
    path = Path(path)
    require_file(path, "manifest file")
    with _reading(path):
        if path.suffix == ".parquet":
            metadata = pq.read_schema(path).metadata or {}
            header = parse_line(f"{path}, metadata 'truetag'", metadata.get(b"truetag", b"{}").decode()) or {}
        else:
            first = parse_line(f"{path}, line 1", next(text_lines(path), (1, ""))[1])
            header = first if first is not None and _is_header(first) else {}
    root = header.get("media_root", ".")
    if not isinstance(root, str) or "\0" in root:
        raise InputError(f"{path}: the header's media_root must be text, the path of a folder, got {shown(root)}")
    return header


def iterate_rows(path: Path | str) -> Iterator[Row]:
    """Stream checked rows, every field present and None where the file has none.

    Raises:
        InputError: a row breaks a rule; the message names the file and the line.
    """
    path = Path(path)
    require_file(path, "manifest file")
    unit = "row" if path.suffix == ".parquet" else "line"
    seen: dict[str, int] = {}
    with _reading(path):
        for line, row in _numbered_rows(path):
            place = f"{path}, {unit} {line}"
            _check(place, row)
            if row["id"] in seen:
                raise InputError(f"{place}: id {shown(row['id'])} was already used on {unit} {seen[row['id']]}")
            seen[row["id"]] = line
            yield {name: row.get(name) for name in FIELDS}


def stream_rows(rows: Rows, fields: Sequence[str]) -> Iterator[Row]:
    """The rows one by one; of a memory-mapped dataset only the fields that are wanted are read, many rows at a time."""
    if not isinstance(rows, datasets.Dataset):
        yield from rows
        return
    narrow = rows.select_columns([name for name in fields if name in rows.column_names])
    for batch in narrow.iter(ROWS_PER_READ):
        columns = dict(batch)
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def relative_root(media_dir: Path, out: Path) -> str:
    """`media_dir` as seen from the folder of the manifest `out`, so that the tree which holds both can be moved."""
    try:
        return Path(os.path.relpath(media_dir.resolve(), out.parent.resolve())).as_posix()
    except ValueError:  # another drive
        return media_dir.resolve().as_posix()


def write_manifest(path: Path | str, rows: Iterable[Row], header: dict[str, Any] | None = None) -> int:
    """Write rows (JSON Lines, or Parquet for `.parquet`) whole or not at all; fields that are None are left out.

    Returns:
        How many rows were written.
    """
    path = Path(path)
    write = _write_parquet if path.suffix == ".parquet" else _write_lines
    with replacing(path) as temporary:
        return write(temporary, rows, header or {})


_FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in TEXT_FIELDS}
    | {name: datasets.List(datasets.Value("string")) for name in LIST_FIELDS}
)


_LIST_TYPES = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)


def _checked_rows(path: str, digest: str) -> Iterator[Row]:
    row = None
    for row in iterate_rows(path):
        yield row
    if row is None:  # which `datasets` would call by another name
        raise InputError(f"{path}: holds no rows")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which file it is that is not what its name promises."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; pyarrow has none for a damaged file
            raise
        raise InputError(f"{path}: not a readable Parquet file ({one_line(error)})") from None


def _numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    if path.suffix == ".parquet":
        line = 0
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            for batch in file.iter_batches(ROWS_PER_WRITE):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
        return
    for line, text in text_lines(path):
        row = parse_line(f"{path}, line {line}", text)
        if row is not None and not (line == 1 and _is_header(row)):
            yield line, row


def _is_header(first: Row) -> bool:
    return not any(name in FIELDS for name in first)


def _check_columns(path: Path, schema: pa.Schema) -> None:
    """Refuse a Parquet file whose columns are not the fields, before any of its rows is read."""
    names: list[str] = schema.names
    for name, kind in zip(names, schema.types, strict=True):
        if pa.types.is_null(kind):
            continue
        if name not in FIELDS:
            raise InputError(f"{path}: unknown column {shown(name)}; {_hint(name)}")
        if names.count(name) > 1:
            raise InputError(f"{path}: column {name!r} is there {names.count(name)} times, expected once")
        if name in TEXT_FIELDS and not _holds_text(kind):
            raise InputError(f"{path}: {name} must be text, got a column of {one_line(kind, 80)}")
        if name in LIST_FIELDS and not (isinstance(kind, _LIST_TYPES) and _holds_text(kind.value_type)):
            raise InputError(f"{path}: {name} must be a list of texts, got a column of {one_line(kind, 80)}")


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name[:40], FIELDS, 1)
    return f"did you mean {close[0]!r}?" if close else f"fields are: {', '.join(FIELDS)}"


def _check(place: str, row: Row) -> None:
    for name, value in row.items():
        if value is None:
            continue
        if name not in FIELDS:
            raise InputError(f"{place}: unknown field {shown(name)}; {_hint(name)}")
        if name in TEXT_FIELDS and not isinstance(value, str):
            raise InputError(f"{place}: {name} must be text, got {shown(value)}")
        if name in LIST_FIELDS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise InputError(f"{place}: {name} must be a list of texts, got {shown(value)}")
    if not row.get("id"):
        raise InputError(f"{place}: id is missing or empty")
    media = [name for name in MEDIA_FIELDS if row.get(name)]
    if len(media) != 1:
        got = " and ".join(media) or "none of them"
        raise InputError(f"{place}: expected exactly one of {', '.join(MEDIA_FIELDS)}, got {got}")


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
    schema = _FEATURES.arrow_schema.with_metadata({"truetag": json.dumps(header)})
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append({name: row.get(name) for name in FIELDS})
            count += 1
            if len(batch) == ROWS_PER_WRITE:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count
