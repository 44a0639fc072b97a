"""Observed labels as people have them, made into one matrix of 1, 0 and NaN for unknown.

Two other conventions use -1 for *absent*: -1/+1, and PASCAL VOC's 1/-1 with 0 for "difficult". Read as ours, they leave
no negatives to learn from, and nothing looks wrong until the scores do. They are recognised by their zeros and refused.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from scipy import sparse
from torch import Tensor

from truetag.errors import InputError

_VOC_ABSENT, _VOC_PRESENT = 5, 3
"""VOC's 0 is rare: there are at least so many times as many -1, and as many 1."""
_TAGS = (list, tuple, set, frozenset, np.ndarray)
_EXPECTED = "y: expected labels 1, 0, and NaN or -1 for unknown"
_CONVERSIONS = (
    "if -1 is absent, as in -1/+1, pass `np.where(y == -1, 0, y)`; if 0 is difficult, as in PASCAL VOC, pass "
    "`np.select([y == -1, y == 0], [0, np.nan], y)`; if -1 is unknown, pass `np.where(y == -1, np.nan, y)`"
)


@dataclass(frozen=True)
class ObservedLabels:
    """Labels of 1, 0, and NaN for unknown; their names, if `y` has any; and whether -1 stood for unknown."""

    matrix: Float32[Tensor, "N K"]
    names: list[Any] | None
    is_tag_list: bool
    has_minus_one: bool


def observed_labels(
    y: Any, num_examples: int, names: Sequence[Hashable] | None = None, minus_one_is_unknown: bool = False
) -> ObservedLabels:
    """Read labels in any of the forms that `NoisyLabelClassifier` takes.

    Args:
        y: a matrix (dense, sparse, or a table), a single column, or a list of tags or label numbers per example.
        num_examples: N.
        names: of the labels that a fitted model has, or their numbers; None: all that `y` has, tags sorted.
        minus_one_is_unknown: whether that is certain, because the model was trained on such labels.

    Raises:
        InputError: another number of rows or labels, a value that is no label, an unknown name, or -1 that probably
            means absent.
    """
    if y is None:
        raise InputError("NoisyLabelClassifier requires y to be passed, but the target y is None")
    if (rows := _tag_lists(y)) is not None:
        if len(rows) != num_examples:
            raise InputError(f"y: expected {num_examples} lists of tags, one per example of X, got {len(rows)}")
        tags = _distinct_tags(rows) if names is None else list(names)
        return ObservedLabels(_indicators(rows, tags), tags, is_tag_list=True, has_minus_one=False)
    found = _column_names(y)
    if found is not None and names is not None and isinstance(names[0], str) and found != list(names):
        y, found = _in_order_of(y, found, list(names)), list(names)
    values = _as_floats(y)
    values = values[:, None] if values.ndim == 1 else values
    num_labels = None if names is None else len(names)
    if values.ndim != 2 or not values.shape[1] or values.shape != (num_examples, num_labels or values.shape[1]):
        expected = f"[{num_examples}, {num_labels or 'number of labels'}]"
        raise InputError(f"y: expected shape {expected}, one row per example of X, got shape {values.shape}")
    _refuse_other_values(values, of_list=isinstance(y, list))
    if not minus_one_is_unknown:
        _refuse_other_conventions(_count_values(values), each_label=names is None)
    is_unknown = values == -1
    matrix = torch.from_numpy(np.where(is_unknown, np.nan, values).astype(np.float32))
    return ObservedLabels(matrix, found, is_tag_list=False, has_minus_one=bool(is_unknown.any()))


def as_weights(sample_weight: Any, num_examples: int) -> Float32[Tensor, "N"]:
    """One weight per example, finite and not negative; or an `InputError`."""
    weights = np.asarray(sample_weight, dtype=np.float32)
    if weights.shape != (num_examples,):
        raise InputError(f"sample_weight: expected shape ({num_examples},), one an example, got {weights.shape}")
    if not (right := np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"sample_weight: expected finite numbers of 0 or more, got {weights[~right][0]:g}")
    if not weights.any():
        raise InputError("sample_weight: expected at least one weight above 0, got zeros alone")
    return torch.from_numpy(weights.copy())


def as_groups(groups: Any, num_examples: int) -> list[Any]:
    """One group per example; or an `InputError`."""
    keys = list(groups)
    if len(keys) != num_examples:
        raise InputError(f"groups: expected {num_examples}, one for each example, got {len(keys)}")
    return keys


