"""Ridge regression of labels on features: coefficients, and scores of examples that were left out, in closed form.

With T the features in the basis of their Gram matrix (eigenvalues s), w the weights of examples and n their sum, the
coefficients of strength lambda are c = (s + lambda n)^-1 T' W y. The score of each example without itself follows from
its leverage h = w (sum_j t_j^2 / (s_j + lambda n) + 1 / n) [Allen 1974],

    y - (y - yhat) / (1 - h)

and without its whole group (near-duplicates) from the group's block of the hat matrix, I - H_gg instead of 1 - h. So
out-of-sample scores of all examples cost no more than one fit, and they choose the strength. Where labels are unknown,
each label has its own Gram matrix. It is close to the share of known labels times the common one, which therefore
preconditions conjugate gradients and gives the leverages.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from truetag.label_noise.eigenbasis import (
    SMALLEST,
    Eigenbasis,
    Solution,
    SolvedHead,
    conjugate_gradients,
    find_strength,
)

_START, _ENDS = 0.0, (-3.0, 3.0)
"""Exponents of strengths: the first that is tried, and the ends."""
_NUM_ITERATIONS, _TOLERANCE = 30, 1e-3
_NUM_STEPS, _SCALE_PENALTY = 20, 1e-2


def fit_ridge(
    basis: Eigenbasis, labels: Shaped[Tensor, "N K"], score: Callable[[Float[Tensor, "N K"]], float]
) -> SolvedHead:
    """Fit heads of several strengths and keep the one whose left-out scores are best; its logits are log odds.

    The strengths are tried from the middle on, as long as they get better: the score has one peak.

    Args:
        basis: of the features.
        labels: 1, 0, anything between, NaN or -1 for unknown.
        score: of left-out scores, the higher the better, such as their mean AP.
    """
    solver = _Solver(basis, labels)
    strength, reached, solution = find_strength(lambda strength, _: solver.solve(strength), score, _START, _ENDS)
    scale, shift = _to_log_odds(solution.left_out, solver.labels, basis.weights, solver.is_known)
    head = basis.head(solution.coefficients * scale, solution.intercept * scale + shift)
    return SolvedHead(head, solution.left_out * scale + shift, strength, reached)


class _Solver:
    """The labels to be fitted, in a basis."""

    def __init__(self, basis: Eigenbasis, labels: Shaped[Tensor, "N K"]) -> None:
        self.basis = basis
        self.labels, self.is_known, self.counted, self.num_counted = basis.weigh(labels)
        self.means = (self.labels * self.counted).sum(0) / self.num_counted
        self.right = basis.rotated.T @ ((self.labels - self.means) * self.counted)  # R K
        self.all_known = bool(self.is_known.all())

    def solve(self, strength: float) -> Solution:
        """The coefficients of one strength, and the scores of each example without its group."""
        counted = self.num_counted[:1] if self.all_known else self.num_counted
        share = counted / self.basis.weights.sum()
        inverse = 1 / (self.basis.values.unsqueeze(1) * share + strength * counted).clamp(min=SMALLEST)  # R #K
        coefficients = inverse * self.right
        if not self.all_known:
            coefficients = self._iterate(coefficients, inverse, strength)
        scores = self.basis.rotated @ coefficients  # N K
        intercept = self.means - self._mean(scores)
        predicted = scores + intercept
        curvatures = self.basis.weights.unsqueeze(1) if self.all_known else self.counted
        slopes = (predicted - self.labels) * self.counted
        left_out = self.basis.leave_out(predicted, slopes, curvatures, inverse, 1 / counted)
        return Solution(coefficients, intercept, left_out)

    def _mean(self, scores: Float[Tensor, "N K"]) -> Float[Tensor, "K"]:
        return (scores * self.counted).sum(0) / self.num_counted

    def _iterate(
        self, start: Float[Tensor, "R K"], inverse: Float[Tensor, "R K"], strength: float
    ) -> Float[Tensor, "R K"]:
        rotated = self.basis.rotated

        def apply(coefficients: Tensor) -> Tensor:
            scores = rotated @ coefficients
            gram = rotated.T @ ((scores - self._mean(scores)) * self.counted)
            return gram + strength * self.num_counted * coefficients

        return conjugate_gradients(apply, self.right, inverse, _NUM_ITERATIONS, _TOLERANCE, start)


def _to_log_odds(
    scores: Float[Tensor, "N K"],
    labels: Float[Tensor, "N K"],
    weights: Float[Tensor, "N"],
    is_known: Shaped[Tensor, "N K"],
) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
    """Scale and shift of each label that make scores log odds [Platt 1999].

    Args:
        scores: of examples that were left out.
        labels: 0 to 1.
        weights: of the examples.
        is_known: of which labels something is known.

    Returns:
        The scale, at least 0, and the shift.
    """
    each = (is_known * weights.unsqueeze(1)).double()
    total = each.sum(0).clamp(min=SMALLEST)
    mean = (scores * each).sum(0) / total
    deviation = (((scores - mean) ** 2 * each).sum(0) / total).sqrt().clamp(min=SMALLEST)
    standard, targets = (scores - mean) / deviation, labels.double()
    share = ((targets * each).sum(0) / total).clamp(SMALLEST, 1 - SMALLEST)
    estimates = torch.stack([torch.zeros_like(share), share.logit()])  # 2 K: scale, shift

    def loss_of(estimates: Tensor) -> Tensor:
        losses = binary_cross_entropy_with_logits(standard * estimates[0] + estimates[1], targets, reduction="none")
        return (losses * each).sum(0) + _SCALE_PENALTY * estimates[0] ** 2 / 2

    damping, loss = torch.full_like(share, 1e-3), loss_of(estimates)
    for _ in range(_NUM_STEPS):  # Levenberg-Marquardt, each label by itself
        probabilities = (standard * estimates[0] + estimates[1]).sigmoid()
        residual, curvature = (targets - probabilities) * each, probabilities * (1 - probabilities) * each
        slope = torch.stack([(residual * standard).sum(0) - _SCALE_PENALTY * estimates[0], residual.sum(0)])
        aa, bb = (curvature * standard**2).sum(0) + _SCALE_PENALTY, curvature.sum(0) + SMALLEST
        ab = (curvature * standard).sum(0)
        aa, bb = aa * (1 + damping), bb * (1 + damping)
        step = torch.stack([bb * slope[0] - ab * slope[1], aa * slope[1] - ab * slope[0]]) / (aa * bb - ab**2)
        tried = estimates + step
        reached = loss_of(tried)
        better = reached <= loss
        estimates, loss = torch.where(better, tried, estimates), torch.where(better, reached, loss)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-9, 1e9)
    scale, shift = estimates
    scale = scale.clamp(min=0) / deviation
    return scale.to(scores), (shift - scale * mean).to(scores)
