"""Choosing the noise model, q and the training labels on held-out *noisy* labels. No true label is ever needed.

Candidates are compared by the mean AP of their true logits against the held-out observed labels. Under
class-conditional noise the observed precision at every threshold is q10 + (1 - q01 - q10) times the true precision, an
increasing straight line, while the likelihood of the observed labels would reward a model for explaining the noise.
(The AUC, for which Menon et al. 2015 have such a line, prefers too small a q where many labels are incorrect.)
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int8, Shaped
from torch import Tensor

from truetag.data.stratify import stratified_split
from truetag.evaluation.ranking import average_precision
from truetag.label_noise.heads import FittedHead, fit_head
from truetag.label_noise.relabelling import fit_calibrated
from truetag.label_noise.settings import JOINT, HeadSettings
from truetag.label_noise.solved_heads import SolvedHeads

QS = (0.0, 0.2, 0.4, 0.6, 0.8)
HELD_OUT = 0.25
FEWEST_EXAMPLES = 5
"""A label is compared where this many held-out examples have it and this many do not."""
NUM_ERRORS = 0.0
"""Standard errors by which the best candidate must beat the plain head. A margin of two, against the luck of the best
of several, lost more on small tables than it saved elsewhere (benchmarks/small_tables.py)."""


@dataclass(frozen=True)
class Choice:
    """The settings that were chosen, every candidate's held-out AP, and the reason."""

    settings: HeadSettings
    scores: dict[str, float]
    reason: str


def candidates(settings: HeadSettings, q: float | None = None, with_solved: bool = True) -> list[HeadSettings]:
    """Ridge and logistic regression; or the plain head (mlcn-star) and the noise model FI from the first step.

    The latter are for checkpointed training, which solves for nothing, and where q is given: the value of q that is
    compared, instead of all. They take from `settings` what is not part of the method: batch size, step sizes, layer
    norm.
    """
    plain = replace(settings, noise_model="none", q=0.0)
    if with_solved and q is None:
        return [replace(plain, solver="ridge"), replace(plain, solver="logistic")]
    joint = replace(
        settings,
        noise_model=JOINT.noise_model,
        initial_missing_rate=JOINT.initial_missing_rate,
        initial_incorrect_rate=JOINT.initial_incorrect_rate,
        noise_learning_rate=JOINT.noise_learning_rate,
        stage1_epochs=0,
        stage2_epochs=settings.stage1_epochs or settings.stage2_epochs,
    )
    return [plain, *(replace(joint, q=value) for value in (QS if q is None else (q,)))]


def choose(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    among: Sequence[HeadSettings],
    weights: Float[Tensor, "N"] | None = None,
    targets: Shaped[Tensor, "N K"] | None = None,
    groups: Sequence[Hashable] | None = None,
    num_errors: float = NUM_ERRORS,
    seed: int = 0,
    on_compared: Callable[[HeadSettings], None] | None = None,
) -> Choice:
    """Train each candidate on three quarters of the examples and compare them on the rest.

    The first candidate is kept unless the best one beats it, by `num_errors` standard errors over labels.
    Where there are no `targets`, ridge or the best candidate with a noise model competes once more, trained on the
    posterior.

    Args:
        features: one row per example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        among: the candidates, the simplest first.
        weights: one per example.
        targets: soft labels, already a posterior, to train on instead of the observed labels; held-out ones count as
            present from 0.5 on.
        groups: near-duplicates, which stay on one side.
        num_errors: standard errors by which the best must beat the first.
        seed: decides what is held out, and the training.
        on_compared: called after each candidate.
    """
    train_on = (labels if targets is None else targets).cpu()
    observed = torch.where(train_on >= 0, (train_on >= 0.5).to(torch.int8), -1)
    held_out = _hold_out(observed, groups, seed)
    compared = _comparable_labels(observed[held_out])
    if not compared.any():
        return Choice(among[0], {}, _why_none_is_comparable(observed[held_out], len(observed)))
    kept_weights = None if weights is None else weights[~held_out]

    kept_groups = None if groups is None else [groups[row] for row in (~held_out).nonzero().flatten().tolist()]
    kept = features[~held_out], train_on[~held_out]

    def compare(settings: HeadSettings, fitted: FittedHead) -> None:
        if on_compared is not None:
            on_compared(settings)
        aps[settings] = average_precision(fitted(features[held_out]).cpu(), observed[held_out])[compared]

    aps: dict[HeadSettings, Tensor] = {}  # J each
    solved = SolvedHeads(*kept, among[0].layer_norm, kept_weights, kept_groups)
    for settings in among:
        compare(settings, fit_head(*kept, settings, kept_weights, seed=seed, solved=solved))
    if targets is None and (first := _first_of_posterior(aps)) is not None:
        settings = replace(first, train_on_posterior=True)
        compare(settings, fit_calibrated(*kept, settings, kept_weights, kept_groups, seed, solved))
    return _decide(aps, among[0], num_errors)


