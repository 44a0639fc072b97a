"""Rates of wrong labels, and calibrated probabilities, from how often labels are observed at each out-of-sample score.

A noise model that is trained together with the classifier need not find the rates: a regularised classifier is never
quite sure, and the rates make up for that. Here the classifier is fixed. For each label

    p(z=1 | s) = q10 + (1 - q01 - q10) sigmoid(a s + b)

in its logit s: the curve levels out at q10 where the label is surely absent and at 1 - q01 where it is surely present,
and a and b, Platt's (1999) scale and shift, decide where "surely" begins. That identifies the rates as far as the
scores get there. For many labels they do not, so labels share priors, learnt from all of them (empirical Bayes):

- q10 is normal on the log-odds scale, mean and deviation learnt: every label shows the low end of the curve.
- q01 has a smallest value that all labels share and is exponential above it. The curve of a label that people often
  leave out levels out lower than the common rate, never higher: what is common is the edge, not the mean.

The four estimates of a label are (log a, b, logit q01, logit q10), in this order along the last axis. They maximise

    sum over bins of n_1 log p(z=1|s) + n_0 log p(z=0|s)  -  sum over the four of (estimate - mean)^2 / (2 deviation^2)

with n_1 and n_0 the numbers of examples in a bin that have the label and that do not.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from truetag.latent import known, observe
from truetag.noise_models import transition

NUM_BINS = 64
FARTHEST = 10
"""Scores are binned as far out as this many times the distance of the quartiles."""
_QUARTILE_EXAMPLES = 10_000
EXCESS = 0.4
"""Mean of what the log-odds of a label's missing rate exceed the common edge by."""
SCALE_DEVIATION = 0.5
"""Standard deviation of log a."""
_SHIFT_DEVIATION = 10.0
_LOG_SCALE, _SHIFT, _MISSING, _INCORRECT = range(4)
_RATES = slice(_MISSING, _INCORRECT + 1)
"""Positions of the estimates."""
_INITIAL_LOG_ODDS = (-1.5, -4.0)
"""Of the missing and the incorrect rate before any label is seen, and their deviation."""
_INITIAL_DEVIATION = 1.5
_LEAST_DEVIATION, _MOST_DEVIATION = 0.15, 2.0
_EDGES = torch.linspace(-6.0, 4.0, 51, dtype=torch.float64)
_FIXED = 1e-4
_NUM_ROUNDS, _NUM_STEPS, _NUM_GRID_STEPS = 40, 6, 30
_LABELS_AT_A_TIME = 256
_SMALLEST_SPAN = 1e-6