class LabelReader:
    """Labels in any of the forms above, read some examples at a time.

    Arrays of numbers, memory-mapped ones among them, are read and checked part by part; other forms are read at once.

    Args:
        labels: in any form that `observed_labels` takes.
        num_examples: N.
        names: of the labels, in the order that is wanted; None: those that the labels have.
        argument: what messages call the labels.

    Raises:
        InputError: as of `observed_labels`.
    """

    def __init__(self, labels: Any, num_examples: int, names: Sequence[Hashable] | None, argument: str = "Z") -> None:
        self._argument = argument
        if isinstance(labels, Tensor):
            labels = labels.numpy(force=True)
        if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.dtype.kind in "biuf":
            self._labels, self.names, self.num_labels = labels, None, labels.shape[1]
            if len(labels) != num_examples:
                raise InputError(f"{argument}: expected {num_examples} rows, one per example, got {len(labels)}")
            self._counts: Shaped[np.ndarray, "3 K"] | None = np.zeros((3, self.num_labels), np.int64)
            return
        with self._naming():
            read = observed_labels(labels, num_examples, names)
        self._labels, self.names, self.num_labels = read.matrix.numpy(), read.names, read.matrix.shape[1]
        self._counts = None  # checked already

    def read(self, part: slice) -> Float32[np.ndarray, "A K"]:
        """The labels of some examples, NaN where unknown."""
        values = self._labels[part]
        if self._counts is None:
            return values
        with self._naming():
            _refuse_other_values(values, part.start)
        self._counts += _count_values(values)
        return np.where(values == -1, np.nan, values).astype(np.float32)

    def check_convention(self) -> None:
        """Raise an `InputError` if -1 probably meant absent in all that was read."""
        if self._counts is not None:
            with self._naming():
                _refuse_other_conventions(self._counts, each_label=True)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(str(error).replace("y: ", f"{self._argument}: ", 1)) from None


def _refuse_other_values(values: Shaped[np.ndarray, "N K"], first_row: int = 0, of_list: bool = False) -> None:
    wrong = ~((values == 0) | (values == 1) | (values == -1) | np.isnan(values))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        got = f"got {values[row, column]:g} at row {first_row + row}, column {column}"
        hint = "; if these are lists of label numbers, pass `[set(row) for row in y]`" if of_list else ""
        raise InputError(f"{_EXPECTED}; {got}{hint}")


def _count_values(values: Shaped[np.ndarray, "N K"]) -> Shaped[np.ndarray, "3 K"]:
    """How often each label is 1, 0 and -1."""
    return np.stack([(values == value).sum(0) for value in (1, 0, -1)])


def _refuse_other_conventions(counts: Shaped[np.ndarray, "3 K"], each_label: bool) -> None:
    """Raise where -1 probably means absent: a label, or where rows are few the whole matrix, has -1 and no 0."""
    present, absent, unknown = counts
    if not unknown.any():
        return
    if len(columns := np.flatnonzero((unknown > 0) & (absent == 0))) and (each_label or not absent.any()):
        where = "no label has a 0" if not absent.any() else f"column {columns[0]} has no 0"
        raise InputError(f"{_EXPECTED}; got -1 where {where}, which looks like the convention -1/+1: {_CONVERSIONS}")
    if unknown.sum() >= _VOC_ABSENT * absent.sum() and present.sum() >= _VOC_PRESENT * absent.sum():
        counted = f"{unknown.sum()} times -1, {absent.sum()} times 0, {present.sum()} times 1"
        raise InputError(f"{_EXPECTED}; got {counted}, which looks like PASCAL VOC's convention: {_CONVERSIONS}")


def _as_floats(y: Any) -> Shaped[np.ndarray, "*S"]:
    """The values as numbers, NaN where there is none."""
    try:
        if sparse.issparse(y):
            values = y.toarray()
        elif hasattr(y, "iloc"):  # pandas
            values = y.to_numpy(dtype=np.float64, na_value=np.nan)
        elif np.ma.isMaskedArray(y):
            values = np.ma.filled(y.astype(np.float64), np.nan)
        else:
            values = np.asarray(y)
        if values.dtype == object:
            is_missing = np.vectorize(_is_missing, otypes=[bool])(values)
            values = np.where(is_missing, np.nan, values)
        return values.astype(np.float64 if values.dtype.kind not in "f" else values.dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{_EXPECTED}; {error}") from None


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType"  # pandas.NA, without importing pandas


def _column_names(y: Any) -> list[str] | None:
    """The names of a table's columns, if all of them are text, as scikit-learn has it for features."""
    names = list(y.columns) if hasattr(y, "columns") else []
    if not names or not all(isinstance(name, str) for name in names):
        return None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"y: expected columns with distinct names, got {twice!r} more than once")
    return names


