"""Embeddings made elsewhere (by CLIP, SigLIP, DINO, ..): one reader of NumPy and Parquet files, with the rows by id.

    X.npy       [M, D]; the ids in X.npy.ids.json, a list, as `truetag features` writes it, or none
    X.npz       one array [M, D], and the ids in `ids` or `id`, or none
    X.parquet   a column of lists, or several of numbers; the ids in `id`, or in the only column of text, or none

Without ids, rows are taken by their order, and only if there are as many as there are examples.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped

from truetag.errors import InputError
from truetag.io.terminal import tell
from truetag.io.text import counted, one_line, read_json, require_file, shown

NO_FEATURES = "no features of this id"
EMBEDDING_SUFFIXES = (".npy", ".npz", ".parquet")
_KINDS = f"a numpy file or a Parquet file ({', '.join(EMBEDDING_SUFFIXES)})"
_ID_NAMES = ("id", "ids")
_ROWS_AT_A_TIME = 8192
_NAMED_ROWS = 5


@dataclass(frozen=True)
class Embeddings:
    """M embeddings of D numbers."""

    path: Path
    array: Shaped[np.ndarray, "M D"]
    """float16, float32 or float64; memory-mapped where it is an .npy file."""
    ids: Sequence[str] | None
    """The id of each row; None where the file has none."""

    def rows_of(self, ids: Sequence[str], what: str = "rows") -> Int64[np.ndarray, "N"]:
        """The row of each of N ids: by id where the file has ids, and else by order; -1 where there is none.

        Args:
            ids: of all examples.
            what: what they are, for the message.

        Raises:
            InputError: the file has no ids, and not as many rows; or it has ids, and none of these.
        """
        if self.ids is None:
            if len(self.array) != len(ids):
                raise InputError(
                    f"{self.path}: expected {counted(len(ids), 'row')}, one for each of the {what} in their order, as "
                    f"the file has no ids, got {len(self.array):,}"
                )
            return np.arange(len(ids))
        row_of = {name: row for row, name in enumerate(self.ids)}
        rows = np.array([row_of.get(name, -1) for name in ids], dtype=np.int64)
        if len(ids) and (rows < 0).all():
            got = f"ids such as {shown(self.ids[0])}" if self.ids else "no rows"
            raise InputError(f"{self.path}: expected ids such as {shown(ids[0])}, those of the {what}, got {got}")
        return rows

    def require_finite(self, rows: Int64[np.ndarray, "N"]) -> None:
        """Refuse NaN, infinity, and what float32 cannot hold.

        Raises:
            InputError: there are such numbers in these rows; the message counts and names them.
        """
        broken: list[int] = []
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            some = rows[start : start + _ROWS_AT_A_TIME]
            with np.errstate(over="ignore"):
                is_finite = np.isfinite(self.array[some].astype(np.float32)).all(1)
            broken += some[~is_finite].tolist()
        if broken:
            names = [shown(self.name_of(row)) for row in broken[:_NAMED_ROWS]] + [".."] * (len(broken) > _NAMED_ROWS)
            raise InputError(
                f"{self.path}: expected finite numbers, got NaN or infinity in {counted(len(broken), 'row')} "
                f"({', '.join(names)})"
            )

    def name_of(self, row: int) -> str:
        """The id of a row, or its number, counted from 0."""
        return str(row) if self.ids is None else self.ids[row]


def open_embeddings(path: Path) -> Embeddings:
    """Open a file of embeddings; its numbers are checked when they are used (`require_finite`).

    Raises:
        InputError: the file holds something else, or an id twice.
    """
    require_file(path, "numpy file")
    if path.suffix not in EMBEDDING_SUFFIXES:
        raise InputError(f"{path}: expected {_KINDS}, got {path.name!r}")
    status = path.stat()
    return _open(path, (status.st_size, status.st_mtime_ns))


def is_embeddings(path: Path) -> bool:
    """Whether a file holds embeddings, by its name; of a Parquet file, which may be a manifest, by its columns."""
    if path.suffix != ".parquet":
        return path.suffix in EMBEDDING_SUFFIXES
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return False
    return any(_is_number(field.type) or _is_list(field.type) for field in schema)


@functools.lru_cache(maxsize=2)  # a command asks for the same file several times
def _open(path: Path, signature: tuple[int, int]) -> Embeddings:
    match path.suffix:
        case ".npy":
            with _reading(path, "numpy file"):
                array = np.lib.format.open_memmap(path, "r")
            ids = _read_ids(path)
        case ".npz":
            array, ids = _from_archive(path, _read_archive(path))
        case _:
            array, ids = _read_parquet(path)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected numbers of shape [examples, columns], got {array.dtype} {array.shape}")
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float32)
    if ids is not None and len(ids) != len(array):
        raise InputError(f"{path}: expected an id for each of {counted(len(array), 'row')}, got {len(ids):,}")
    if ids is not None and len(set(ids)) < len(ids):
        twice = [name for name, count in Counter(ids).items() if count > 1]
        names = ", ".join(map(shown, twice[:_NAMED_ROWS]))
        raise InputError(f"{path}: expected each id once, got {counted(len(twice), 'id')} several times ({names})")
    return Embeddings(path, array, ids)


def ids_path(path: Path) -> Path:
    """The file with the ids of an .npy file."""
    return path.with_name(f"{path.name}.ids.json")


def _read_ids(path: Path) -> list[str] | None:
    beside = ids_path(path)
    if not beside.is_file():
        return None
    ids = read_json(beside)
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise InputError(f"{beside}: expected a list of texts, the ids of {path.name}, got {shown(ids)}")
    return ids


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Name the file in the message if it is not what its name promises."""
    try:
        yield
    except (ValueError, OSError, EOFError, BadZipFile, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        hint = "; save ids with `.astype(str)`" if "allow_pickle" in str(error) else ""
        raise InputError(f"{path}: not a readable {kind} ({one_line(error)}){hint}") from None


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    with _reading(path, "numpy file"), path.open("rb") as file:
        content = np.load(file, allow_pickle=False)
        return {"array": content} if isinstance(content, np.ndarray) else {name: content[name] for name in content}


def _from_archive(path: Path, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str] | None]:
    ids = [name for name in arrays if name in _ID_NAMES]
    others = [name for name in arrays if name not in _ID_NAMES]
    if len(others) != 1 or len(ids) > 1:
        raise InputError(
            f"{path}: expected one array of numbers, and perhaps `ids`, got {', '.join(arrays) or 'nothing'}"
        )
    if not ids:
        return arrays[others[0]], None
    names = arrays[ids[0]]
    if names.ndim != 1 or names.dtype.kind not in "UiuS":
        raise InputError(f"{path}: {ids[0]}: expected texts or whole numbers, got {names.dtype} {names.shape}")
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "backslashreplace")
    return arrays[others[0]], [str(name) for name in names.tolist()]


