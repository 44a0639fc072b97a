"""The face that scikit-learn knows: a multi-label classifier of features in memory whose training labels may be wrong.

It is `heads.fit_head`, with a noise model that is given or chosen on held-out observed labels (`selection.choose`), and
gives three answers: what is true of an example, p(y=1|x); what is true of one that somebody has labelled, p(y=1|z,x);
and how often a label is missing or incorrect.
"""

import secrets
from dataclasses import replace
from typing import Annotated, Any, Literal, final, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.label_noise.heads import Head, HeadSettings, fit_head
from truetag.label_noise.relabelling import fit_calibrated
from truetag.label_noise.selection import Choice, candidates, choose
from truetag.latent import posterior_logits

NOISE_MODELS = ("auto", "none", "fi", "fd", "fd-shared")
_EXAMPLES_AT_A_TIME = 4096


@final
class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):
    """A linear multi-label classifier of features, such as a network's embeddings, that expects labels to be wrong.

    The labels `y` that it is given are 1, 0, and NaN or -1 for unknown, dense or scipy-sparse (there absent is 0 and
    unknown is a stored -1); what is unknown changes nothing. A label that is never known counts as one that is never
    present. Mistakes in the input raise `InputError`, a `ValueError`.

    Args:
        noise_model: "none"; "fi", rates that depend on the label; "fd", also on the features; "fd-shared", on the
            features alike for all labels; or "auto", which chooses between "none" and "fi" on a quarter of the training
            examples, by their observed labels, and with "fi" whether to train on p(y=1|z,x) instead of the labels; and
            estimates rates and calibrates probabilities out of sample (`truetag.label_noise.relabelling`).
        q: of the q-likelihood, 0 the likelihood, towards 1 the more robust; None: 0, or chosen where "auto" is.
        epochs: passes over the data; more on small data, at least 400 steps.
        batch_size: examples a step.
        learning_rate: of the classifier, at its highest; None: 6e-4 at 1,280 features, more with fewer.
        weight_decay: of the classifier's weights, decoupled (AdamW); None: follows the learning rate.
        dropout: of the features; None: 0.6 from 1,280 features on, less with fewer.
        missing_rate: where p(z=0|y=1) starts; 0 stays 0.
        incorrect_rate: where p(z=1|y=0) starts; 0 stays 0.
        layer_norm: normalise each example over its features first, as suits embeddings; None: from 64 features on.
        random_state: seed of the order of examples, of dropout and of what is held out; None: another one each time.

    Attributes:
        noise_rates_: [K, 2], q01 = p(z=0|y=1) "missing" and q10 = p(z=1|y=0) "incorrect" of each label. "auto"
            estimates them (`truetag.label_noise.rates`); of the others they are what was learnt on the way, which
            serves the classifier and can be far off; of "fd" and "fd-shared" the mean over the training examples;
            0 of "none".
        choice_: what "auto" chose, with the reason and every candidate's held-out AP; None where it was given.
        head_: the classifier and its noise model as `truetag.label_noise.heads.Head`.
        classes_: [K, 2], the values 0 and 1 of each label.
        n_features_in_: D.
        feature_names_in_: of the columns, where `X` had names.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 8))
    >>> observed = (X > 0) & (rng.random(X.shape) < 0.7)  # of the true tags, three in ten are missing
    >>> tagger = NoisyLabelClassifier().fit(X, observed)
    >>> tagger.noise_rates_.mean(0).round(1)
    array([0.3, 0. ])
    >>> nobody_said_a_word = np.zeros((400, 8))
    >>> (tagger.posterior(X, nobody_said_a_word) > 0.5)[X > 1].mean().round(2)  # and yet they are probably true
    np.float64(1.0)
    """

    @no_type_check  # scikit-learn's convention: a constructor takes anything, and `fit` says what is wrong with it
    def __init__(
        self,
        noise_model: Literal["auto", "none", "fi", "fd", "fd-shared"] = "auto",
        q: float | None = None,
        epochs: int = 15,
        batch_size: int = 128,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        dropout: float | None = None,
        missing_rate: float = 0.1,
        incorrect_rate: float = 0.01,
        layer_norm: bool | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.noise_model = noise_model
        self.q = q
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.missing_rate = missing_rate
        self.incorrect_rate = incorrect_rate
        self.layer_norm = layer_norm
        self.random_state = random_state

    def fit(
        self, X: Annotated[Any, "N D"], y: Annotated[Any, "N K"], sample_weight: Annotated[Any, "N"] | None = None
    ) -> "NoisyLabelClassifier":
        """Train on features, observed labels and weights of the examples, which are not negative and in any unit.

        Raises:
            InputError: of `X`, a value is NaN or infinite; of `y`, a label is none of the above, or there is not a row
                an example; of `sample_weight`, there is not one an example, one is negative, or all are zero; or a
                setting is not what it should be.
            TypeError: `X` is sparse.
        """
        among = self._among()
        features = self._features(X, reset=True)
        labels = _as_labels(y, len(features))
        weights = None if sample_weight is None else _as_weights(sample_weight, len(features))
        seed = _draw_seed(self.random_state)
        self.choice_: Choice | None = None
        if len(among) > 1:
            self.choice_ = choose(features, labels, among, weights, seed=seed)
        settings = self.choice_.settings if self.choice_ else among[0]
        # where there was too little to choose by there is too little to calibrate by
        fit = fit_calibrated if self.choice_ and self.choice_.scores else fit_head
        self.head_: Head = fit(features, labels, settings, weights, seed=seed)
        # one row a label, and not a list of rows: scorers look at the values, `cross_val_predict` at the shape
        self.classes_ = np.tile(np.array([0, 1]), (labels.shape[1], 1))
        self.noise_rates_ = _mean_rates(self.head_, features)
        return self

    def predict_proba(self, X: Annotated[Any, "N D"]) -> Float64[np.ndarray, "N K"]:
        """p(y=1|x): each label is true of the example, whatever anybody said of it.

        Raises:
            InputError: `X` has a value that is NaN or infinite, or another number of features.
        """
        check_is_fitted(self)
        return self._logits(self._features(X)).sigmoid().numpy()

    def predict(self, X: Annotated[Any, "N D"]) -> Int64[np.ndarray, "N K"]:
        """1 where p(y=1|x) is at least one half, else 0.

        Raises:
            InputError: as of `predict_proba`.
        """
        return (self.predict_proba(X) >= 0.5).astype(np.int64)

    def posterior(self, X: Annotated[Any, "N D"], y: Annotated[Any, "N K"]) -> Float64[np.ndarray, "N K"]:
        """p(y=1|z,x): each label is true of the example, given that it was labelled `y` [Appendix Eq. 2].

        Where `y` is unknown it is p(y=1|x). So it is everywhere without a noise model: nothing is known then about how
        labels go wrong. Of examples that were trained on, use `truetag.cross_val_posterior`: what has seen a label
        vouches for it.

        Raises:
            InputError: as of `predict_proba`, or `y` is not one label of the above for each example and label.
        """
        check_is_fitted(self)
        features = self._features(X)
        labels = _as_labels(y, len(features), len(self.classes_))
        logits = self._logits(features)
        for part in _parts(len(features)):
            if (log_q := self.head_.log_q(features[part])) is not None:
                logits[part] = posterior_logits(logits[part], log_q.double(), labels[part])
        return logits.sigmoid().numpy()

    def score(
        self, X: Annotated[Any, "N D"], y: Annotated[Any, "N K"], sample_weight: Annotated[Any, "N"] | None = None
    ) -> float:
        """Mean average precision of p(y=1|x) against `y`, unknown labels left out; NaN if no label has a positive.

        Raises:
            InputError: as of `posterior`, or of `sample_weight` as of `fit`.
        """
        probabilities = self.predict_proba(X)
        labels = _as_labels(y, *probabilities.shape)
        weights = None if sample_weight is None else _as_weights(sample_weight, len(probabilities))
        return mean_over_labels(average_precision(probabilities, labels, weights))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.target_tags.single_output = False
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        return tags

    def _among(self) -> list[HeadSettings]:
        """The settings to choose from: one where nothing is left open."""
        if self.noise_model not in NOISE_MODELS:
            raise InputError(f"noise_model: expected one of {NOISE_MODELS}, got {self.noise_model!r}")
        if self.q is not None and not 0 <= self.q <= 1:
            raise InputError(f"q: expected None or a number from 0 to 1, got {self.q}")
        given = {name: value for name, value in self.get_params().items() if value is not None}
        for name, least in (("epochs", 0), ("batch_size", 1), ("learning_rate", 0), ("weight_decay", 0)):
            if not given.get(name, least) >= least:
                raise InputError(f"{name}: expected {least} or more, got {given[name]}")
        for name in ("dropout", "missing_rate", "incorrect_rate"):
            if not 0 <= given.get(name, 0) < 1:
                raise InputError(f"{name}: expected a number from 0 to below 1, got {given[name]}")
        settings = HeadSettings(
            q=float(self.q or 0),
            missing_rate=float(self.missing_rate),
            incorrect_rate=float(self.incorrect_rate),
            epochs=int(self.epochs),
            batch_size=int(self.batch_size),
            learning_rate=_number(self.learning_rate),
            weight_decay=_number(self.weight_decay),
            dropout=_number(self.dropout),
            layer_norm=self.layer_norm,
        )
        if self.noise_model != "auto":
            return [replace(settings, noise_model=self.noise_model)]
        plain, *others = candidates(settings)
        return [plain, *(others if self.q is None else [replace(settings, noise_model="fi")])]

    def _features(self, X: Any, reset: bool = False) -> Float32[Tensor, "N D"]:
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold is said to be too large
                features = validate_data(self, X, reset=reset, dtype=np.float32)
        except ValueError as error:
            raise InputError(str(error)) from None
        return torch.from_numpy(np.require(features, requirements=["C", "W"]))

    def _logits(self, features: Float32[Tensor, "N D"]) -> Float64[Tensor, "N K"]:
        return torch.cat([self.head_(features[part]).double() for part in _parts(len(features))])


def _as_labels(y: Any, num_examples: int, num_labels: int | None = None) -> Float32[Tensor, "N K"]:
    """Observed labels as 1, 0, and NaN or -1."""
    if y is None:
        raise InputError("NoisyLabelClassifier requires y to be passed, but the target y is None")
    values = y.toarray() if sparse.issparse(y) else np.asarray(y)
    if values.ndim != 2 or not values.shape[1] or values.shape != (num_examples, num_labels or values.shape[1]):
        expected = f"[{num_examples}, {num_labels or 'number of labels'}]"
        raise InputError(f"y: expected shape {expected}, a row an example of X, got shape {values.shape}")
    try:
        values = values if values.dtype.kind in "biuf" else values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"y: expected labels 1, 0, and NaN or -1 for unknown; {error}") from None
    wrong = ~((values == 0) | (values == 1) | (values == -1) | np.isnan(values))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        got = f"{values[row, column]:g} at row {row}, column {column}"
        raise InputError(f"y: expected labels 1, 0, and NaN or -1 for unknown; got {got}")
    return torch.from_numpy(values.astype(np.float32))


