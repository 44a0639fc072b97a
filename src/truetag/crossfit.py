"""Out-of-sample posteriors: each example's from a model that saw neither it nor its near-duplicates.

A model that was trained on a label vouches for it, right or wrong; one that was not is a second opinion. Evidence
against a label must therefore come from here.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from numbers import Integral
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter

from truetag.data.stratify import grouped_folds, unit_numbers
from truetag.errors import InputError
from truetag.evaluation.ranking import mean_over_labels
from truetag.io.terminal import Progress
from truetag.label_noise.observed_labels import observed_labels

SEED = 0
_MOST_NAMED = 3
_INNER_FOLDS = 5
"""Of a search that names none, as scikit-learn has it."""


def cross_val_posterior(
    estimator: Any,
    X: Annotated[Any, "N D"],
    y: Annotated[Any, "N K"],
    cv: Any = 5,
    groups: Annotated[Any, "N"] | None = None,
    method: str = "posterior",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> Float64[np.ndarray, "N K"]:
    """p(y=1|z,x) of every example, each from a clone of the estimator that was trained on the other folds.

    scikit-learn's own `cross_val_predict` knows no posterior, and takes an unknown label for a third class.

    Args:
        estimator: has `fit(X, y)` and `posterior(X, y)`, as `NoisyLabelClassifier`; or a `Pipeline` whose last step is
            one, or a search (`GridSearchCV`, `RandomizedSearchCV`) over either. It stays as it is.
        X: features of each example.
        y: observed labels in any form that `NoisyLabelClassifier` takes, unknown ones and lists of tags included.
        cv: the number of folds, drawn with a fixed seed; or a splitter of scikit-learn, or pairs of the row numbers of
            training and of test examples.
        groups: near-duplicates, which share a fold, also a fold of a search; an example whose group is None stands
            alone. They are passed on to the classifier's `fit` if it takes them.
        method: "posterior", or "predict_proba" for p(y=1|x), which does not look at the example's own labels.
        n_jobs: how many folds are trained at once, as scikit-learn has it.
        verbose: 1 shows a progress bar on standard error.

    Raises:
        InputError: the estimator has no such method; lengths disagree; there are more folds than examples or groups; or
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
    if method not in ("posterior", "predict_proba"):
        raise InputError(f"method: expected 'posterior' or 'predict_proba', got {method!r}")
    classifier = _classifier_in(estimator)
    if not hasattr(classifier, method):
        raise InputError(f"estimator: expected one that has {method}(X, y), got {type(classifier).__name__}")
    try:
        X, y, groups = indexable(X, y, groups)
        labels = observed_labels(y, _num_rows(X)).matrix.numpy()  # once: a fold may lack a tag, or the zeros beside -1
        folds = _folds(X, labels, cv, groups)
    except (ValueError, IndexError) as error:
        raise InputError(str(error)) from None
    passed_on = groups if has_fit_parameter(classifier, "groups") else None
    run = Parallel(n_jobs=n_jobs, return_as="generator")
    jobs = (
        delayed(_answer_of_fold)(
            _with_inner_folds(clone(estimator), _safe_indexing(X, train), labels[train], _rows_of(groups, train)),
            X,
            labels,
            train,
            test,
            _rows_of(passed_on, train),
            method,
        )
        for train, test in folds
    )
    parts = []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress("training folds", len(folds))) if verbose else None
        for part in run(jobs):
            parts.append(part)
            if progress is not None:
                progress.advance(1)
    tested = np.concatenate([test for _, test in folds])
    return np.concatenate(parts)[np.argsort(tested)]


def known_labels_scorer(metric: Callable[..., float], response_method: str = "predict") -> Callable[..., float]:
    """A scorer for scikit-learn's `scoring=`: the mean of the metric over labels, each on its known examples alone.

    scikit-learn's own scorers stop at unknown labels. A label that is known of no example, or for which the metric is
    NaN, does not count; NaN where none counts. `cv` must be a splitter, such as `KFold(5)`: for a number scikit-learn
    looks at the labels, and stops at NaN. Without `scoring`, the score of `NoisyLabelClassifier` is its mean average
    precision, which leaves unknown labels out already.

    Args:
        metric: of the known labels and the answers for one label, such as `sklearn.metrics.f1_score`.
        response_method: what is asked: "predict", "predict_proba" or "decision_function".

    >>> from sklearn.metrics import roc_auc_score
    >>> scorer = known_labels_scorer(roc_auc_score, "predict_proba")  # GridSearchCV(.., cv=KFold(5), scoring=scorer)
    """
    return partial(_score_of_known, metric, response_method)


