"""Features in the basis of their Gram matrix: what every head that is solved for, and not trained, works in.

There a quadratic penalty has a diagonal inverse, so one decomposition serves all labels, strengths and likelihoods.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from truetag.data.stratify import unit_numbers
from truetag.label_noise.linear_head import Head
from truetag.latent import known

SMALLEST = 1e-6
_STEP = 0.5
"""Between the exponents of strengths, which are penalties per example, of features with unit deviation."""
_ROUNDING = 1e-7
_NUMBERS_AT_A_TIME = 4_000_000


class SolvedHead(NamedTuple):
    """A head, its logits of examples that were left out, and how it was chosen."""

    head: Head
    logits: Float[Tensor, "N K"]
    """Of each example, from all examples but its group."""
    strength: float
    score: float


class Solution(NamedTuple):
    """A head in an eigenbasis, and what it predicts of each example without the example's group."""

    coefficients: Float[Tensor, "R K"]
    intercept: Float[Tensor, "K"]
    left_out: Float[Tensor, "N K"]


class WeighedLabels(NamedTuple):
    """Labels, 0 where they are unknown, and how much each counts."""

    values: Float[Tensor, "N K"]
    is_known: Bool[Tensor, "N K"]
    counted: Float[Tensor, "N K"]
    """The weight of the example; 0 where the label is unknown."""
    num_counted: Float[Tensor, "K"]


