"""The scikit-learn face: a multi-label classifier of features in memory whose training labels may be wrong.

It trains `heads.fit_head` with a noise model that is given, or chosen on held-out observed labels (`selection.choose`).
It answers three questions: which labels are true of an example, p(y=1|x); which are true of one that somebody has
labelled, p(y=1|z,x); and how often each label is missing or incorrect.
"""

import math
import secrets
from dataclasses import replace
from numbers import Real
from typing import Annotated, Any, Literal, final, no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Float64, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.io.devices import find_device
from truetag.io.terminal import Progress
from truetag.label_noise.heads import FittedHead, fit_head
from truetag.label_noise.observed_labels import as_groups, as_weights, observed_labels
from truetag.label_noise.relabelling import fit_calibrated
from truetag.label_noise.selection import Choice, candidates, choose, describe
from truetag.label_noise.settings import HeadSettings
from truetag.latent import posterior_logits
from truetag.noise_models import make_noise_model
from truetag.optimisation import INITIAL_INCORRECT_RATE, INITIAL_MISSING_RATE

STAGE2_EPOCHS = 1 / 3
"""Epochs of stage 2, as a share of stage 1's."""
_EXAMPLES_AT_A_TIME = 4096


class _NoProgress:
    """Stands in for a progress bar that nobody asked for."""

    done = 0

    def __init__(self, what: str, total: int, even: bool = True) -> None:
        pass

    def __enter__(self) -> "_NoProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, count: int, text: str | None = None) -> None:
        pass


