"""Choices made on held-out *noisy* labels: the noise model, q, and whether to relabel. No true label is ever needed.

Candidates are compared by the mean AP of their true logits against the held-out observed labels. Under
class-conditional noise the observed precision at every threshold is q10 + (1 - q01 - q10) times the true one, an
increasing straight line, while the likelihood of the observed labels would reward a model for explaining the noise.
(The AUC, for which Menon et al. 2015 have such a line, prefers too small a q where many labels are incorrect.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from truetag.data.stratify import stratified_split
from truetag.evaluation.ranking import average_precision
from truetag.label_noise.heads import HeadSettings, fit_head
from truetag.label_noise.relabelling import fit_calibrated

QS = (0.0, 0.2, 0.4, 0.6, 0.8)
HELD_OUT = 0.25
FEWEST_POSITIVES = 5
NUM_ERRORS = 2.0
"""Standard errors that the best must be ahead of the plain head by: it is the best of several, and luck counts."""


@dataclass(frozen=True)
class Choice:
    """The settings that were chosen, every candidate's held-out AP, and why."""

    settings: HeadSettings
    scores: dict[str, float]
    reason: str


def candidates(settings: HeadSettings) -> list[HeadSettings]:
    """The plain head first, then a feature-independent noise model with each q-likelihood."""
    return [replace(settings, noise_model="none", q=0.0), *(replace(settings, noise_model="fi", q=q) for q in QS)]


def choose(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    among: Sequence[HeadSettings],
    weights: Float[Tensor, "N"] | None = None,
    targets: Shaped[Tensor, "N K"] | None = None,
    num_errors: float = NUM_ERRORS,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Choice:
    """Train each candidate on three quarters of the examples and compare them on the rest.

    The first is kept unless the best is ahead of it by some standard errors of their difference over labels. The best
    of those with a noise model is a candidate once more, relabelled; not where there are targets: they are a posterior.

    Args:
        features: of each example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        among: the candidates, the simplest first.
        weights: of each example.
        targets: what is trained on instead of the observed labels, such as soft ones, and compared with: 1 from 1/2 on.
        num_errors: standard errors that the best must be ahead of the first by.
        groups: examples of one group stay together.
        seed: of the part that is held out and of training.
    """
    is_observed = targets is None
    targets = labels if targets is None else targets
    observed = torch.where(targets >= 0, (targets >= 0.5).to(torch.int8), -1)
    generator = torch.Generator().manual_seed(seed)
    splits = stratified_split(observed, {"train": 1 - HELD_OUT, "held out": HELD_OUT}, generator, groups)
    held_out = torch.tensor([split == "held out" for split in splits])
    judged = ((observed[held_out] == 1).sum(0) >= FEWEST_POSITIVES) & (
        (observed[held_out] == 0).sum(0) >= FEWEST_POSITIVES
    )
    if not judged.any():
        return Choice(among[0], {}, f"no label has {FEWEST_POSITIVES} held-out positives to choose by")
    kept = None if weights is None else weights[~held_out]

    def held_out_ap(settings: HeadSettings) -> Float64[Tensor, "J"]:
        fit = fit_calibrated if settings.relabel else fit_head
        head = fit(features[~held_out], targets[~held_out], settings, kept, seed=seed)
        return average_precision(head(features[held_out]), observed[held_out])[judged]

    def mean_ap(settings: HeadSettings) -> float:
        return aps[settings].mean().item()

    aps = {settings: held_out_ap(settings) for settings in among}
    if is_observed and (noisy := [settings for settings in among if settings.noise_model != "none"]):
        again = replace(max(noisy, key=mean_ap), relabel=True)
        aps[again] = held_out_ap(again)
    plain, best = among[0], max(aps, key=mean_ap)
    gain, error = _gain(aps[best], aps[plain])
    scores = {describe(settings): mean_ap(settings) for settings in aps}
    if best != plain and gain > num_errors * error:
        ahead = f"{100 * gain:.2f} points above {describe(plain)} (standard error {100 * error:.2f})"
        return Choice(best, scores, f"{describe(best)}: held-out AP {ahead}")
    reason = f"nothing is ahead of it by more than {num_errors:g} standard errors"
    return Choice(plain, scores, f"{describe(plain)}: {reason}")


def describe(settings: HeadSettings) -> str:
    """A short name of a method.

    >>> describe(HeadSettings(noise_model="fi", q=0.4))
    'fi, q = 0.4'
    """
    return f"{settings.noise_model}, q = {settings.q:g}" + (", relabelled" if settings.relabel else "")


def _gain(ours: Float64[Tensor, "K"], theirs: Float64[Tensor, "K"]) -> tuple[float, float]:
    difference = ours - theirs
    error = difference.std().item() / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return difference.mean().item(), error