def describe(settings: HeadSettings) -> str:
    """A short name of a method.

    >>> describe(HeadSettings(noise_model="fi", q=0.4))
    'fi, q = 0.4'
    >>> describe(HeadSettings(solver="ridge", train_on_posterior=True))
    'ridge, on the posterior'
    """
    name = f"{settings.noise_model}, q = {settings.q:g}" if settings.solver == "adamw" else settings.solver
    return name + (", on the posterior" if settings.train_on_posterior else "")


def _first_of_posterior(aps: dict[HeadSettings, Float64[Tensor, "J"]]) -> HeadSettings | None:
    """The candidate that is tried on the posterior as well."""
    solved = [settings for settings in aps if settings.solver == "ridge"]
    noisy = [settings for settings in aps if settings.noise_model != "none"]
    return max(solved or noisy, key=lambda settings: aps[settings].mean().item(), default=None)


def _hold_out(observed: Int8[Tensor, "N K"], groups: Sequence[Hashable] | None, seed: int) -> Bool[Tensor, "N"]:
    """A stratified quarter of the examples, no group divided."""
    generator = torch.Generator().manual_seed(seed)
    parts = stratified_split(observed, {"train": 1 - HELD_OUT, "held out": HELD_OUT}, generator, groups)
    return torch.tensor([part == "held out" for part in parts])


def _comparable_labels(observed: Int8[Tensor, "M K"]) -> Bool[Tensor, "K"]:
    present, absent = (observed == 1).sum(0), (observed == 0).sum(0)
    return (present >= FEWEST_EXAMPLES) & (absent >= FEWEST_EXAMPLES)


def _why_none_is_comparable(observed: Int8[Tensor, "M K"], num_examples: int) -> str:
    """What is too few, for a person who wonders why nothing was compared."""
    if len(observed) < 2 * FEWEST_EXAMPLES:
        rows = f"{len(observed)} of {num_examples} are held out, and {2 * FEWEST_EXAMPLES} are needed"
        return f"no label to choose by: too few rows: {rows}"
    most_present, most_absent = ((observed == value).sum(0).amax().item() for value in (1, 0))
    lacking = [
        f"too few {kind} (the label with the most has {most} held-out, and {FEWEST_EXAMPLES} are needed)"
        for kind, most in (("positives", most_present), ("negatives", most_absent))
        if most < FEWEST_EXAMPLES
    ]
    each = f"no label has both {FEWEST_EXAMPLES} positives and {FEWEST_EXAMPLES} negatives held out"
    return f"no label to choose by: {' and '.join(lacking) or each}"


def _in_words(settings: HeadSettings) -> str:
    """A method in a sentence."""
    plain = settings.noise_model == "none" and settings.q == 0 and settings.solver == "adamw"
    return "no noise model" if plain else describe(settings)


def _decide(aps: dict[HeadSettings, Float64[Tensor, "J"]], plain: HeadSettings, num_errors: float) -> Choice:
    """The best candidate, if it beats the plain one by enough."""
    scores = {describe(settings): ap.mean().item() for settings, ap in aps.items()}
    best = max(aps, key=lambda settings: aps[settings].mean())
    difference = aps[best] - aps[plain]  # J
    gain = difference.mean().item()
    error = difference.std().item() / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    if best != plain and gain > num_errors * error:
        ahead = f"{100 * gain:.2f} points above that with {_in_words(plain)} (standard error {100 * error:.2f})"
        return Choice(best, scores, f"{_in_words(best)}: held-out AP {ahead}")
    better = f"clearly better ({num_errors:g} standard errors)" if num_errors else "better"
    return Choice(plain, scores, f"{_in_words(plain)}: on held-out tags, no candidate is {better}")