def _as_weights(sample_weight: Any, num_examples: int) -> Float32[Tensor, "N"]:
    weights = np.asarray(sample_weight, dtype=np.float32)
    if weights.shape != (num_examples,):
        raise InputError(f"sample_weight: expected shape ({num_examples},), one an example, got {weights.shape}")
    if not (right := np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"sample_weight: expected finite numbers of 0 or more, got {weights[~right][0]:g}")
    if not weights.any():
        raise InputError("sample_weight: expected at least one weight above 0, got zeros alone")
    return torch.from_numpy(weights.copy())


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _draw_seed(random_state: Any) -> int:
    # not scikit-learn's meaning of None, numpy's global generator: fitting would move it on
    return secrets.randbits(31) if random_state is None else int(check_random_state(random_state).randint(2**31 - 1))


def _mean_rates(head: Head, features: Float32[Tensor, "N D"]) -> Float64[np.ndarray, "K 2"]:
    """Missing and incorrect rate of each label, over the examples."""
    total = torch.zeros(len(head.bias), 2, dtype=torch.float64)
    for part in _parts(len(features)):
        if (log_q := head.log_q(features[part])) is not None:
            size = len(features[part])
            rates = torch.stack([log_q[..., 0, 1], log_q[..., 1, 0]], dim=-1).double().exp()
            total += rates.expand(size, -1, -1).sum(0)
    return (total / len(features)).numpy()


def _parts(num_examples: int) -> list[slice]:
    """A part of the examples at a time: [N, K, 2, 2] transitions of all would not fit."""
    return [slice(start, start + _EXAMPLES_AT_A_TIME) for start in range(0, num_examples, _EXAMPLES_AT_A_TIME)]
