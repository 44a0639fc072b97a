"""A posterior is of a model that saw neither the example nor its near-duplicates, and each example gets one."""

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    RandomizedSearchCV,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from truetag import NoisyLabelClassifier, cross_val_posterior, known_labels_scorer
from truetag.errors import InputError

N, D, K = 60, 8, 3
TAGGER = NoisyLabelClassifier("fi", learning_rate=0.01, weight_decay=0.0)


class Remembering(BaseEstimator):
    """Its posterior is the number of trained examples with the same features, and the label it is asked about."""

    def fit(self, X, y):
        self.seen_ = [tuple(row) for row in np.asarray(X)]
        return self

    def posterior(self, X, y):
        counts = [self.seen_.count(tuple(row)) for row in np.asarray(X)]
        return np.column_stack([counts, np.asarray(y)[:, 0]]).astype(float)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D))
    return X, ((X[:, :K] > 0) & (rng.random((N, K)) < 0.8)).astype(float)


@pytest.mark.usefixtures("few_steps")
def test_it_is_a_loop_over_folds(data):
    X, y = data
    folds = KFold(4, shuffle=True, random_state=7)
    expected = np.full((N, K), np.nan)
    for train, test in folds.split(X):
        expected[test] = NoisyLabelClassifier(**TAGGER.get_params()).fit(X[train], y[train]).posterior(X[test], y[test])
    posterior = cross_val_posterior(TAGGER, X, y, cv=folds)
    assert posterior.dtype == np.float64
    assert np.array_equal(posterior, expected)
    assert np.array_equal(cross_val_posterior(TAGGER, X, y, cv=list(folds.split(X))), expected)
    assert not hasattr(TAGGER, "head_")


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("groups", [None, [place // 2 for place in range(N)]])
def test_an_example_has_no_say_in_what_is_thought_of_it(data, groups):
    """Its own label, turned round, moves the posterior by the evidence of that label alone: the logit is the same."""
    X, y = data
    planted = y.copy()
    planted[5] = 1 - planted[5]
    asked = np.where(np.arange(N)[:, None] == 5, np.nan, y)  # an unknown label leaves p(y=1|x)
    honest, turned = (_probability_when_trained_on(X, labels, asked, groups) for labels in (y, planted))
    assert np.array_equal(honest[5], turned[5])
    assert not np.array_equal(honest, turned)


def _probability_when_trained_on(X, labels, asked, groups):
    class Asked(BaseEstimator):
        def fit(self, places, _):
            rows = np.asarray(places)[:, 0]
            self.tagger_ = NoisyLabelClassifier(**TAGGER.get_params()).fit(X[rows], labels[rows])
            return self

        def posterior(self, places, _):
            rows = np.asarray(places)[:, 0]
            return self.tagger_.posterior(X[rows], asked[rows])

    return cross_val_posterior(Asked(), np.arange(N)[:, None], labels, groups=groups)


def test_no_example_is_trained_on_and_its_label_is_passed_on(data):
    X, y = data
    for cv in (2, 5, N, KFold(3), LeaveOneOut()):
        assert np.array_equal(cross_val_posterior(Remembering(), X, y, cv), np.column_stack([np.zeros(N), y[:, 0]]))


@pytest.mark.parametrize("kind", [np.array, list])
def test_groups_are_kept_together(data, kind):
    X, y = data
    twins = np.repeat(X[: N // 3], 3, axis=0)
    groups = kind([f"photo {place // 3}" for place in range(N)])
    assert cross_val_posterior(Remembering(), twins, y)[:, 0].max() > 0
    assert cross_val_posterior(Remembering(), twins, y, groups=groups)[:, 0].max() == 0
    assert cross_val_posterior(Remembering(), twins, y, GroupKFold(3), groups)[:, 0].max() == 0


def test_examples_without_a_group_stand_alone(data):
    X, y = data
    groups = ["one"] * 2 + [None] * (N - 2)
    cross_val_posterior(Remembering(), X, y, cv=N - 1, groups=groups)
    with pytest.raises(InputError, match="number of groups, 59, got 60"):
        cross_val_posterior(Remembering(), X, y, cv=N, groups=groups)


class TrainingSizes(BaseEstimator):
    def fit(self, X, y):
        self.mean_ = np.mean(X)
        self.size_ = len(X)
        return self

    def posterior(self, X, y):
        return np.tile([self.size_, self.mean_], (len(X), 1)).astype(float)


@pytest.mark.parametrize("groups", [None, list(range(N))])
def test_folds_are_even_shuffled_and_the_same_each_time(groups):
    X = np.arange(N)[:, None]
    one, same = (cross_val_posterior(TrainingSizes(), X, X % 2, cv=4, groups=groups) for _ in range(2))
    assert np.array_equal(one, same)
    assert (one[:, 0] == N * 3 / 4).all()
    assert len(set(one[: N // 4, 1])) > 1  # the first quarter is not one fold


@pytest.mark.usefixtures("few_steps")
def test_labels_may_be_unknown_and_sparse(data):
    X, y = data
    some = y.copy()
    some[::4, 1] = -1
    expected = cross_val_posterior(TAGGER, X, some)
    assert np.array_equal(expected, cross_val_posterior(TAGGER, X, np.where(some == -1, np.nan, some)))
    for kind in (sparse.csr_array, sparse.coo_array, sparse.csc_matrix, pd.DataFrame):
        assert np.array_equal(expected, cross_val_posterior(TAGGER, X, kind(some.astype(np.int8))))
    assert np.array_equal(expected, cross_val_posterior(TAGGER, pd.DataFrame(X), some.tolist()))


def test_masks_are_places(data):
    X, y = data
    first = np.arange(N) < N // 2
    folds = [(first, ~first), (~first, first)]
    assert np.array_equal(
        cross_val_posterior(Remembering(), X, y, iter(folds)), cross_val_posterior(Remembering(), X, y, KFold(2))
    )


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (
            [([0, 1], [2, 3]), ([2, 3], [0, 1])],
            r"cv: expected each example in one test part, got 56 that are not: 4 \(0",
        ),
        ([(range(30, 60), range(30)), (range(30), [29, *range(30, 60)])], r"got 1 that are not: 29 \(2 times\)$"),
        ([(range(31), range(30, 60)), (range(30, 60), range(30))], r"got example 30 in both parts"),
        ([(range(N, 2 * N), range(N))], r"out of bounds"),
        (ShuffleSplit(3, random_state=0), r"cv: expected each example in one test part"),
        (1, r"cv: expected from 2 folds up to the number of examples, 60, got 1$"),
        (N + 1, r"cv: expected from 2 folds up to the number of examples, 60, got 61$"),
    ],
)
def test_wrong_folds_are_named(data, cv, message):
    X, y = data
    if isinstance(cv, list):
        cv = [(list(train), list(test)) for train, test in cv]
    with pytest.raises(InputError, match=message):
        cross_val_posterior(Remembering(), X, y, cv)


def test_other_mistakes_are_named(data):
    X, y = data
    with pytest.raises(InputError, match=r"estimator: expected one that has posterior\(X, y\), got DummyClassifier"):
        cross_val_posterior(DummyClassifier(), X, y)
    with pytest.raises(InputError, match="inconsistent numbers of samples"):
        cross_val_posterior(Remembering(), X, y[:-1])
    with pytest.raises(InputError, match="inconsistent numbers of samples"):
        cross_val_posterior(Remembering(), X, y, groups=[1, 2])


# --- pipelines, searches, forms of labels


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("method", ["posterior", "predict_proba"])
def test_a_pipeline_is_fitted_without_the_test_fold(data, method):
    X, y = data
    some = np.where(np.arange(N)[:, None] % 4 == 0, np.nan, y)
    expected = np.full((N, K), np.nan)
    for train, test in KFold(3).split(X):
        scaler = StandardScaler().fit(X[train])
        model = NoisyLabelClassifier(**TAGGER.get_params()).fit(scaler.transform(X[train]), some[train])
        features = scaler.transform(X[test])
        asked = (features,) if method == "predict_proba" else (features, some[test])
        expected[test] = getattr(model, method)(*asked)
    pipeline = make_pipeline(StandardScaler(), TAGGER)
    assert np.array_equal(cross_val_posterior(pipeline, X, some, KFold(3), method=method), expected)


@pytest.mark.usefixtures("few_steps")
def test_jobs_give_the_same(data):
    X, y = data
    expected = cross_val_posterior(TAGGER, X, y, 3)
    with parallel_config(backend="threading"):  # where the fixture holds
        assert np.array_equal(cross_val_posterior(TAGGER, X, y, 3, n_jobs=2), expected)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("kind", [GridSearchCV, RandomizedSearchCV])
def test_a_search_runs_inside_each_training_part(data, kind, in_pipeline):
    """Of two settings one cannot learn, so the search's answer is the other's."""
    X, y = data
    some = np.where(np.arange(N)[:, None] % 4 == 0, np.nan, y)
    tagger = make_pipeline(StandardScaler(), TAGGER) if in_pipeline else TAGGER
    name = "noisylabelclassifier__learning_rate" if in_pipeline else "learning_rate"
    options = {"n_iter": 2, "random_state": 0} if kind is RandomizedSearchCV else {}
    search = kind(tagger, {name: [0.0, 0.05]}, cv=2, **options)
    expected = cross_val_posterior(tagger.set_params(**{name: 0.05}), X, some, 3)
    tagger.set_params(**{name: 0.01})
    assert np.array_equal(cross_val_posterior(search, X, some, 3), expected)
    assert search.cv == 2
    assert not hasattr(search, "best_estimator_")


class Watchful(BaseEstimator):
    """Raises where an example of its groups is asked about that it was trained on."""

    def __init__(self, strength=0):
        self.strength = strength

    def fit(self, X, y, groups):
        assert list(groups) == [f"photo {int(value)}" for value in np.asarray(X)[:, 0]]
        self.groups_ = set(groups)
        return self

    def score(self, X, y, sample_weight=None):
        return self._checked(X) + self.strength

    def posterior(self, X, y):
        return np.full((len(X), 1), self._checked(X) + self.strength, dtype=float)

    def _checked(self, X):
        assert not self.groups_ & {f"photo {int(value)}" for value in np.asarray(X)[:, 0]}
        return 0


@pytest.mark.parametrize("wrap", [lambda it: it, make_pipeline, lambda it: make_pipeline("passthrough", it)])
@pytest.mark.parametrize("cv", [None, 3, GroupKFold(2)])
def test_groups_stay_together_in_every_fold_and_reach_the_classifier(wrap, cv):
    X = np.repeat(np.arange(N // 3), 3)[:, None]
    groups = [f"photo {value}" for value in X[:, 0]]
    inner = wrap(Watchful())
    name = "strength" if isinstance(inner, Watchful) else "watchful__strength"
    search = GridSearchCV(inner, {name: [0, 1]}, cv=cv, error_score="raise")
    assert (cross_val_posterior(search, X, X % 2, 4, groups) == 1).all()
    assert (cross_val_posterior(inner, X, X % 2, 4, groups) == 0).all()


@pytest.mark.usefixtures("few_steps")
def test_lists_of_tags_have_the_same_labels_in_every_fold(data):
    X, y = data
    y = y.copy()
    y[:, 2] = np.arange(N) == 7  # once: no other fold knows of this tag
    names = np.array(["ant", "bee", "cat"])
    lists = [set(names[row == 1]) for row in y]
    assert np.array_equal(cross_val_posterior(TAGGER, X, lists), cross_val_posterior(TAGGER, X, y))


@pytest.mark.usefixtures("few_steps")
def test_verbose_counts_folds(data, monkeypatch, capsys):
    X, y = data
    monkeypatch.setattr("truetag.io.terminal._LINE_SECONDS", 0.0)
    cross_val_posterior(Remembering(), X, y, 3)
    assert capsys.readouterr().err == ""
    cross_val_posterior(Remembering(), X, y, 3, verbose=1)
    assert "training folds: 3/3" in capsys.readouterr().err


def test_wrong_methods_and_searches_are_named(data):
    X, y = data
    with pytest.raises(InputError, match="method: expected 'posterior' or 'predict_proba', got 'predict'"):
        cross_val_posterior(Remembering(), X, y, method="predict")
    with pytest.raises(InputError, match="got StandardScaler"):
        cross_val_posterior(make_pipeline(StandardScaler()), X, y)
    with pytest.raises(InputError, match="refit: expected a search that trains the best estimator, got False"):
        cross_val_posterior(GridSearchCV(TAGGER, {"q": [0]}, refit=False), X, y)


# --- what scikit-learn lacks for unknown labels


class Saying(BaseEstimator):
    """Predicts its features."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X


def test_a_scorer_leaves_unknown_labels_out():
    """Of label 0, right, right, one too many: F1 is 4/5; of label 1, one right and one forgotten: 2/3; no label 2."""
    nan = np.nan
    says = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1]])
    y = np.array([[1, 1, nan], [1, 1, nan], [0, nan, nan], [nan, nan, nan]])
    scorer = known_labels_scorer(f1_score)
    assert scorer(Saying(), says, y) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scorer(Saying(), says, np.where(np.isnan(y), -1, y)) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert np.isnan(scorer(Saying(), says, np.full_like(y, nan)))


@pytest.mark.usefixtures("few_steps")
def test_a_search_and_a_validation_take_the_scorer(data):
    X, y = data
    some = np.where(np.arange(N)[:, None] % 4 == 0, np.nan, y)
    scorer, folds = known_labels_scorer(f1_score), KFold(3)
    scores = cross_val_score(TAGGER, X, some, cv=folds, scoring=scorer)
    search = GridSearchCV(TAGGER, {"q": [0.0, 0.0]}, cv=folds, scoring=scorer).fit(X, some)
    tagger = NoisyLabelClassifier(**TAGGER.get_params())
    train, test = next(folds.split(X))
    predicted, known = tagger.fit(X[train], some[train]).predict(X[test]), test % 4 != 0
    expected = np.mean([f1_score(y[test[known], label], predicted[known, label]) for label in range(K)])
    assert scores[0] == pytest.approx(expected)
    assert search.best_score_ == pytest.approx(scores.mean())