def _read_parquet(path: Path) -> tuple[np.ndarray, list[str] | None]:
    with _reading(path, "Parquet file"):
        table = pq.read_table(path)
    names = {field.name: field.type for field in table.schema if not field.name.startswith("__index_level_")}
    texts = [name for name, kind in names.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    of_ids = next((name for name in _ID_NAMES if name in names), None)
    if of_ids is None and len(texts) == 1:
        of_ids = texts[0]
    elif of_ids is None and texts:
        raise InputError(f"{path}: expected the ids in a column `id`, got the columns of text {', '.join(texts)}")
    lists = [name for name, kind in names.items() if _is_list(kind)]
    numbers = [name for name, kind in names.items() if _is_number(kind) and name != of_ids]
    if len(lists) > 1 or not (lists or numbers):
        got = ", ".join(lists or names)
        raise InputError(f"{path}: expected one column of lists of numbers, or columns of numbers, got {got}")
    used = lists or numbers
    for name in [*used, *([of_ids] if of_ids else [])]:
        if table[name].null_count:
            raise InputError(f"{path}: {name}: expected a value in each row, got {table[name].null_count:,} without")
    array = _stack_lists(path, lists[0], table[lists[0]]) if lists else _stack_columns(table, numbers)
    listed = one_line(", ".join(used), 80)
    where = "no ids" if of_ids is None else f"ids in {of_ids}"
    tell(f"{path.name}: {array.shape[1]} numbers for each of {counted(len(array), 'row')}, in {listed}; {where}")
    return array, None if of_ids is None else [str(name) for name in table[of_ids].to_pylist()]


def _stack_lists(path: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    chunks = [getattr(chunk, "storage", chunk) for chunk in column.chunks]
    lengths = {len(value) for chunk in chunks for value in chunk}
    if len(lengths) > 1:
        raise InputError(
            f"{path}: {name}: expected lists of one length, got lengths from {min(lengths)} to {max(lengths)}"
        )
    width = next(iter(lengths), 0)
    # a missing number becomes NaN, which is refused where it is used
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate(values).reshape(-1, width) if width else np.zeros((len(column), 0))


def _stack_columns(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_list(kind: pa.DataType) -> bool:
    kind = getattr(kind, "storage_type", kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and _is_number(kind.value_type)
