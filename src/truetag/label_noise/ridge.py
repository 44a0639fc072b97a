"""Ridge regression of labels on features: strengths and leave-one-out scores from one eigendecomposition.

With T the standardised, centred features in the basis of their Gram matrix (eigenvalues s), w the weights of the
examples and n their sum, the coefficients of strength lambda are c = (s + lambda n)^-1 T' W y. The score of each
example without itself follows from its leverage h = w (sum_j t_j^2 / (s_j + lambda n) + 1 / n) [Allen 1974],

    y - (y - yhat) / (1 - h)

and without its whole group (near-duplicates) from the group's block of the hat matrix, I - H_gg instead of 1 - h. So
out-of-sample scores of all examples cost no more than one fit, and they choose the strength. Where labels are unknown,
each label has its own Gram matrix. It is close to the share of known labels times the common one, which therefore
preconditions conjugate gradients and gives the leverages.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from truetag.data.stratify import unit_numbers
from truetag.label_noise.linear_head import Head, Standardisation
from truetag.latent import known

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-6, 7))
"""Penalties per example, of features with unit deviation."""
_START = 6
_NUM_ITERATIONS, _TOLERANCE = 30, 1e-3
_SMALLEST = 1e-6
_ROUNDING = 1e-7
_NUM_STEPS, _SCALE_PENALTY = 20, 1e-2
_NUMBERS_AT_A_TIME = 4_000_000


class RidgeFit(NamedTuple):
    """A head, its leave-one-out logits, and how it was chosen."""

    head: Head
    logits: Float[Tensor, "N K"]
    """Log odds of the observed labels of each example, from all examples but its group."""
    strength: float
    score: float


def fit_ridge(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    score: Callable[[Float[Tensor, "N K"]], float],
    layer_norm: bool = False,
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> RidgeFit:
    """Fit heads of several strengths and keep the one whose leave-one-out scores are best.

    The strengths are tried from the middle on, as long as they get better: the score has one peak.

    Args:
        features: one row per example.
        labels: 1, 0, anything between, NaN or -1 for unknown.
        score: of leave-one-out scores, the higher the better, such as their mean AP.
        layer_norm: normalise each example over its features first.
        weights: one per example, in any unit.
        groups: near-duplicates; an example is scored without any of its group.
    """
    head = Head(features.shape[1], labels.shape[1], layer_norm).to(features)
    head.standardise.set_statistics([features])
    solver = _Solver(head.standardise, features, labels, weights, groups)
    best = _START
    solution = solver.solve(STRENGTHS[best])
    best_score = score(solution.left_out)
    for step in (1, -1):
        index = best + step
        while 0 <= index < len(STRENGTHS):
            tried = solver.solve(STRENGTHS[index])
            if (reached := score(tried.left_out)) <= best_score:
                break
            best, best_score, solution, index = index, reached, tried, index + step
    scale, shift = _to_log_odds(solution.left_out, solver.labels, solver.weights, solver.is_known)
    with torch.no_grad():
        head.weight.copy_((solver.basis @ solution.coefficients).T * scale.unsqueeze(1))
        head.bias.copy_(solution.intercept * scale + shift - head.weight @ solver.centre)
    logits = solution.left_out * scale + shift
    return RidgeFit(head.eval().requires_grad_(False), logits, STRENGTHS[best], best_score)


class _Solution(NamedTuple):
    coefficients: Float[Tensor, "R K"]
    intercept: Float[Tensor, "K"]
    left_out: Float[Tensor, "N K"]


class _Solver:
    """Features in the basis of their Gram matrix, and the labels to be fitted."""

    def __init__(
        self,
        standardise: Standardisation,
        features: Float[Tensor, "N D"],
        labels: Shaped[Tensor, "N K"],
        weights: Float[Tensor, "N"] | None,
        groups: Sequence[Hashable] | None,
    ) -> None:
        h = standardise(features)
        num_examples, num_features = h.shape
        each = h.new_ones(num_examples) if weights is None else weights.to(h)
        self.weights = each / each.mean()
        self.centre = (h * self.weights.unsqueeze(1)).mean(0)  # D
        centred = h - self.centre
        weighted = centred * self.weights.sqrt().unsqueeze(1)
        if num_features <= num_examples:
            values, basis = torch.linalg.eigh((weighted.T @ weighted).double())
        else:
            values, left = torch.linalg.eigh((weighted @ weighted.T).double())
            basis = weighted.T.double() @ left / values.clamp(min=_SMALLEST).sqrt()
        kept = values > _ROUNDING * values.amax().clamp(min=_SMALLEST)
        self.values, self.basis = values[kept].to(h), basis[:, kept].to(h)  # R, D R
        self.rotated = centred @ self.basis  # N R
        self.is_known = known(labels).to(h.device)
        self.labels = torch.where(self.is_known, labels.to(h), 0)
        self.counted = self.is_known * self.weights.unsqueeze(1)  # N K
        self.num_counted = self.counted.sum(0).clamp(min=_SMALLEST)  # K
        self.means = (self.labels * self.counted).sum(0) / self.num_counted
        self.residuals = (self.labels - self.means) * self.counted
        self.right = self.rotated.T @ self.residuals  # R K
        units = unit_numbers(num_examples, groups)
        sizes = torch.bincount(torch.from_numpy(units))
        self.groups = [
            torch.from_numpy((units == unit).nonzero()[0]) for unit in (sizes > 1).nonzero().flatten().tolist()
        ]
        self.all_known = bool(self.is_known.all())

    def solve(self, strength: float) -> _Solution:
        """The coefficients of one strength, and the scores of each example without its group."""
        inverse = self._inverse(strength)  # R K, or R 1 where all labels are known
        coefficients = inverse * self.right
        if not self.all_known:
            coefficients = self._iterate(coefficients, inverse, strength)
        scores = self.rotated @ coefficients  # N K
        intercept = self.means - self._mean(scores)
        predicted = scores + intercept
        leverage = (self.rotated.square() @ inverse + 1 / self.num_counted) * self.weights.unsqueeze(1)
        difference = self.labels - predicted
        left_out = torch.where(self.is_known, self.labels - difference / (1 - leverage).clamp(min=_SMALLEST), predicted)
        for members in self.groups:
            left_out[members] = self._without_group(members, inverse, difference[members], predicted[members])
        return _Solution(coefficients, intercept, left_out)

    def _inverse(self, strength: float) -> Float[Tensor, "R #K"]:
        """Of the Gram matrix with its penalty: of each label, as far as the share of known ones tells."""
        counted = self.num_counted[:1] if self.all_known else self.num_counted
        share = counted / self.weights.sum()
        return 1 / (self.values.unsqueeze(1) * share + strength * counted).clamp(min=_SMALLEST)

    def _mean(self, scores: Float[Tensor, "N K"]) -> Float[Tensor, "K"]:
        return (scores * self.counted).sum(0) / self.num_counted

    def _iterate(
        self, start: Float[Tensor, "R K"], inverse: Float[Tensor, "R K"], strength: float
    ) -> Float[Tensor, "R K"]:
        """Preconditioned conjugate gradients, all labels at once."""

        def apply(coefficients: Tensor) -> Tensor:
            scores = self.rotated @ coefficients
            gram = self.rotated.T @ ((scores - self._mean(scores)) * self.counted)
            return gram + strength * self.num_counted * coefficients

        coefficients = start
        residual = self.right - apply(coefficients)
        direction = solved = inverse * residual
        slope = (residual * solved).sum(0)
        target = _TOLERANCE**2 * (self.right * inverse * self.right).sum(0)
        for _ in range(_NUM_ITERATIONS):
            if bool((slope <= target).all()):
                break
            image = apply(direction)
            step = slope / (direction * image).sum(0).clamp(min=_SMALLEST**2)
            coefficients, residual = coefficients + step * direction, residual - step * image
            solved = inverse * residual
            following = (residual * solved).sum(0)
            direction = solved + following / slope.clamp(min=_SMALLEST**2) * direction
            slope = following
        return coefficients

    def _without_group(
        self, members: Tensor, inverse: Tensor, difference: Float[Tensor, "M K"], predicted: Float[Tensor, "M K"]
    ) -> Float[Tensor, "M K"]:
        """Scores of a group from the other examples: those of which a label is known leave, all of them are scored."""
        rotated, size = self.rotated[members], len(members)
        identity = torch.eye(size).to(rotated)
        parts = []
        for labels in torch.arange(difference.shape[1]).split(max(_NUMBERS_AT_A_TIME // size**2, 1)):
            of_labels = inverse if self.all_known else inverse[:, labels]
            hat = torch.einsum("mr,rk,nr->kmn", rotated, of_labels, rotated)
            hat = hat + 1 / (self.num_counted[:1] if self.all_known else self.num_counted[labels])[:, None, None]
            counted = self.counted[members][:, labels].T.unsqueeze(1)  # K 1 M
            pulled = hat * (counted[:1] if self.all_known else counted)
            known_difference = torch.where(self.is_known[members][:, labels], difference[:, labels], 0)
            if self.all_known:
                alone = torch.linalg.solve(identity - pulled[0], known_difference)
                parts.append(predicted[:, labels] - pulled[0] @ alone)
            else:
                alone = torch.linalg.solve(identity - pulled, known_difference.T.unsqueeze(2))
                parts.append(predicted[:, labels] - (pulled @ alone).squeeze(2).T)
        return torch.cat(parts, 1)


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
    total = each.sum(0).clamp(min=_SMALLEST)
    mean = (scores * each).sum(0) / total
    deviation = (((scores - mean) ** 2 * each).sum(0) / total).sqrt().clamp(min=_SMALLEST)
    standard, targets = (scores - mean) / deviation, labels.double()
    share = ((targets * each).sum(0) / total).clamp(_SMALLEST, 1 - _SMALLEST)
    estimates = torch.stack([torch.zeros_like(share), share.logit()])  # 2 K: scale, shift

    def loss_of(estimates: Tensor) -> Tensor:
        losses = binary_cross_entropy_with_logits(standard * estimates[0] + estimates[1], targets, reduction="none")
        return (losses * each).sum(0) + _SCALE_PENALTY * estimates[0] ** 2 / 2

    damping, loss = torch.full_like(share, 1e-3), loss_of(estimates)
    for _ in range(_NUM_STEPS):  # Levenberg-Marquardt, each label by itself
        probabilities = (standard * estimates[0] + estimates[1]).sigmoid()
        residual, curvature = (targets - probabilities) * each, probabilities * (1 - probabilities) * each
        slope = torch.stack([(residual * standard).sum(0) - _SCALE_PENALTY * estimates[0], residual.sum(0)])
        aa, bb = (curvature * standard**2).sum(0) + _SCALE_PENALTY, curvature.sum(0) + _SMALLEST
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