@dataclass(frozen=True)
class Calibration:
    """Per label: p(y=1|s) = floor + (ceiling - floor) sigmoid(scale s + shift), and the rates."""

    scale: Float[Tensor, "K"]
    shift: Float[Tensor, "K"]
    missing: Float[Tensor, "K"]
    """q01 = p(z=0 | y=1)."""
    incorrect: Float[Tensor, "K"]
    """q10 = p(z=1 | y=0)."""
    common_missing: Float[Tensor, ""]
    """The missing rate that labels have in common: the median of their prior."""
    common_incorrect: Float[Tensor, ""]
    """The incorrect rate that labels have in common, likewise."""
    missing_deviation: Float[Tensor, "K"]
    """Standard deviation of the missing rate, given all that is observed."""
    incorrect_deviation: Float[Tensor, "K"]
    """Standard deviation of the incorrect rate, likewise."""
    ceiling: Float[Tensor, "K"]
    """p(y=1|s) where the score is highest: 1, unless `split_ends` lowers it."""
    floor: Float[Tensor, "K"]
    """p(y=1|s) where the score is lowest: 0, unless `split_ends` raises it."""

    def to(self, like: Tensor) -> "Calibration":
        """The same in the type and on the device of another tensor."""
        return Calibration(*(value.to(like) for value in vars(self).values()))

    def true_logits(self, logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Logit of p(y=1|s)."""
        # ceiling and floor are a missing and an incorrect rate by their equation
        return observe(logits * self.scale + self.shift, transition(len(self.floor), 1 - self.ceiling, self.floor))


def calibrate(
    logits: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"], weights: Float[Tensor, "N"] | None = None
) -> Calibration:
    """Scale, shift and rates with the highest posterior density under priors that all labels share.

    Args:
        logits: true logits from a classifier that did not see the example; one that did would vouch for its label.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        weights: one per example, in units of examples.

    >>> generator = torch.Generator().manual_seed(0)
    >>> logits = 3 * torch.randn(20_000, 1, generator=generator)
    >>> true = torch.rand(20_000, 1, generator=generator) < logits.sigmoid()
    >>> observed = true & (torch.rand(20_000, 1, generator=generator) > 0.3)  # three in ten are missing
    >>> calibrate(logits / 2, observed.float()).missing.round(decimals=1)
    tensor([0.3000])
    """
    counts = count_by_score(logits, labels, weights)
    means, deviations = _learn_priors(counts)
    parts = [_over_grid(part, means, deviations) for part in counts.parts()]
    log_evidence = torch.cat([part[0] for part in parts])  # K G
    estimates = torch.cat([part[1] for part in parts])  # K G 4
    log_prior = _exponential_priors()
    # a label that is always there is no sign of how often others are missing
    has_contrast = (counts.present.sum(1) > 0) & (counts.present.sum(1) < counts.examples.sum(1))
    edge = torch.stack([(log_evidence + prior).logsumexp(1)[has_contrast].sum() for prior in log_prior]).argmax()
    log_posterior = log_evidence + log_prior[edge]
    picked = log_posterior.argmax(1)
    chosen = estimates[torch.arange(len(picked)), picked]
    incorrect = chosen[:, _INCORRECT].sigmoid()
    precision = slope(counts, chosen)[1][:, _INCORRECT, _INCORRECT] + deviations[_INCORRECT] ** -2
    return Calibration(
        scale=chosen[:, _LOG_SCALE].exp(),
        shift=chosen[:, _SHIFT],
        missing=chosen[:, _MISSING].sigmoid(),
        incorrect=incorrect,
        common_missing=(_EDGES[edge] + EXCESS * math.log(2)).sigmoid(),
        common_incorrect=means[_INCORRECT].sigmoid(),
        missing_deviation=_deviation_over_grid(log_posterior),
        incorrect_deviation=incorrect * (1 - incorrect) / precision.sqrt(),
        ceiling=torch.ones_like(incorrect),
        floor=torch.zeros_like(incorrect),
    ).to(logits)


def in_examples(weights: Float[Tensor, "N"] | None) -> Float[Tensor, "N"] | None:
    """Weights in units of examples: 1 in the mean."""
    return None if weights is None else weights / weights.mean()


def split_ends(calibration: Calibration) -> Calibration:
    """Rates and probabilities that suit the posterior: not all that a curve lacks at its ends is wrong tags.

    A curve that levels out below 1 shows a product, (1 - q01 - q10) times the highest p(y=1|s), and nothing in scores
    and labels says which of the two is low: the label is often left out, or even the clearest photo leaves it open. At
    the low end it is the same: the label is often given wrongly, or no photo quite rules it out. Where a rate of a
    label exceeds the common one, half of the excess (in log odds) therefore counts as wrong tags and half as doubt; the
    curve stays as it is. If all of it were wrong tags, the labels with the most doubt would fill the top of every list.

    >>> one = torch.ones(1)
    >>> common = torch.tensor(0.2), torch.tensor(0.01)
    >>> found = Calibration(one, 0 * one, 0.6 * one, 0 * one, *common, 0.1 * one, 0.1 * one, ceiling=one, floor=0 * one)
    >>> split_ends(found).missing, split_ends(found).ceiling
    (tensor([0.3798]), tensor([0.6449]))
    """
    missing = _half_way(calibration.missing, calibration.common_missing)
    incorrect = _half_way(calibration.incorrect, calibration.common_incorrect)
    span = (1 - missing - incorrect).clamp(min=_SMALLEST_SPAN)
    floor = ((calibration.incorrect - incorrect) / span).clamp(0, 1 - _SMALLEST_SPAN)
    # a curve that falls, of a label whose scores say nothing, becomes flat
    ceiling = torch.maximum((1 - calibration.missing - incorrect) / span, floor).clamp(_SMALLEST_SPAN, 1)
    return replace(calibration, missing=missing, incorrect=incorrect, ceiling=ceiling, floor=floor)


def _half_way(own: Float[Tensor, "K"], common: Float[Tensor, ""]) -> Float[Tensor, "K"]:
    """The middle of both in log odds, where a label's own rate exceeds the common one."""
    middle = ((own.logit() + common.logit()) / 2).sigmoid()
    return torch.where(own > common, middle, own)


class Counts(NamedTuple):
    """Per label and bin of scores: the number of examples, of those that have the label, and their mean score."""

    examples: Float64[Tensor, "K B"]
    present: Float64[Tensor, "K B"]
    score: Float64[Tensor, "K B"]

    def parts(self) -> "list[Counts]":
        """Some labels at a time: a grid of all of them would not fit in memory."""
        return [Counts(*part) for part in zip(*(of.split(_LABELS_AT_A_TIME) for of in self), strict=True)]


def count_by_score(
    logits: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"], weights: Float[Tensor, "N"] | None
) -> Counts:
    """Sort the examples of each label into `NUM_BINS` bins of equal width between its lowest and its highest score.

    Examples that are unknown or have no weight count for nothing, the bounds included. Scores that are `FARTHEST` times
    farther out than the middle half of all lie in the outermost bins, as if they were nearer: one absurd score would
    leave all others in one bin.
    """
    scores, is_known = logits.detach().double(), known(labels)
    each = is_known.double() if weights is None else is_known * weights.double().unsqueeze(1)
    lowest, highest = (torch.where(each > 0, scores, end) for end in (torch.inf, -torch.inf))
    lowest, highest = lowest.min(0).values, highest.max(0).values
    if len(scores):
        first, third = _quartiles(torch.where(each > 0, scores, torch.nan))
        reach = FARTHEST * (third - first)
        scores = torch.where(reach > 0, scores.clamp(first - reach, third + reach), scores)
        lowest, highest = (
            torch.where(reach > 0, end.clamp(first - reach, third + reach), end) for end in (lowest, highest)
        )
    lowest, highest = (torch.where(lowest <= highest, bound, 0) for bound in (lowest, highest))  # of an unknown label
    width = (highest - lowest).clamp(min=1e-9) / NUM_BINS
    bins = ((scores - lowest) / width).clamp(0, NUM_BINS - 1).long()
    present = torch.where(is_known, labels, 0).double() * each
    examples, named, score = (
        torch.zeros(NUM_BINS, scores.shape[1], dtype=torch.float64).scatter_add_(0, bins, values).T
        for values in (each, present, each * scores)
    )
    return Counts(examples, named, torch.where(examples > 0, score / examples.clamp(min=1e-30), 0))


def _quartiles(scores: Float64[Tensor, "N K"]) -> tuple[Float64[Tensor, "K"], Float64[Tensor, "K"]]:
    """The first and the third quartile of each label, NaN left out, from a part of many examples."""
    part = scores[:: max(len(scores) // _QUARTILE_EXAMPLES, 1)]
    ends = torch.tensor([0.25, 0.75], dtype=torch.float64)
    found = torch.cat([torch.nanquantile(some, ends, dim=0) for some in part.split(_LABELS_AT_A_TIME, dim=1)], dim=1)
    return found[0].nan_to_num(0), found[1].nan_to_num(0)


def _learn_priors(counts: Counts) -> tuple[Float64[Tensor, "4"], Float64[Tensor, "4"]]:
    """Learn the priors of the rates by EM, with Laplace's approximation of each label.

    Returns:
        Mean and deviation of each of the four estimates.
    """
    means = torch.tensor([0.0, 0.0, *_INITIAL_LOG_ODDS], dtype=torch.float64)
    initial = [SCALE_DEVIATION, _SHIFT_DEVIATION, _INITIAL_DEVIATION, _INITIAL_DEVIATION]
    deviations = torch.tensor(initial).double()
    estimates = means.expand(len(counts.examples), 4)
    for _ in range(_NUM_ROUNDS):
        estimates, precision = _maximise(counts, estimates, means, deviations, _NUM_STEPS)
        variance = torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1)
        means, deviations = means.clone(), deviations.clone()
        means[_RATES] = estimates[:, _RATES].mean(0)
        spread = ((estimates - means) ** 2 + variance).mean(0).sqrt()
        deviations[_RATES] = spread[_RATES].clamp(_LEAST_DEVIATION, _MOST_DEVIATION)
    return means, deviations


def _over_grid(
    counts: Counts, means: Float64[Tensor, "4"], deviations: Float64[Tensor, "4"]
) -> tuple[Float64[Tensor, "K G"], Float64[Tensor, "K G 4"]]:
    """Fit each label with its missing rate held at each value of `_EDGES`.

    Returns:
        The log evidence of each label for each value, and the other estimates at their best there.
    """
    grid = means.repeat(len(_EDGES), 1)
    grid[:, _MISSING] = _EDGES
    deviations = deviations.clone()
    deviations[_MISSING] = _FIXED  # held where the grid puts it
    of_grid = Counts(*(of.unsqueeze(1) for of in counts))
    start = grid.expand(len(counts.examples), *grid.shape)
    estimates, precision = _maximise(of_grid, start, grid, deviations, _NUM_GRID_STEPS)
    density = _log_density(of_grid, estimates, grid, deviations)
    return density - torch.linalg.slogdet(precision)[1] / 2, estimates


def _deviation_over_grid(log_posterior: Float64[Tensor, "K G"]) -> Float64[Tensor, "K"]:
    """Standard deviation of the missing rate, from its log posterior over `_EDGES`."""
    weights, rates = log_posterior.softmax(1), _EDGES.sigmoid()
    mean = weights @ rates
    return (weights * (rates - mean.unsqueeze(1)) ** 2).sum(1).sqrt()


def _exponential_priors() -> Float64[Tensor, "E G"]:
    """Log prior over the grid, for each of its values as the common edge."""
    excess = _EDGES - _EDGES.unsqueeze(1)
    return torch.where(excess >= 0, -excess / EXCESS, -torch.inf).log_softmax(1)


def _curve(counts: Counts, estimates: Float64[Tensor, "*S 4"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The curve in each bin.

    Returns:
        p(z=1|s), p(z=0|s), sigmoid(a s + b), the missing rate and the incorrect rate.
    """
    log_scale, shift, missing, incorrect = (value.unsqueeze(-1) for value in estimates.unbind(-1))
    present = (log_scale.exp() * counts.score + shift).sigmoid()
    missing, incorrect = missing.sigmoid(), incorrect.sigmoid()
    observed = incorrect * (1 - present) + (1 - missing) * present
    smallest = torch.finfo(torch.float64).tiny
    return observed.clamp(min=smallest), (1 - observed).clamp(min=smallest), present, missing, incorrect


def _log_density(
    counts: Counts, estimates: Float64[Tensor, "*S 4"], means: Float64[Tensor, "*M 4"], deviations: Float64[Tensor, "4"]
) -> Float64[Tensor, "*S"]:
    """What is maximised, up to a constant."""
    observed, unobserved, *_ = _curve(counts, estimates)
    absent = counts.examples - counts.present
    log_likelihood = (counts.present * observed.log() + absent * unobserved.log()).sum(-1)
    return log_likelihood - (((estimates - means) / deviations) ** 2).sum(-1) / 2


def _maximise(
    counts: Counts,
    estimates: Float64[Tensor, "*S 4"],
    means: Float64[Tensor, "*M 4"],
    deviations: Float64[Tensor, "4"],
    num_steps: int,
) -> tuple[Float64[Tensor, "*S 4"], Float64[Tensor, "*S 4 4"]]:
    """Maximise the density by Levenberg-Marquardt steps on Fisher's information, each problem with its own damping.

    Args:
        counts: of the labels.
        estimates: where to start.
        means: of the priors.
        deviations: of the priors.
        num_steps: how many steps.

    Returns:
        The estimates, and their precision.
    """
    damping = torch.full((*estimates.shape[:-1], 1, 1), 1e-2, dtype=torch.float64)
    density = _log_density(counts, estimates, means, deviations)
    prior = torch.diag(deviations**-2)
    for _ in range(num_steps):
        gradient, information = slope(counts, estimates)
        precision = information + prior
        damped = precision + damping * torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1))
        gradient = gradient - (estimates - means) / deviations**2
        tried = estimates + torch.linalg.solve(damped, gradient).clamp(-1, 1)
        reached = _log_density(counts, tried, means, deviations)
        better = reached >= density
        estimates = torch.where(better.unsqueeze(-1), tried, estimates)
        density = torch.where(better, reached, density)
        damping = torch.where(better[..., None, None], damping / 4, damping * 8).clamp(1e-7, 1e7)
    return estimates, slope(counts, estimates)[1] + prior


def slope(
    counts: Counts, estimates: Float64[Tensor, "*S 4"]
) -> tuple[Float64[Tensor, "*S 4"], Float64[Tensor, "*S 4 4"]]:
    """Slope and curvature of the log-likelihood in the four estimates.

    Returns:
        The gradient, and Fisher's information.
    """
    observed, unobserved, present, missing, incorrect = _curve(counts, estimates)
    of_shift = (1 - missing - incorrect) * present * (1 - present)
    of_log_scale = of_shift * estimates[..., [_LOG_SCALE]].exp() * counts.score
    of_missing = -missing * (1 - missing) * present
    of_incorrect = incorrect * (1 - incorrect) * (1 - present)
    jacobian = torch.stack([of_log_scale, of_shift, of_missing, of_incorrect], dim=-1)  # *S B 4, in the order above
    variance = observed * unobserved
    residual = (counts.present - counts.examples * observed) / variance
    information = (jacobian * (counts.examples / variance).unsqueeze(-1)).mT @ jacobian
    return (residual.unsqueeze(-2) @ jacobian).squeeze(-2), information
