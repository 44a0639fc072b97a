"""Label issues: which observed labels are probably wrong, in one ranked list, and how many there are.

A posterior p(y=1|z,x) says of each label that was observed how probably it is wrong: where z = 1, 1 - p (the label is
`incorrect`), and where z = 0, p (it is `missing`). One probability ranks both kinds, and its sum over examples is the
expected number of issues. The posterior must come from models that did not see the example
(`truetag.cross_val_posterior`): one that did vouches for its label.

Everything is computed some examples at a time: a memory-mapped posterior of any length will do.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from truetag.errors import InputError
from truetag.label_noise.observed_labels import LabelReader
from truetag.label_noise.settings import MIN_PROBABILITY

if TYPE_CHECKING:
    import pandas as pd

MISSING, INCORRECT = "missing", "incorrect"
ADD, REMOVE = "add", "remove"
_CELLS_AT_A_TIME = 2**20
_NORMAL_975 = 1.959964  # the normal distribution's 97.5 % quantile


def find_label_issues(
    posterior: Annotated[Any, "N K"],
    Z: Annotated[Any, "N K"],
    *,
    example_ids: Sequence[Hashable] | None = None,
    label_names: Sequence[Hashable] | None = None,
    min_probability: float = MIN_PROBABILITY,
    max_issues: int | None = None,
) -> "pd.DataFrame":
    """The observed labels that are probably wrong, the surest first.

    Args:
        posterior: p(y=1|z,x) of each example and label, out of sample (see `truetag.cross_val_posterior`).
        Z: the observed labels, in any form that `NoisyLabelClassifier` takes. Unknown labels are no issues.
        example_ids: N names of the examples; without them, their row numbers.
        label_names: K names of the labels; without them, those of `Z`, or else their column numbers.
        min_probability: list the labels that are wrong with at least this probability; 0 lists all known ones.
        max_issues: list no more than so many.

    Returns:
        One issue a row: `example`, `label`, `kind` ("missing" or "incorrect"), `probability` (that the observed label
        is wrong), `rank` (from 1), `rank_in_example`, `given` (0 or 1), `posterior`, and `suggestion` ("add" or
        "remove").

    Raises:
        InputError: shapes disagree, a probability is not in 0..1, `Z` has a value that is no label, or an argument is
            out of range.

    >>> posterior = np.array([[0.9, 0.2], [0.4, 0.97]])
    >>> issues = find_label_issues(posterior, np.array([[1, 1], [0, 0]]), label_names=["cat", "dog"])
    >>> issues[["example", "label", "kind", "probability"]].values.tolist()
    [[1, 'dog', 'missing', 0.97], [0, 'dog', 'incorrect', 0.8]]
    """
    import pandas as pd

    if not 0 <= min_probability <= 1:
        raise InputError(f"min_probability: expected a number from 0 to 1, got {min_probability}")
    if max_issues is not None and max_issues < 0:
        raise InputError(f"max_issues: expected 0 or more, got {max_issues}")
    scan = _Scan(posterior, Z, label_names)
    if example_ids is not None and len(example_ids) != scan.num_examples:
        raise InputError(f"example_ids: expected {scan.num_examples}, got {len(example_ids)}")
    parts, num_found = [_Cells.none()], 0
    for part in scan:
        rows, columns = np.nonzero(part.wrong >= min_probability)  # NaN, where the label is unknown, is not
        parts.append(_Cells(part.start + rows, columns, part.wrong[rows, columns], part.labels[rows, columns] == 1))
        num_found += len(rows)
        if max_issues is not None and num_found > max(4 * max_issues, _CELLS_AT_A_TIME):
            parts, num_found = [_Cells.joined(parts).surest(max_issues)], max_issues
    rows, columns, probabilities, given = _Cells.joined(parts).surest(max_issues)
    names = scan.names()
    return pd.DataFrame(
        {
            "example": rows if example_ids is None else [example_ids[row] for row in rows],
            "label": columns if names is None else [names[column] for column in columns],
            "kind": np.where(given, INCORRECT, MISSING),
            "probability": probabilities,
            "rank": np.arange(1, len(rows) + 1),
            "rank_in_example": pd.Series(rows).groupby(rows).cumcount().to_numpy() + 1,
            "given": given.astype(np.int64),
            "posterior": np.where(given, 1 - probabilities, probabilities),
            "suggestion": np.where(given, REMOVE, ADD),
        }
    )


def count_label_issues(
    posterior: Annotated[Any, "N K"], Z: Annotated[Any, "N K"], *, label_names: Sequence[Hashable] | None = None
) -> "pd.DataFrame":
    """How many labels are probably missing and incorrect, of each label: sums of probabilities over all examples.

    Args:
        posterior: p(y=1|z,x), out of sample.
        Z: the observed labels.
        label_names: K names; without them, those of `Z`, or else the column numbers.

    Returns:
        One label a row: `label`, `given` (examples that have it), `known` (examples of which it is known), the expected
        numbers `missing` and `incorrect`, the expected number of examples of which it is `true`, and the deviations
        `missing_std` and `incorrect_std` of the numbers around their expectation if each probability is right.

    Raises:
        InputError: as of `find_label_issues`.

    >>> counts = count_label_issues(np.array([[0.9], [0.5], [0.5]]), np.array([[1], [0], [0]]))
    >>> counts[["given", "missing", "incorrect", "true"]].round(3).values.tolist()
    [[1.0, 1.0, 0.1, 1.9]]
    """
    import pandas as pd

    scan = _Scan(posterior, Z, label_names)
    totals = {name: np.zeros(scan.num_labels) for name in ("known", "given", MISSING, INCORRECT)}
    variances = {name: np.zeros(scan.num_labels) for name in (MISSING, INCORRECT)}
    for part in scan:
        is_known, is_given = ~np.isnan(part.labels), part.labels == 1
        totals["known"] += is_known.sum(0)
        totals["given"] += is_given.sum(0)
        for name, chosen in ((MISSING, is_known & ~is_given), (INCORRECT, is_given)):
            wrong = np.where(chosen, part.wrong, 0)
            totals[name] += wrong.sum(0)
            variances[name] += (wrong * (1 - wrong)).sum(0)
    names = scan.names()
    return pd.DataFrame(
        {
            "label": np.arange(scan.num_labels) if names is None else list(names),
            "given": totals["given"].astype(np.int64),
            "known": totals["known"].astype(np.int64),
            MISSING: totals[MISSING],
            INCORRECT: totals[INCORRECT],
            "true": totals["given"] - totals[INCORRECT] + totals[MISSING],
            f"{MISSING}_std": np.sqrt(variances[MISSING]),
            f"{INCORRECT}_std": np.sqrt(variances[INCORRECT]),
        }
    )


def example_quality(posterior: Annotated[Any, "N K"], Z: Annotated[Any, "N K"]) -> Float64[np.ndarray, "N"]:
    """How good the labels of each example are: the expected number of given true ones over that of given or true ones.

    That is the Jaccard index of the given and the true labels, with both numbers at their expectation: 1 where all
    given labels are right and none is missing, 0 where none is right; 1 too where none is given and none is true.

    Raises:
        InputError: as of `find_label_issues`.

    >>> example_quality(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[1, 0], [1, 0]])).round(3)
    array([1.   , 0.333])
    """
    scan = _Scan(posterior, Z, None)
    scores = np.ones(scan.num_examples)
    for part in scan:
        is_given = part.labels == 1
        right = np.where(is_given, 1 - part.wrong, 0).sum(1)
        either = is_given.sum(1) + np.where(is_given, 0, np.nan_to_num(part.wrong)).sum(1)
        of_part = scores[part.start : part.start + len(right)]
        np.divide(right, either, out=of_part, where=either > 0)
    return scores


def interval_of(expected: float, deviation: float) -> tuple[float, float]:
    """The 95 % interval of a number of issues, by the normal distribution; not below 0.

    >>> [round(end, 1) for end in interval_of(10.0, 1.0)]
    [8.0, 12.0]
    """
    half = _NORMAL_975 * deviation
    return max(0.0, expected - half), expected + half


class _Cells(NamedTuple):
    """Some labels of some examples."""

    rows: Any
    columns: Any
    wrong: Any
    given: Any

    @classmethod
    def none(cls) -> "_Cells":
        return cls(*(np.zeros(0, dtype) for dtype in (np.int64, np.int64, np.float64, bool)))

    @classmethod
    def joined(cls, parts: "Sequence[_Cells]") -> "_Cells":
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def surest(self, count: int | None) -> "_Cells":
        """Those that are wrong with the highest probability, in this order; of equal ones the first."""
        order = np.argsort(-self.wrong, kind="stable")[:count]
        return _Cells(*(values[order] for values in self))


class _Part(NamedTuple):
    """Consecutive examples: their labels, NaN where unknown, and the probability that each is wrong, NaN likewise."""

    start: int
    labels: Float32[np.ndarray, "A K"]
    wrong: Float64[np.ndarray, "A K"]


class _Scan:
    """Posterior and labels, checked and read some examples at a time."""

    def __init__(self, posterior: Any, Z: Any, label_names: Sequence[Hashable] | None) -> None:
        shape = np.shape(posterior)
        if len(shape) != 2 or not shape[1]:
            raise InputError(f"posterior: expected shape [examples, labels], got {shape}")
        self.num_examples, self.num_labels = shape
        if label_names is not None and len(label_names) != self.num_labels:
            raise InputError(f"label_names: expected {self.num_labels}, one for each label, got {len(label_names)}")
        self._posterior, self._label_names = posterior, label_names
        self._reader = LabelReader(Z, self.num_examples, label_names)
        if self._reader.num_labels != self.num_labels:
            got = f"{self._reader.num_labels} labels"
            raise InputError(f"Z: expected {self.num_labels} labels, as the posterior has, got {got}")

    def names(self) -> Sequence[Hashable] | None:
        return self._label_names if self._label_names is not None else self._reader.names

    def __iter__(self) -> Iterator[_Part]:
        size = max(1, _CELLS_AT_A_TIME // self.num_labels)
        for start in range(0, self.num_examples, size):
            part = slice(start, min(start + size, self.num_examples))
            labels = self._reader.read(part)
            posterior = np.asarray(self._posterior[part], dtype=np.float64)
            is_known = ~np.isnan(labels)
            if not ((posterior >= 0) & (posterior <= 1))[is_known].all():
                odd = posterior[is_known & ~((posterior >= 0) & (posterior <= 1))][0]
                raise InputError(f"posterior: expected probabilities from 0 to 1, got {odd:g}")
            wrong = np.where(labels == 1, 1 - posterior, posterior)
            yield _Part(start, labels, np.where(is_known, wrong, math.nan))
        self._reader.check_convention()