class Eigenbasis:
    """Standardised, centred features of examples, rotated into the eigenvectors of their weighted Gram matrix.

    Args:
        features: one row per example.
        layer_norm: normalise each example over its features first.
        weights: one per example, in any unit.
        groups: near-duplicates; an example is scored without any of its group.
    """

    weights: Float[Tensor, "N"]
    """Of the examples, 1 in the mean."""
    values: Float[Tensor, "R"]
    """Eigenvalues, without those that are zero but for rounding."""
    rotated: Float[Tensor, "N R"]
    """The features."""
    groups: list[Tensor]
    """The examples of each group that has more than one."""

    def __init__(
        self,
        features: Float[Tensor, "N D"],
        layer_norm: bool = False,
        weights: Float[Tensor, "N"] | None = None,
        groups: Sequence[Hashable] | None = None,
    ) -> None:
        self.layer_norm = layer_norm
        self._standardise = Head(features.shape[1], 1, layer_norm).to(features).standardise
        self._standardise.set_statistics([features])
        h = self._standardise(features)
        num_examples, num_features = h.shape
        each = h.new_ones(num_examples) if weights is None else weights.to(h)
        self.weights = each / each.mean()
        self._centre = (h * self.weights.unsqueeze(1)).mean(0)  # D
        centred = h - self._centre
        weighted = centred * self.weights.sqrt().unsqueeze(1)
        if num_features <= num_examples:
            values, basis = torch.linalg.eigh((weighted.T @ weighted).double())
        else:
            values, left = torch.linalg.eigh((weighted @ weighted.T).double())
            basis = weighted.T.double() @ left / values.clamp(min=SMALLEST).sqrt()
        kept = values > _ROUNDING * values.amax().clamp(min=SMALLEST)
        self.values, self._basis = values[kept].to(h), basis[:, kept].to(h)  # R, D R
        self.rotated = centred @ self._basis
        units = unit_numbers(num_examples, groups)
        sizes = torch.bincount(torch.from_numpy(units))
        self.groups = [
            torch.from_numpy((units == unit).nonzero()[0]) for unit in (sizes > 1).nonzero().flatten().tolist()
        ]

    def weigh(self, labels: Shaped[Tensor, "N K"]) -> WeighedLabels:
        """Labels (1, 0, anything between, NaN or -1 for unknown) with the weights of their examples."""
        is_known = known(labels).to(self.rotated.device)
        counted = is_known * self.weights.unsqueeze(1)
        values = torch.where(is_known, labels.to(self.rotated), 0)
        return WeighedLabels(values, is_known, counted, counted.sum(0).clamp(min=SMALLEST))

    @torch.no_grad()
    def head(self, coefficients: Float[Tensor, "R K"], intercept: Float[Tensor, "K"]) -> Head:
        """The head on features as they come that gives what these coefficients give here."""
        made = Head(len(self._standardise.mean), coefficients.shape[1], self.layer_norm).to(coefficients)
        made.standardise.load_state_dict(self._standardise.state_dict())
        made.weight.copy_((self._basis @ coefficients).T)
        made.bias.copy_(intercept - made.weight @ self._centre)
        return made.eval().requires_grad_(False)

    def leave_out(
        self,
        predicted: Float[Tensor, "N K"],
        slopes: Float[Tensor, "N K"],
        curvatures: Float[Tensor, "N #K"],
        inverse: Float[Tensor, "R #K"],
        of_intercept: Float[Tensor, "#K"],
    ) -> Float[Tensor, "N K"]:
        """What heads predict of each example that are fitted without it, and without its group.

        One Newton step from the head that was fitted with it, which is exact where the loss is a square [Allen 1974;
        Pregibon 1981].

        Args:
            predicted: by the head that was fitted to all examples.
            slopes: of each example's loss, with its weight; 0 where a label is unknown.
            curvatures: likewise; one column where all labels have the same.
            inverse: diagonal of the inverse of the penalised curvature of the whole loss.
            of_intercept: the same of the intercept.
        """
        leverage = self.rotated.square() @ inverse + of_intercept  # N #K
        left_out = predicted + slopes * leverage / (1 - leverage * curvatures).clamp(min=SMALLEST)
        each_label = max(inverse.shape[1], curvatures.shape[1]) > 1
        for members in self.groups:
            at_a_time = max(_NUMBERS_AT_A_TIME // len(members) ** 2, 1) if each_label else predicted.shape[1]
            for labels in torch.arange(predicted.shape[1]).split(at_a_time):
                some = (members[:, None], labels)
                moved = self._without_group(
                    members,
                    slopes[some],
                    *(_of_labels(of, labels) for of in (curvatures[members], inverse, of_intercept)),
                )
                left_out[some] = predicted[some] + moved
        return left_out

    def _without_group(
        self,
        members: Int64[Tensor, "M"],
        slopes: Float[Tensor, "M K"],
        curvatures: Float[Tensor, "M #K"],
        inverse: Float[Tensor, "R #K"],
        of_intercept: Float[Tensor, "#K"],
    ) -> Float[Tensor, "M K"]:
        """By how much a group's predictions move when the group leaves."""
        rotated = self.rotated[members]
        hat = torch.einsum("mr,rk,nr->kmn", rotated, inverse, rotated) + of_intercept[:, None, None]  # #K M M
        system = torch.eye(len(members)).to(hat) - curvatures.T.unsqueeze(2) * hat
        if len(system) == 1:  # one system, and a right side of each label
            return hat[0] @ torch.linalg.solve(system[0], slopes)
        return (hat @ torch.linalg.solve(system, slopes.T.unsqueeze(2))).squeeze(2).T


def _of_labels(values: Float[Tensor, "*S #K"], labels: Int64[Tensor, "L"]) -> Float[Tensor, "*S #L"]:
    return values if values.shape[-1] == 1 else values[..., labels]


class BestStrength(NamedTuple):
    """The strength of a penalty, its score, and the solution."""

    strength: float
    score: float
    solution: Solution


def find_strength(
    solve: Callable[[float, Solution | None], Solution],
    score: Callable[[Float[Tensor, "N K"]], float],
    start: float,
    ends: tuple[float, float],
    halve: bool = False,
) -> BestStrength:
    """The strength whose left-out predictions are best, if their score has one peak.

    From the start on, strengths are tried in steps as long as they get better, upwards and else downwards.

    Args:
        solve: gives the solution of a strength, from that of the best one so far.
        score: of left-out predictions, the higher the better.
        start: exponent of the strength that is tried first.
        ends: the least and the greatest exponent.
        halve: try half a step at the end, towards the better one of the neighbours.
    """
    best, solution = start, solve(10**start, None)
    scores = {start: score(solution.left_out)}  # by exponent

    def improves(exponent: float) -> bool:
        nonlocal best, solution
        tried = solve(10**exponent, solution)
        scores[exponent] = score(tried.left_out)
        if scores[exponent] <= scores[best]:
            return False
        best, solution = exponent, tried
        return True

    for step in (_STEP, -_STEP):
        while ends[0] <= best + step <= ends[1] and best + step not in scores and improves(best + step):
            pass
    beside = [exponent for exponent in (best - _STEP, best + _STEP) if exponent in scores]
    if halve and beside:
        improves((best + max(beside, key=lambda exponent: scores[exponent])) / 2)
    return BestStrength(10**best, scores[best], solution)


def conjugate_gradients(
    apply: Callable[[Float[Tensor, "R K"]], Float[Tensor, "R K"]],
    right: Float[Tensor, "R K"],
    inverse: Float[Tensor, "R #K"],
    num_steps: int,
    tolerance: float,
    start: Float[Tensor, "R K"] | None = None,
) -> Float[Tensor, "R K"]:
    """Solve a linear system of each label, all labels at once.

    Args:
        apply: multiplies with the matrices, symmetric and positive.
        right: right sides.
        inverse: of the diagonals of matrices nearby.
        num_steps: at most.
        tolerance: length of the residual as a share of the right side's, by `inverse`.
        start: a guess; None: zero.
    """
    solution = torch.zeros_like(right) if start is None else start
    residual = right if start is None else right - apply(start)
    direction = solved = inverse * residual
    slope = (residual * solved).sum(0)
    target = tolerance**2 * (right * inverse * right).sum(0)
    for _ in range(num_steps):
        if bool((slope <= target).all()):
            break
        image = apply(direction)
        step = slope / (direction * image).sum(0).clamp(min=SMALLEST**2)
        solution, residual = solution + step * direction, residual - step * image
        solved = inverse * residual
        following = (residual * solved).sum(0)
        direction = solved + following / slope.clamp(min=SMALLEST**2) * direction
        slope = following
    return solution