@final
class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):
    """A linear multi-label classifier of features, such as a network's embeddings, that expects labels to be wrong.

    The labels `y` are one of

    - a matrix of 1, 0, and NaN, None, pandas.NA or -1 for unknown: an array, a list of rows, a DataFrame, or
      scipy-sparse (where absent is 0 and unknown is a stored -1);
    - one column of these, for one label (the answers are still [N, 1]);
    - for each example a set, list or tuple of its tags, or of its label numbers; None where nothing is known of it.
      Lists of numbers that are all of the same length are the rows of a matrix: use sets where that may happen.

    Unknown labels change nothing; a label that is never known counts as one that is never present. Where -1 probably
    means absent (a label has -1 and no 0, or 0 is as rare as PASCAL VOC's "difficult"), it is refused: NaN is always
    unknown. Mistakes in the input raise `InputError`, a `ValueError`.

    Args:
        noise_model: "none"; "fi", rates per label; "fd", rates that also depend on the features; "fd-shared", on the
            features alike for all labels: each is trained as the recipe of `truetag train` (mlcn-star, nmn-fi, nmn-fd).
            Or "auto", which chooses on a quarter of the training examples, by their observed labels, between ridge and
            logistic regression of the labels, and ridge regression of p(y=1|z,x); it also estimates rates and
            calibrates probabilities out of sample (`truetag.label_noise`). With a `q` it chooses between "none" and
            "fi" from the first step with this q, of the labels or of p(y=1|z,x).
        q: of the q-likelihood: 0 is the likelihood, towards 1 it is more robust. "auto": chosen where `noise_model` is,
            else 0.
        epochs: passes over the data without the noise model; a third as many follow with it. On small data more, so
            that there are at least 400 steps.
        batch_size: examples per step.
        learning_rate: peak learning rate of the classifier; None: 6e-4 at 1,280 features, more with fewer.
        weight_decay: decoupled weight decay (AdamW) of the classifier's weights; None: follows the learning rate.
        dropout: probability that a feature is dropped; None: 0.6 from 1,280 features on, less with fewer.
        initial_missing_rate: p(z=0|y=1) before training, of "fi", "fd" and "fd-shared"; 0 stays 0.
        initial_incorrect_rate: p(z=1|y=0) before training, likewise; 0 stays 0.
        layer_norm: normalise each example over its features first, as suits embeddings; None: from 64 features on.
        device: where heads are trained and asked: as torch names it ("cpu", "cuda", "cuda:1"), or "auto", a GPU where
            there is one.
        random_state: decides the order of examples, dropout and what is held out; None: different each time.
        verbose: 1 shows a progress bar on standard error, or a line every half minute where that is no terminal.

    Attributes:
        noise_rates_: [K, 2], the rates q01 = p(z=0|y=1) "missing" and q10 = p(z=1|y=0) "incorrect" of each label.
            "auto" estimates them (`truetag.label_noise.rates`). Those of a trained noise model serve the classifier and
            can be far off; for "fd" and "fd-shared" they are means over the training examples; for "none" they are 0.
        thresholds_: [K], the probability from which `predict` counts a label as present: with "auto" the one with the
            highest expected F1, by the posterior of examples that the head did not see; one half otherwise, and where
            too little is labelled.
        choice_: what "auto" chose, with the reason and every candidate's held-out AP; None for the others.
        head_: the classifier and its noise model, a `truetag.label_noise.heads.FittedHead`.
        classes_: [K, 2], the values 0 and 1 of each label, as scikit-learn's scorers need them; where `y` is lists of
            tags the tags themselves, sorted, as of `MultiLabelBinarizer`.
        label_names_in_: [K], the names of the labels, where `y` has names: a DataFrame's columns, or sorted tags. The
            columns of a later DataFrame are brought into this order.
        n_features_in_: D.
        feature_names_in_: names of the columns, where `X` has names.

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
        q: float | Literal["auto"] = "auto",
        epochs: int = 15,
        batch_size: int = 128,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        dropout: float | None = None,
        initial_missing_rate: float = INITIAL_MISSING_RATE,
        initial_incorrect_rate: float = INITIAL_INCORRECT_RATE,
        layer_norm: bool | None = None,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
        verbose: int = 0,
    ) -> None:
        self.noise_model = noise_model
        self.q = q
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.initial_missing_rate = initial_missing_rate
        self.initial_incorrect_rate = initial_incorrect_rate
        self.layer_norm = layer_norm
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Annotated[Any, "N D"],
        y: Annotated[Any, "N K"],
        sample_weight: Annotated[Any, "N"] | None = None,
        groups: Annotated[Any, "N"] | None = None,
    ) -> "NoisyLabelClassifier":
        """Train.

        Args:
            X: features.
            y: observed labels.
            sample_weight: one per example, not negative, in any unit.
            groups: near-duplicates; none is trained on where another is held out. An example whose group is None stands
                alone. Inside a meta-estimator, ask for them with `set_fit_request(groups=True)`.

        Raises:
            InputError: `X` has a value that is NaN or infinite; `y` has a value that is no label, or another number of
                rows; `sample_weight` or `groups` has another length; a weight is negative or all are zero; or a setting
                is out of range.
            TypeError: `X` is sparse.
        """
        candidate_settings = self.head_settings()
        find_device(self.device)  # refuses what is not here
        features = self._features(X, reset=True)
        given = observed_labels(y, len(features))
        labels = given.matrix
        weights = None if sample_weight is None else as_weights(sample_weight, len(features))
        groups = None if groups is None else as_groups(groups, len(features))
        seed = _draw_seed(self.random_state)
        self._train(features, labels, candidate_settings, weights, groups, seed)
        # one row per label, and not a list of rows: scorers look at the values, `cross_val_predict` at the shape
        self.classes_ = np.tile(np.array([0, 1]), (labels.shape[1], 1))
        if given.is_tag_list:  # as of scikit-learn's MultiLabelBinarizer
            self.classes_ = np.array(given.names)
        if given.names is not None:
            self.label_names_in_ = np.array(given.names, dtype=object)
        elif hasattr(self, "label_names_in_"):
            del self.label_names_in_
        self._minus_one_is_unknown = given.has_minus_one
        self.noise_rates_ = _mean_rates(self.head_, features)
        thresholds = self.head_.thresholds
        self.thresholds_ = np.full(labels.shape[1], 0.5) if thresholds is None else thresholds.double().numpy()
        return self

    def predict_proba(self, X: Annotated[Any, "N D"]) -> Annotated[Any, "N K"]:
        """p(y=1|x): each label is true of the example, whatever anybody said of it.

        Raises:
            InputError: `X` has a value that is NaN or infinite, or another number of features.
        """
        return self._named(self._probabilities(X), X)

    def decision_function(self, X: Annotated[Any, "N D"]) -> Annotated[Any, "N K"]:
        """The logit of p(y=1|x): at least 0 where `predict` says 1.

        Raises:
            InputError: as of `predict_proba`.
        """
        check_is_fitted(self)
        return self._named(self._logits(self._features(X)).numpy(), X)

    def predict(self, X: Annotated[Any, "N D"]) -> Annotated[Any, "N K"]:
        """1 where p(y=1|x) is at least the label's threshold (`thresholds_`), else 0.

        Raises:
            InputError: as of `predict_proba`.
        """
        return self._named((self._probabilities(X) >= self.thresholds_).astype(np.int64), X)

    def posterior(self, X: Annotated[Any, "N D"], y: Annotated[Any, "N K"]) -> Annotated[Any, "N K"]:
        """p(y=1|z,x): each label is true of the example, given that it was labelled `y` [Appendix Eq. 2].

        Where `y` is unknown it is p(y=1|x). So it is everywhere without a noise model: nothing is known then about how
        labels go wrong. Of examples that were trained on, use `truetag.cross_val_posterior`: what has seen a label
        vouches for it.

        Raises:
            InputError: as of `predict_proba`, or `y` is not one label of the above for each example and label.
        """
        check_is_fitted(self)
        features = self._features(X)
        labels = self._observed(y, len(features))
        logits = self._logits(features)
        for part in _parts(len(features)):
            if (log_q := self.head_.log_q(features[part])) is not None:
                logits[part] = posterior_logits(logits[part], log_q.double().cpu(), labels[part])
        return self._named(logits.sigmoid().numpy(), X)

    def score(
        self, X: Annotated[Any, "N D"], y: Annotated[Any, "N K"], sample_weight: Annotated[Any, "N"] | None = None
    ) -> float:
        """Mean average precision of p(y=1|x) against `y`, unknown labels left out; NaN if no label has a positive.

        Raises:
            InputError: as of `posterior`, or of `sample_weight` as of `fit`.
        """
        probabilities = self._probabilities(X)
        labels = self._observed(y, len(probabilities))
        weights = None if sample_weight is None else as_weights(sample_weight, len(probabilities))
        return mean_over_labels(average_precision(probabilities, labels, weights))

    def set_output(self, *, transform: str | None = None) -> "NoisyLabelClassifier":
        """What `predict_proba`, `predict` and `posterior` return.

        "pandas": a DataFrame with the labels as columns and the index of `X`; "default": an array; None: no change.
        scikit-learn passes this on to transformers alone: inside a Pipeline, ask its last step, `pipeline[-1]`.

        Raises:
            InputError: another word.
        """
        if transform not in (None, "default", "pandas"):
            raise InputError(f"transform: expected 'default', 'pandas' or None, got {transform!r}")
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}  # under this name `clone` keeps it
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.target_tags.single_output = False
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        return tags

    def head_settings(self) -> list[HeadSettings]:
        """The settings that `fit` compares, the plain ones first; a single one where nothing is left open.

        Raises:
            InputError: a setting is out of range.
        """
        if self.noise_model != "auto":
            make_noise_model(self.noise_model, 1, 1)  # refuses an unknown name
        if self.q != "auto" and not (isinstance(self.q, Real) and 0 <= float(self.q) <= 1):
            raise InputError(f"q: expected 'auto' or a number from 0 to 1, got {self.q!r}")
        given = {name: value for name, value in self.get_params().items() if value is not None}
        for name, least in (("epochs", 0), ("batch_size", 1), ("learning_rate", 0), ("weight_decay", 0)):
            if not given.get(name, least) >= least:
                raise InputError(f"{name}: expected {least} or more, got {given[name]}")
        for name in ("dropout", "initial_missing_rate", "initial_incorrect_rate"):
            if not 0 <= given.get(name, 0) < 1:
                raise InputError(f"{name}: expected a number from 0 to below 1, got {given[name]}")
        q = None if self.q == "auto" else float(self.q)
        settings = HeadSettings(
            q=q or 0.0,
            initial_missing_rate=float(self.initial_missing_rate),
            initial_incorrect_rate=float(self.initial_incorrect_rate),
            stage1_epochs=int(self.epochs),
            stage2_epochs=math.ceil(STAGE2_EPOCHS * int(self.epochs)),
            batch_size=int(self.batch_size),
            learning_rate=_number(self.learning_rate),
            weight_decay=_number(self.weight_decay),
            dropout=_number(self.dropout),
            layer_norm=self.layer_norm,
        )
        if self.noise_model == "auto":
            return candidates(settings, q)
        return [replace(settings, noise_model=self.noise_model)]

    def _train(
        self,
        features: Float32[Tensor, "N D"],
        labels: Float32[Tensor, "N K"],
        among: list[HeadSettings],
        weights: Float32[Tensor, "N"] | None,
        groups: list[Any] | None,
        seed: int,
    ) -> None:
        """Choose if there is a choice, and train the head.

        Args:
            features: of each example.
            labels: observed.
            among: the settings to choose from.
            weights: one per example.
            groups: near-duplicates.
            seed: decides what is held out, and the training.
        """
        self.choice_: Choice | None = None
        settings = among[0]
        with_progress = Progress if self.verbose else _NoProgress
        num_heads = 1 if len(among) == 1 else len(among) + 2
        with with_progress("training heads", num_heads, even=False) as progress:
            if len(among) > 1:

                def on_compared(settings: HeadSettings) -> None:
                    progress.advance(1, describe(settings))

                self.choice_ = choose(
                    features, labels, among, weights, groups=groups, seed=seed, on_compared=on_compared
                )
                settings = self.choice_.settings
            if self.choice_ is not None and self.choice_.scores:
                self.head_: FittedHead = fit_calibrated(features, labels, settings, weights, groups, seed=seed)
            else:  # where there is too little to choose by there is too little to calibrate by
                self.head_ = fit_head(features, labels, settings, weights, seed=seed)
            progress.advance(num_heads - progress.done, describe(settings))

    def _probabilities(self, X: Any) -> Float64[np.ndarray, "N K"]:
        check_is_fitted(self)
        return self._logits(self._features(X)).sigmoid().numpy()

    def _observed(self, y: Any, num_examples: int) -> Float32[Tensor, "N K"]:
        names = list(getattr(self, "label_names_in_", range(len(self.classes_))))
        return observed_labels(y, num_examples, names, self._minus_one_is_unknown).matrix

    def _named(self, values: Shaped[np.ndarray, "N K"], X: Any) -> Any:
        """The values as `set_output` asks for them."""
        if getattr(self, "_sklearn_output_config", {}).get("transform") != "pandas":
            return values
        import pandas as pd

        return pd.DataFrame(values, index=getattr(X, "index", None), columns=getattr(self, "label_names_in_", None))

    def _features(self, X: Any, reset: bool = False) -> Float32[Tensor, "N D"]:
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold is said to be too large
                features = validate_data(self, X, reset=reset, dtype=np.float32)
        except ValueError as error:
            raise InputError(str(error)) from None
        return torch.from_numpy(np.require(features, requirements=["C", "W"])).to(find_device(self.device))

    def _logits(self, features: Float32[Tensor, "N D"]) -> Float64[Tensor, "N K"]:
        return torch.cat([self.head_(features[part]).double().cpu() for part in _parts(len(features))])


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _draw_seed(random_state: Any) -> int:
    # not scikit-learn's meaning of None, numpy's global generator: fitting would move it on
    return secrets.randbits(31) if random_state is None else int(check_random_state(random_state).randint(2**31 - 1))


def _mean_rates(fitted: FittedHead, features: Float32[Tensor, "N D"]) -> Float64[np.ndarray, "K 2"]:
    """Missing and incorrect rate of each label, as means over the examples."""
    total = torch.zeros(len(fitted.head.bias), 2, dtype=torch.float64)
    for part in _parts(len(features)):
        if (log_q := fitted.log_q(features[part])) is not None:
            size = len(features[part])
            rates = torch.stack([log_q[..., 0, 1], log_q[..., 1, 0]], dim=-1).double().cpu().exp()
            total += rates.expand(size, -1, -1).sum(0)
    return (total / len(features)).numpy()


def _parts(num_examples: int) -> list[slice]:
    """Slices of the examples: the transitions [N, K, 2, 2] of all of them would not fit in memory."""
    return [slice(start, start + _EXAMPLES_AT_A_TIME) for start in range(0, num_examples, _EXAMPLES_AT_A_TIME)]
