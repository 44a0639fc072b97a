"""Rates of wrong labels, and probabilities, from how often labels are observed at each out-of-sample score.

A noise model that is trained together with the classifier need not find the rates: a regularised classifier cannot say
"surely", and what it cannot say the rates make up for. Here the classifier is fixed. For each label

    p(z=1 | s) = q10 + (1 - q01 - q10) sigmoid(a s + b)

in its logit s: the curve levels out at q10 where the label is surely absent and at 1 - q01 where it is surely present,
and a and b, Platt's (1999) scale and shift, say where "surely" begins. That identifies the rates as far as the scores
get there. Of many labels they do not, so labels share priors that are learnt from all of them (empirical Bayes):

- q10 is normal on the log-odds scale, mean and deviation learnt: the low end of the curve is seen of every label.
- q01 has a smallest value that all labels share and is exponential above it. A label that people often leave out by
  themselves levels out lower than the common rate says, never higher: what is common is the edge, not the mean.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from truetag.latent import known

NUM_BINS = 64
EXCESS = 0.4
"""Mean of what the log-odds of a label's missing rate exceed the common edge by."""
SCALE_DEVIATION = 0.5
"""Standard deviation of log a."""
_SHIFT_DEVIATION = 10.0
_START = (-1.5, -4.0)
"""Log-odds of the missing and the incorrect rate before anything is seen, and their deviation."""
_START_DEVIATION = 1.5
_LEAST_DEVIATION, _MOST_DEVIATION = 0.15, 2.0
_EDGES = torch.linspace(-6.0, 4.0, 51, dtype=torch.float64)
_FIXED = 1e-4
_NUM_ROUNDS, _NUM_STEPS, _NUM_GRID_STEPS = 40, 6, 30
_LABELS_AT_A_TIME = 256


@dataclass(frozen=True)
class Calibration:
    """Of each label: p(y=1|s) = sigmoid(scale s + shift), and the rates."""

    scale: Float[Tensor, "K"]
    shift: Float[Tensor, "K"]
    missing: Float[Tensor, "K"]
    """q01 = p(z=0 | y=1)."""
    incorrect: Float[Tensor, "K"]
    """q10 = p(z=1 | y=0)."""

    def true_logits(self, logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Logit of p(y=1|s)."""
        return logits * self.scale + self.shift


def calibrate(
    logits: Float[Tensor, "N K"], labels: Shaped[Tensor, "N K"], weights: Float[Tensor, "N"] | None = None
) -> Calibration:
    """Scale, shift and rates with the highest posterior density under priors that all labels share.

    Args:
        logits: true logits from a classifier that did not see the example: one that did vouches for its label.
        labels: observed: 1, 0, anything between, NaN or -1 for unknown.
        weights: of each example, in units of examples.

    >>> generator = torch.Generator().manual_seed(0)
    >>> logits = 3 * torch.randn(20_000, 1, generator=generator)
    >>> true = torch.rand(20_000, 1, generator=generator) < logits.sigmoid()
    >>> observed = true & (torch.rand(20_000, 1, generator=generator) > 0.3)  # three in ten are missing
    >>> calibrate(logits / 2, observed.float()).missing.round(decimals=1)
    tensor([0.3000])
    """
    counts = _count(logits, labels, weights)
    means, deviations = _learn_priors(counts)
    parts = [_over_grid(part, means, deviations) for part in counts.parts()]
    log_evidence = torch.cat([part[0] for part in parts])  # K G
    estimates = torch.cat([part[1] for part in parts])  # K G 4
    log_prior = _exponential_priors()
    # a label that is always there is no sign of how often others are missing
    has_contrast = (counts.present.sum(1) > 0) & (counts.present.sum(1) < counts.examples.sum(1))
    edge = torch.stack([(log_evidence + prior).logsumexp(1)[has_contrast].sum() for prior in log_prior]).argmax()
    picked = (log_evidence + log_prior[edge]).argmax(1)
    chosen = estimates[torch.arange(len(picked)), picked].to(logits.dtype)
    return Calibration(chosen[:, 0].exp(), chosen[:, 1], chosen[:, 2].sigmoid(), chosen[:, 3].sigmoid())


class _Counts(NamedTuple):
    """Of each label and bin of scores: examples, how many have the label, and their mean score."""

    examples: Float64[Tensor, "K B"]
    present: Float64[Tensor, "K B"]
    score: Float64[Tensor, "K B"]

    def parts(self) -> "list[_Counts]":
        """Some labels at a time: a grid of all of them would not fit."""
        return [_Counts(*part) for part in zip(*(of.split(_LABELS_AT_A_TIME) for of in self), strict=True)]


def _count(logits: Tensor, labels: Tensor, weights: Tensor | None) -> _Counts:
    scores, is_known = logits.detach().double(), known(labels)
    lowest, highest = scores.min(0).values, scores.max(0).values
    width = (highest - lowest).clamp(min=1e-9) / NUM_BINS
    bins = ((scores - lowest) / width).long().clamp(0, NUM_BINS - 1)
    each = is_known.double() if weights is None else is_known * weights.double().unsqueeze(1)
    present = torch.where(is_known, labels, 0).double() * each
    examples, named, score = (
        torch.zeros(NUM_BINS, scores.shape[1], dtype=torch.float64).scatter_add_(0, bins, values).T
        for values in (each, present, each * scores)
    )
    return _Counts(examples, named, torch.where(examples > 0, score / examples.clamp(min=1e-30), 0))


def _learn_priors(counts: _Counts) -> tuple[Float64[Tensor, "4"], Float64[Tensor, "4"]]:
    """Means and deviations of (log a, b, logit q01, logit q10): EM with Laplace's approximation of each label."""
    means = torch.tensor([0.0, 0.0, *_START], dtype=torch.float64)
    deviations = torch.tensor([SCALE_DEVIATION, _SHIFT_DEVIATION, _START_DEVIATION, _START_DEVIATION]).double()
    estimates = means.expand(len(counts.examples), 4)
    for _ in range(_NUM_ROUNDS):
        estimates, precision = _maximise(counts, estimates, means, deviations, _NUM_STEPS)
        variance = torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1)
        means, deviations = means.clone(), deviations.clone()
        means[2:] = estimates[:, 2:].mean(0)
        spread = ((estimates - means) ** 2 + variance).mean(0).sqrt()
        deviations[2:] = spread[2:].clamp(_LEAST_DEVIATION, _MOST_DEVIATION)
    return means, deviations