def _in_order_of(y: Any, found: list[str], names: list[Any]) -> Any:
    """The table with its columns in the order of the model's labels."""
    for kind, others in (("lacks", set(names) - set(found)), ("also has", set(found) - set(names))):
        if others:
            raise InputError(f"y: expected the columns of the training labels, got a table that {kind} {_some(others)}")
    return y[names]


def _tag_lists(y: Any) -> list[Any] | None:
    """The rows, if they are lists of tags or label numbers; None for a matrix or a column.

    Lists of equal length that hold numbers alone are the rows of a matrix.
    """
    if sparse.issparse(y) or hasattr(y, "columns") or not hasattr(y, "__iter__"):
        return None
    if isinstance(y, np.ndarray) and (y.ndim != 1 or y.dtype.kind not in "OUS"):
        return None
    rows = list(y)
    if any(isinstance(row, str) for row in rows):
        row = next(index for index, row in enumerate(rows) if isinstance(row, str))
        raise InputError(
            f"{_EXPECTED}, or a list of tags for each example; got the text {rows[row]!r} at row {row}: "
            "if each example has this one tag, pass `[[tag] for tag in y]`"
        )
    lists = [row for row in rows if isinstance(row, _TAGS)]
    if not lists:
        return None
    if any(isinstance(row, set | frozenset) for row in lists) or any(isinstance(v, str) for row in lists for v in row):
        is_matrix = False
    else:
        is_matrix = len(lists) == len(rows) and len({len(row) for row in lists}) == 1 and len(lists[0]) > 0
    if is_matrix:
        return None
    for index, row in enumerate(rows):
        if not isinstance(row, _TAGS) and not _is_missing(row) and row == row:
            raise InputError(f"y: expected a list of tags for each example, got {row!r} at row {index}")
        if isinstance(row, list | tuple | np.ndarray) and not _can_be_tags(row):
            raise InputError(
                f"y: expected rows of equal length, or a list of tags or label numbers for each example, got "
                f"{list(row)!r} at row {index}"
            )
    return rows


def _can_be_tags(row: Sequence[Any] | np.ndarray) -> bool:
    """Whether this is no ragged row of a matrix: in it a number would come twice."""
    try:
        return all(isinstance(v, str) for v in row) or len(set(row)) == len(row)
    except TypeError:  # a list within the list
        return False


def _distinct_tags(rows: Sequence[Any]) -> list[Any]:
    """All tags, sorted: text, or whole numbers."""
    tags = {tag for row in rows if isinstance(row, _TAGS) for tag in row}
    for kind in (str, Integral):
        if tags and all(isinstance(tag, kind) and not isinstance(tag, bool | np.bool_) and tag != "" for tag in tags):
            return sorted(str(tag) if kind is str else int(tag) for tag in tags)
    if not tags:
        raise InputError("y: expected at least one tag, got none in any list")
    odd = next((tag for tag in tags if not isinstance(tag, str) or not tag), None)
    raise InputError(f"y: expected lists of tags (text) or of label numbers, got {odd!r} in one of them")


def _indicators(rows: Sequence[Any], tags: Sequence[Hashable]) -> Float32[Tensor, "N K"]:
    """1 where an example has a tag, else 0; all NaN where it has no list."""
    column = {tag: index for index, tag in enumerate(tags)}
    matrix = torch.zeros(len(rows), len(tags))
    for index, row in enumerate(rows):
        if not isinstance(row, _TAGS):
            matrix[index] = torch.nan
            continue
        if unknown := [tag for tag in row if tag not in column]:
            raise InputError(f"y: expected tags that the model was trained on, got {unknown[0]!r} at row {index}")
        matrix[index, [column[tag] for tag in row]] = 1
    return matrix


def _some(names: set[Any]) -> str:
    shown = sorted(map(repr, names))
    return ", ".join(shown[:3]) + (", .." if len(shown) > 3 else "")
