"""Heads that are solved for instead of trained: a few for the same examples, which share what they have in common.

That is the decomposition of the features (`eigenbasis`), whether to normalise each example over its features, and the
estimated rates. Left-out scores, which come with every solution, choose the strength of each penalty.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.label_noise.eigenbasis import Eigenbasis, SolvedHead
from truetag.label_noise.linear_head import uses_layer_norm
from truetag.label_noise.logistic import fit_logistic
from truetag.label_noise.rates import Calibration, calibrate, in_examples
from truetag.label_noise.ridge import fit_ridge
from truetag.label_noise.settings import HeadSettings
from truetag.latent import known


class SolvedHeads:
    """Heads of these examples.

    Args:
        features: one row per example.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        layer_norm: normalise each example over its features first; None: from 64 features on, if ridge regression on
            these labels is the better for it.
        weights: one per example, in any unit.
        groups: near-duplicates, none of which is fitted where another is scored.
    """

    def __init__(
        self,
        features: Float[Tensor, "N D"],
        labels: Shaped[Tensor, "N K"],
        layer_norm: bool | None = None,
        weights: Float[Tensor, "N"] | None = None,
        groups: Sequence[Hashable] | None = None,
    ) -> None:
        self._features, self._labels = features, labels
        self._layer_norm, self._weights, self._groups = layer_norm, weights, groups
        self._score = _mean_ap_of(labels)

    def fit(self, settings: HeadSettings) -> SolvedHead:
        """The head of the observed labels, by the settings' solver."""
        return self._ridge[1] if settings.solver == "ridge" else self._logistic

    def left_out(self, settings: HeadSettings) -> Float[Tensor, "N K"]:
        """Logits of examples that were left out: of that head, or the best there are for a posterior to train on.

        Ridge regression is the better where labels are missing, the likelihood of the rates where many are incorrect;
        the mean of both calibrated logits is close to the better one everywhere.
        """
        if not settings.train_on_posterior:
            return self.fit(settings).logits
        rates = self.calibration.missing, self.calibration.incorrect
        likeliest = fit_logistic(self._basis, self._labels, self._score, *rates).logits
        other = self._calibrate(likeliest)
        return (self.calibration.true_logits(self._ridge[1].logits) + other.true_logits(likeliest)) / 2

    def fit_to(self, labels: Float[Tensor, "N K"]) -> SolvedHead:
        """Ridge regression of other labels, such as a posterior."""
        return fit_ridge(self._basis, labels, _mean_ap_of(labels))

    @cached_property
    def calibration(self) -> Calibration:
        """Estimated rates, from left-out scores of ridge regression."""
        return self._calibrate(self._ridge[1].logits)

    @cached_property
    def _logistic(self) -> SolvedHead:
        return fit_logistic(self._basis, self._labels, self._score)

    def _calibrate(self, logits: Float[Tensor, "N K"]) -> Calibration:
        return calibrate(logits.to(self._labels.device), self._labels, in_examples(self._weights)).to(logits)

    @property
    def _basis(self) -> Eigenbasis:
        return self._ridge[0]

    @cached_property
    def _ridge(self) -> tuple[Eigenbasis, SolvedHead]:
        """The better of the two bases, and ridge regression of the observed labels in it."""
        with_norm = uses_layer_norm(self._features.shape[1], self._layer_norm)
        both = (True, False) if with_norm and self._layer_norm is None else (with_norm,)
        bases = [Eigenbasis(self._features, layer_norm, self._weights, self._groups) for layer_norm in both]
        fitted = [(basis, fit_ridge(basis, self._labels, self._score)) for basis in bases]
        return max(fitted, key=lambda pair: pair[1].score)


def _mean_ap_of(labels: Shaped[Tensor, "N K"]) -> Callable[[Float[Tensor, "N K"]], float]:
    """Mean AP of scores against labels, of which those from 0.5 on count as present; 0 where there is none."""
    present = torch.where(known(labels), (labels >= 0.5).to(torch.int8), -1).cpu()

    def score(scores: Float[Tensor, "N K"]) -> float:
        mean_ap = mean_over_labels(average_precision(scores.cpu(), present))
        return 0.0 if math.isnan(mean_ap) else mean_ap

    return score
