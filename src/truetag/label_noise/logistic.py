"""Penalised likelihood of the observed labels with fixed rates: logistic regression where they are zero.

The head maximises, for each label,

    sum over examples of w log p(z|x)  -  lambda n / 2 |c|^2,        p(z=1|x) = q10 + (1 - q01 - q10) sigmoid(o)

[Eq. 5] by Newton's steps with Fisher's information, in the basis of the features' Gram matrix, which preconditions the
conjugate gradients of each step. One more Newton step without the example gives its left-out logit [Pregibon 1981];
there the Gram matrix that each label's curvatures weigh is taken for a multiple of the common one. Left-out logits
choose the strength, as in `ridge`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.label_noise.eigenbasis import (
    SMALLEST,
    Eigenbasis,
    Solution,
    SolvedHead,
    conjugate_gradients,
    find_strength,
)
from truetag.label_noise.linear_head import label_frequencies

_START, _ENDS = -0.5, (-4.0, 3.0)
"""Exponents of strengths: the first that is tried, and the ends."""
_NUM_ROUNDS, _NUM_ITERATIONS, _NUM_SHORTER = 8, 8, 5
_TOLERANCE, _GAIN = 0.1, 1e-4
_LEAST_CURVATURE = 1e-4
_LEAST_SHARE = 1e-3
_SMALLEST_FREQUENCY = 1e-3


def fit_logistic(
    basis: Eigenbasis,
    labels: Shaped[Tensor, "N K"],
    score: Callable[[Float[Tensor, "N K"]], float],
    missing: Float[Tensor, "K"] | None = None,
    incorrect: Float[Tensor, "K"] | None = None,
) -> SolvedHead:
    """Fit heads of several strengths and keep the one whose left-out logits are best.

    The strengths are tried from the middle on, as long as they get better, each from the solution of the last.

    Args:
        basis: of the features.
        labels: 1, 0, anything between, NaN or -1 for unknown.
        score: of left-out logits, the higher the better, such as their mean AP.
        missing: q01 of each label; None: no label is missing.
        incorrect: q10 of each label; None: none is incorrect.
    """
    nothing = basis.values.new_zeros(labels.shape[1])
    missing, incorrect = (nothing if rate is None else rate.to(nothing) for rate in (missing, incorrect))
    solver = _Solver(basis, labels, missing, incorrect)
    strength, reached, solution = find_strength(solver.solve, score, _START, _ENDS, halve=True)
    head = basis.head(solution.coefficients, solution.intercept)
    return SolvedHead(head, solution.left_out, strength, reached)


class _Point(NamedTuple):
    """Where the steps are."""

    coefficients: Float[Tensor, "R K"]
    intercept: Float[Tensor, "K"]
    logits: Float[Tensor, "N K"]
    loss: Float[Tensor, "K"]
    slopes: Float[Tensor, "N K"]
    curvatures: Float[Tensor, "N K"]


class _Solver:
    """The labels to be fitted, in a basis."""

    def __init__(
        self,
        basis: Eigenbasis,
        labels: Shaped[Tensor, "N K"],
        missing: Float[Tensor, "K"],
        incorrect: Float[Tensor, "K"],
    ) -> None:
        self.basis, self.missing, self.incorrect = basis, missing, incorrect
        self.labels, is_known, self.counted, self.num_counted = basis.weigh(labels)
        observed = label_frequencies(torch.where(is_known, self.labels, -1), basis.weights)
        slope = (1 - missing - incorrect).clamp(min=SMALLEST)
        self.prior = ((observed - incorrect) / slope).clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY).logit()

    def solve(self, strength: float, start: Solution | None = None) -> Solution:
        """The solution of one strength, from that of another, and the logits of each example without its group."""
        penalty = strength * self.num_counted  # K
        # directions that the penalty leaves nothing of are left out
        kept = self.basis.values > _LEAST_SHARE * penalty.min()
        rotated, values = self.basis.rotated[:, kept], self.basis.values[kept].unsqueeze(1)  # N R, R 1
        full = rotated.new_zeros(len(kept), len(penalty)) if start is None else start.coefficients
        point = self._at(rotated, full[kept], self.prior if start is None else start.intercept, penalty)
        for _ in range(_NUM_ROUNDS):
            direction, shift = self._newton(rotated, values, point, penalty)
            step = torch.ones_like(shift)
            tried = self._at(rotated, point.coefficients + direction, point.intercept + shift, penalty)
            for number in range(_NUM_SHORTER):
                worse = tried.loss > point.loss
                if not bool(worse.any()):
                    break
                step = torch.where(worse, step / 4 if number < _NUM_SHORTER - 1 else 0, step)
                tried = self._at(
                    rotated, point.coefficients + step * direction, point.intercept + step * shift, penalty
                )
            gained = bool((point.loss - tried.loss > _GAIN * point.loss.abs()).any())
            point = tried
            if not gained:
                break
        bent = point.curvatures.sum(0).clamp(min=SMALLEST)
        full = rotated.new_zeros(len(kept), len(bent))
        full[kept] = point.coefficients
        inverse = 1 / (self.basis.values.unsqueeze(1) * bent / self.num_counted + penalty)
        left_out = self.basis.leave_out(point.logits, point.slopes, point.curvatures, inverse, 1 / bent)
        return Solution(full, point.intercept, left_out)

    def _newton(
        self, rotated: Float[Tensor, "N R"], values: Float[Tensor, "R 1"], point: _Point, penalty: Float[Tensor, "K"]
    ) -> tuple[Float[Tensor, "R K"], Float[Tensor, "K"]]:
        """By how much to change the coefficients and the intercept."""
        slopes, curvatures = point.slopes, point.curvatures
        bent = curvatures.sum(0).clamp(min=SMALLEST)

        def apply(vector: Tensor) -> Tensor:
            scores = rotated @ vector
            scores = scores - (scores * curvatures).sum(0) / bent  # the intercept follows
            return rotated.T @ (scores * curvatures) + penalty * vector

        right = -(rotated.T @ (slopes - curvatures * (slopes.sum(0) / bent)) + penalty * point.coefficients)
        inverse = 1 / (values * bent / self.num_counted + penalty)
        direction = conjugate_gradients(apply, right, inverse, _NUM_ITERATIONS, _TOLERANCE)
        return direction, -(slopes.sum(0) + (rotated @ direction * curvatures).sum(0)) / bent

    def _at(
        self, rotated: Float[Tensor, "N R"], coefficients: Float[Tensor, "R K"], intercept: Tensor, penalty: Tensor
    ) -> _Point:
        """The penalised loss there, with slope and expected curvature of each example's part in its logit."""
        logits = rotated @ coefficients + intercept
        present = logits.sigmoid()
        observed = self.incorrect + (1 - self.missing - self.incorrect) * present
        observed = observed.clamp(SMALLEST, 1 - SMALLEST)
        losses = -(self.labels * observed.log() + (1 - self.labels) * (1 - observed).log())
        of_logit = (1 - self.missing - self.incorrect) * present * (1 - present)
        variance = observed * (1 - observed)
        slopes = of_logit * (observed - self.labels) / variance
        curvatures = (of_logit.square() / variance).clamp(min=_LEAST_CURVATURE)
        loss = (losses * self.counted).sum(0) + penalty / 2 * coefficients.square().sum(0)
        return _Point(coefficients, intercept, logits, loss, slopes * self.counted, curvatures * self.counted)