def _over_grid(
    counts: _Counts, means: Float64[Tensor, "4"], deviations: Float64[Tensor, "4"]
) -> tuple[Float64[Tensor, "K G"], Float64[Tensor, "K G 4"]]:
    """Log evidence of each label for each missing rate of `_EDGES`, and the rest at its best there."""
    grid = means.repeat(len(_EDGES), 1)
    grid[:, 2] = _EDGES
    deviations = deviations.clone()
    deviations[2] = _FIXED
    of_grid = _Counts(*(of.unsqueeze(1) for of in counts))
    start = grid.expand(len(counts.examples), *grid.shape)
    estimates, precision = _maximise(of_grid, start, grid, deviations, _NUM_GRID_STEPS)
    density = _log_density(of_grid, estimates, grid, deviations)
    return density - torch.linalg.slogdet(precision)[1] / 2, estimates


def _exponential_priors() -> Float64[Tensor, "E G"]:
    """Log prior over the grid for each place of it as the common edge."""
    excess = _EDGES - _EDGES.unsqueeze(1)
    return torch.where(excess >= 0, -excess / EXCESS, -torch.inf).log_softmax(1)


def _curve(counts: _Counts, estimates: Float64[Tensor, "*S 4"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """p(z=1|s) and p(z=0|s) in each bin, sigmoid(a s + b), and both rates."""
    log_scale, shift, missing, incorrect = (value.unsqueeze(-1) for value in estimates.unbind(-1))
    present = (log_scale.exp() * counts.score + shift).sigmoid()
    missing, incorrect = missing.sigmoid(), incorrect.sigmoid()
    observed = incorrect * (1 - present) + (1 - missing) * present
    smallest = torch.finfo(torch.float64).tiny
    return observed.clamp(min=smallest), (1 - observed).clamp(min=smallest), present, missing, incorrect


def _log_density(counts: _Counts, estimates: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    observed, unobserved, *_ = _curve(counts, estimates)
    absent = counts.examples - counts.present
    log_likelihood = (counts.present * observed.log() + absent * unobserved.log()).sum(-1)
    return log_likelihood - (((estimates - means) / deviations) ** 2).sum(-1) / 2


def _maximise(
    counts: _Counts,
    estimates: Float64[Tensor, "*S 4"],
    means: Float64[Tensor, "*M 4"],
    deviations: Float64[Tensor, "4"],
    num_steps: int,
) -> tuple[Float64[Tensor, "*S 4"], Float64[Tensor, "*S 4 4"]]:
    """Levenberg-Marquardt steps on Fisher's information, a damping for each; the estimates and their precision."""
    damping = torch.full((*estimates.shape[:-1], 1, 1), 1e-2, dtype=torch.float64)
    density = _log_density(counts, estimates, means, deviations)
    prior = torch.diag(deviations**-2)
    for _ in range(num_steps):
        gradient, information = _slope(counts, estimates)
        precision = information + prior
        damped = precision + damping * torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1))
        gradient = gradient - (estimates - means) / deviations**2
        tried = estimates + torch.linalg.solve(damped, gradient).clamp(-1, 1)
        reached = _log_density(counts, tried, means, deviations)
        better = reached >= density
        estimates = torch.where(better.unsqueeze(-1), tried, estimates)
        density = torch.where(better, reached, density)
        damping = torch.where(better[..., None, None], damping / 4, damping * 8).clamp(1e-7, 1e7)
    return estimates, _slope(counts, estimates)[1] + prior


def _slope(counts: _Counts, estimates: Tensor) -> tuple[Float64[Tensor, "*S 4"], Float64[Tensor, "*S 4 4"]]:
    """Gradient of the log-likelihood and Fisher's information."""
    observed, unobserved, present, missing, incorrect = _curve(counts, estimates)
    of_shift = (1 - missing - incorrect) * present * (1 - present)
    of_log_scale = of_shift * estimates[..., :1].exp() * counts.score
    of_missing = -missing * (1 - missing) * present
    of_incorrect = incorrect * (1 - incorrect) * (1 - present)
    jacobian = torch.stack([of_log_scale, of_shift, of_missing, of_incorrect], dim=-1)  # *S B 4
    variance = observed * unobserved
    residual = (counts.present - counts.examples * observed) / variance
    information = (jacobian * (counts.examples / variance).unsqueeze(-1)).mT @ jacobian
    return (residual.unsqueeze(-2) @ jacobian).squeeze(-2), information
