"""Out-of-sample posteriors: each example's from a model that saw neither it nor its near-duplicates.

A model that was trained on a label vouches for it, right or wrong; one that was not is a second opinion. Evidence
against a label must therefore come from here.
"""

from numbers import Integral
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import has_fit_parameter

from truetag.data.stratify import grouped_folds, unit_numbers
from truetag.errors import InputError

SEED = 0
_MOST_NAMED = 3


def cross_val_posterior(
    estimator: Any,
    X: Annotated[Any, "N D"],
    y: Annotated[Any, "N K"],
    cv: Any = 5,
    groups: Annotated[Any, "N"] | None = None,
) -> Float64[np.ndarray, "N K"]:
    """p(y=1|z,x) of every example, each from a clone of the estimator that was trained on the other folds.

    Args:
        estimator: has `fit(X, y)` and `posterior(X, y)`, as `NoisyLabelClassifier`; it stays as it is.
        X: features of each example.
        y: observed labels as the estimator takes them, unknown ones and sparse ones included.
        cv: the number of folds, drawn with a fixed seed; or a splitter of scikit-learn, or pairs of the row numbers of
            training and of test examples.
        groups: near-duplicates, which share a fold; an example whose group is None stands alone. They are passed on to
            the estimator's `fit` if it takes them.

    Raises:
        InputError: the estimator has no `posterior`; lengths disagree; there are more folds than examples or groups; or
            an example is not tested exactly once, or by a model that was trained on it.

    >>> from truetag.estimator import NoisyLabelClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 8))
    >>> is_true, is_wrong = X > 0, rng.random(X.shape) < 0.2
    >>> rates = {"initial_missing_rate": 0.2, "initial_incorrect_rate": 0.2}
    >>> tagger = NoisyLabelClassifier("fi", learning_rate=0.05, weight_decay=0, **rates)
    >>> posterior = cross_val_posterior(tagger, X, is_true != is_wrong)
    >>> round(float(((posterior > 0.5) == is_true).mean()), 1)  # of the labels that it was given, 0.8 are right
    0.9
    """
    if not hasattr(estimator, "posterior"):
        raise InputError(f"estimator: expected one that has posterior(X, y), got {type(estimator).__name__}")
    try:
        X, y, groups = indexable(X, y, groups)
        folds = _folds(X, y, cv, groups)
    except (ValueError, IndexError) as error:
        raise InputError(str(error)) from None
    parts = []
    takes_groups = groups is not None and has_fit_parameter(estimator, "groups")
    for train, test in folds:
        model: Any = clone(estimator)
        options = {"groups": _safe_indexing(groups, train)} if takes_groups else {}
        model.fit(_safe_indexing(X, train), _safe_indexing(y, train), **options)
        parts.append(model.posterior(_safe_indexing(X, test), _safe_indexing(y, test)))
    tested = np.concatenate([test for _, test in folds])
    return np.concatenate(parts)[np.argsort(tested)]


def _folds(X: Any, y: Any, cv: Any, groups: Any) -> list[tuple[Int64[np.ndarray, "A"], Int64[np.ndarray, "B"]]]:
    """Rows of the training and the test examples of each fold, checked so that each example is tested once."""
    rows = np.arange(X.shape[0] if hasattr(X, "shape") else len(X))
    if isinstance(cv, Integral):
        groups = None if groups is None else list(groups)
        num_units = len(np.unique(unit_numbers(len(rows), groups)))
        if not 2 <= int(cv) <= num_units:
            kind = "examples" if groups is None else "groups"
            raise InputError(f"cv: expected from 2 folds up to the number of {kind}, {num_units}, got {cv}")
        fold_of_row = grouped_folds(len(rows), int(cv), torch.Generator().manual_seed(SEED), groups)
        folds = [(rows[fold_of_row != fold], rows[fold_of_row == fold]) for fold in range(int(cv))]
    else:
        splitter: Any = check_cv(cv)
        pairs = splitter.split(X, y, groups)
        folds = [(rows[train], rows[test]) for train, test in pairs]  # masks and lists count as rows too
    times = sum((np.bincount(test, minlength=len(rows)) for _, test in folds), np.zeros_like(rows))
    if len(odd := np.flatnonzero(times != 1)):
        some = ", ".join(f"{row} ({times[row]} times)" for row in odd[:_MOST_NAMED])
        more = ", .." if len(odd) > _MOST_NAMED else ""
        raise InputError(f"cv: expected each example in one test part, got {len(odd)} that are not: {some}{more}")
    for train, test in folds:
        if len(both := np.intersect1d(train, test)):
            raise InputError(f"cv: expected test examples that are not trained on, got example {both[0]} in both parts")
    return folds