def _score_of_known(metric: Callable[..., float], response_method: str, estimator: Any, X: Any, y: Any) -> float:
    answers = np.asarray(getattr(estimator, response_method)(X))
    names = getattr(_classifier_in(estimator), "label_names_in_", None)
    # the convention of -1 was looked at in training: a fold of few rows cannot tell
    labels = observed_labels(y, len(answers), None if names is None else list(names), True).matrix.numpy()
    is_known = ~np.isnan(labels)
    scores = [
        float(metric(labels[rows, label].astype(np.int64), answers[rows, label]))
        for label, rows in enumerate(is_known.T)
        if rows.any()
    ]
    return mean_over_labels(scores) if scores else float("nan")


def _answer_of_fold(
    model: Any, X: Any, labels: Any, train: Any, test: Any, groups: Any, method: str
) -> Float64[np.ndarray, "A K"]:
    if groups is None:
        model.fit(_safe_indexing(X, train), labels[train])
    else:
        with config_context(enable_metadata_routing=True):  # the one way through a search as well as a Pipeline
            classifier = _classifier_in(model)
            if model is not classifier:
                classifier.set_fit_request(groups=True)
            model.fit(_safe_indexing(X, train), labels[train], groups=groups)
    answer = np.asarray(_answer(model, _safe_indexing(X, test), labels[test], method))
    if answer.ndim != 2:
        raise InputError(f"{method}: expected one probability per example and label, got shape {answer.shape}")
    return answer


def _answer(model: Any, X: Any, labels: Any, method: str) -> Any:
    """What the classifier says, behind whatever prepares its features."""
    if _is_search(model):
        return _answer(model.best_estimator_, X, labels, method)
    if isinstance(model, Pipeline):
        features = model[:-1].transform(X) if len(model.steps) > 1 else X
        return _answer(model[-1], features, labels, method)
    return model.posterior(X, labels) if method == "posterior" else model.predict_proba(X)


def _classifier_in(estimator: Any) -> Any:
    """The classifier at the end of pipelines and searches."""
    if _is_search(estimator):
        if not estimator.refit:
            raise InputError(f"refit: expected a search that trains the best estimator, got {estimator.refit!r}")
        return _classifier_in(estimator.estimator)
    return _classifier_in(estimator.steps[-1][1]) if isinstance(estimator, Pipeline) else estimator


def _is_search(estimator: Any) -> bool:
    return hasattr(estimator, "estimator") and hasattr(estimator, "refit") and hasattr(estimator, "cv")


def _with_inner_folds(model: Any, X: Any, labels: Any, groups: Any) -> Any:
    """The model; a search at its top has its folds drawn here, as scikit-learn would look at the labels for them."""
    if _is_search(model):
        num_or_splitter = _INNER_FOLDS if model.cv is None else model.cv
        model.cv = _pairs(X, labels, num_or_splitter, groups)
    return model


def _rows_of(groups: Any, rows: Any) -> Any:
    return None if groups is None else _safe_indexing(groups, rows)


def _num_rows(X: Any) -> int:
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _folds(X: Any, y: Any, cv: Any, groups: Any) -> list[tuple[Int64[np.ndarray, "A"], Int64[np.ndarray, "B"]]]:
    """Rows of the training and the test examples of each fold, checked so that each example is tested once."""
    rows = np.arange(len(y))
    folds = _pairs(X, y, cv, groups)
    times = sum((np.bincount(test, minlength=len(rows)) for _, test in folds), np.zeros_like(rows))
    if len(odd := np.flatnonzero(times != 1)):
        some = ", ".join(f"{row} ({times[row]} times)" for row in odd[:_MOST_NAMED])
        more = ", .." if len(odd) > _MOST_NAMED else ""
        raise InputError(f"cv: expected each example in one test part, got {len(odd)} that are not: {some}{more}")
    for train, test in folds:
        if len(both := np.intersect1d(train, test)):
            raise InputError(f"cv: expected test examples that are not trained on, got example {both[0]} in both parts")
    return folds


def _pairs(X: Any, y: Any, cv: Any, groups: Any) -> list[tuple[Int64[np.ndarray, "A"], Int64[np.ndarray, "B"]]]:
    """Rows of the training and the test examples of each fold."""
    rows = np.arange(len(y))
    if not isinstance(cv, Integral):
        splitter: Any = check_cv(cv)
        pairs = splitter.split(X, y, groups)
        return [(rows[train], rows[test]) for train, test in pairs]  # masks and lists count as rows too
    groups = None if groups is None else list(groups)
    num_units = len(np.unique(unit_numbers(len(rows), groups)))
    if not 2 <= int(cv) <= num_units:
        kind = "examples" if groups is None else "groups"
        raise InputError(f"cv: expected from 2 folds up to the number of {kind}, {num_units}, got {cv}")
    fold_of_row = grouped_folds(len(rows), int(cv), torch.Generator().manual_seed(SEED), groups)
    return [(rows[fold_of_row != fold], rows[fold_of_row == fold]) for fold in range(int(cv))]
