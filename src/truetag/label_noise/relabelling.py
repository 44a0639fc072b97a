"""Training on what the observed labels probably mean: one E-step of EM, in which no example vouches for itself.

A head is trained on the other folds, and its out-of-sample logits give rho = p(y=1|z,x) [Appendix Eq. 2], with
calibrated probabilities, estimated rates and the relations between labels (`posterior.label_posterior`). A second head
is trained on rho instead of z. In plain EM the same network supplies the logits of the E-step and has already learnt
the wrong labels: it believes what it has seen. A second round would bring that back (the rho of the other folds has
seen the label) and does worse, so there is only one.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.evaluation.decisions import expected_f1_thresholds
from truetag.label_noise.heads import FittedHead, fit_head, out_of_sample_logits
from truetag.label_noise.linear_head import Head
from truetag.label_noise.posterior import label_posterior, observe_labels
from truetag.label_noise.rates import Calibration, calibrate, in_examples
from truetag.label_noise.settings import HeadSettings
from truetag.label_noise.solved_heads import SolvedHeads
from truetag.latent import known, posterior_logits
from truetag.noise_models import FeatureIndependentNoise

HIGHEST_Q = 0.4
"""Of the second head: the posterior has already removed most of what a larger q would protect from."""


class CalibratedLogits(NamedTuple):
    """Out-of-sample logits, and the calibration that suits them."""

    scores: Float[Tensor, "N K"]
    """As the heads gave them."""
    calibration: Calibration

    @property
    def logits(self) -> Float[Tensor, "N K"]:
        """Of p(y=1|x)."""
        return self.calibration.true_logits(self.scores)


class Expectation(NamedTuple):
    """What an E-step finds."""

    calibrated: CalibratedLogits
    posterior: Float[Tensor, "N K"]
    """p(y=1|z,x), -1 where the label is unknown; with relations between labels, if it is to be trained on."""


@dataclass(frozen=True)
class PosteriorLabels:
    """p(y=1|z,x) of each example, -1 where the label is unknown, and the calibration behind it."""

    labels: Float[Tensor, "N K"]
    calibration: Calibration


def calibrated_logits(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
    solved: SolvedHeads | None = None,
) -> CalibratedLogits:
    """Logits of heads that did not see the example, calibrated together with the rates of wrong labels.

    Args:
        features: one row per example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        settings: of the heads.
        weights: one per example, in any unit.
        groups: near-duplicates, none of which is trained on where another is scored.
        seed: decides the folds and the training.
        on_fold: called with 1 after each of the `NUM_FOLDS` folds.
        solved: heads of these examples, where some were solved for before.
    """
    weights = in_examples(weights)
    logits = out_of_sample_logits(
        features, labels, settings, weights, groups, seed=seed, on_fold=on_fold, solved=solved
    ).to(labels.device)
    return CalibratedLogits(logits, calibrate(logits, labels, weights))


def posterior_labels(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> PosteriorLabels:
    """The posterior of every observed label, by heads with these settings that did not see the example.

    Args:
        features: one row per example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        settings: of the heads.
        weights: one per example, in any unit.
        groups: near-duplicates, none of which is trained on where another is scored.
        seed: decides the folds and the training.
    """
    calibrated = calibrated_logits(features, labels, settings, weights, groups, seed)
    return PosteriorLabels(posterior_of(calibrated, labels, weights, groups, seed), calibrated.calibration)


def fit_calibrated(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    solved: SolvedHeads | None = None,
) -> FittedHead:
    """A head with calibrated probabilities, estimated rates and thresholds; with `train_on_posterior` trained on rho.

    Args:
        features: one row per example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        settings: of the heads.
        weights: one per example, in any unit.
        groups: near-duplicates, none of which is trained on where another is scored.
        seed: decides the folds and the training.
        solved: heads of these examples, where some were solved for before.
    """
    if solved is None:
        solved = SolvedHeads(features, labels, settings.layer_norm, weights, groups)
    calibrated, posterior = expect(features, labels, settings, weights, groups, seed, solved)
    last = second_head_settings(settings) if settings.train_on_posterior else settings
    if last.solver == "adamw":
        labels = posterior if settings.train_on_posterior else labels
        head = fit_head(features, labels, last, weights, seed=seed).head
        match_logits(head, head(features), moments_of(calibrated.logits))
        logits = calibrated.logits
    elif settings.train_on_posterior:  # left-out logits are log odds of the posterior
        head, logits, *_ = solved.fit_to(posterior)
    else:
        head, scores, *_ = solved.fit(last)
        match_logits(head, scores, moments_of(calibrated.logits))
        logits = calibrated.logits
    thresholds = expected_f1_thresholds(logits.sigmoid().cpu(), posterior.cpu())
    return FittedHead(head, estimated_noise(calibrated.calibration).to(features), thresholds)


def expect(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    solved: SolvedHeads | None = None,
) -> Expectation:
    """The E-step of heads with these settings.

    Args:
        features: one row per example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        settings: of the heads.
        weights: one per example, in any unit.
        groups: near-duplicates, none of which is trained on where another is scored.
        seed: decides the folds and the training.
        solved: heads of these examples, where some were solved for before.
    """
    calibrated = calibrated_logits(features, labels, settings, weights, groups, seed, solved=solved)
    if settings.train_on_posterior:
        return Expectation(calibrated, posterior_of(calibrated, labels, weights, groups, seed))
    log_q = estimated_noise(calibrated.calibration)()
    posterior = posterior_logits(calibrated.logits, log_q, labels).sigmoid()
    return Expectation(calibrated, torch.where(known(labels), posterior, -1))


class LogitMoments(NamedTuple):
    """Mean and deviation over examples of each label's logit."""

    mean: Float[Tensor, "K"]
    deviation: Float[Tensor, "K"]


def moments_of(logits: Float[Tensor, "N K"]) -> LogitMoments:
    """Mean and deviation over examples."""
    return LogitMoments(logits.mean(0), logits.std(0, correction=0))


@torch.no_grad()
def match_logits(head: Head, logits: Float[Tensor, "N K"], target: LogitMoments) -> None:
    """Scale and shift a head in place, so that its logits have these moments; each label's ranking stays as it is.

    A regularised head is not sure enough in general, and too sure on its own training examples. The moments of
    calibrated out-of-sample logits say how sure it may be.

    Args:
        head: to be changed.
        logits: its own, on the examples that `target` is about; if possible without having seen them.
        target: moments of calibrated logits.
    """
    mean, deviation = moments_of(logits)
    target_mean, target_deviation = (moment.to(logits) for moment in target)
    scale = torch.where(deviation > 0, target_deviation / deviation, 1)  # K
    head.weight.mul_(scale.unsqueeze(1))
    head.bias.copy_((head.bias - mean) * scale + target_mean)


def second_head_settings(settings: HeadSettings) -> HeadSettings:
    """The settings of the head that learns from the posterior: no noise model, and q not above `HIGHEST_Q`."""
    return replace(settings, noise_model="none", q=min(settings.q, HIGHEST_Q), train_on_posterior=False)


def posterior_of(
    calibrated: CalibratedLogits,
    labels: Shaped[Tensor, "N K"],
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Float[Tensor, "N K"]:
    """rho of every observed label (`posterior.label_posterior`); -1 where the label is unknown.

    Args:
        calibrated: logits of heads that did not see the example.
        labels: observed.
        weights: one per example, in any unit.
        groups: near-duplicates.
        seed: decides the training of the relations.
    """
    observation = observe_labels(labels, in_examples(weights))
    posterior = label_posterior(calibrated.scores, observation, groups, seed, calibrated.calibration).probabilities
    return torch.where(known(labels), posterior, -1)


def estimated_noise(calibration: Calibration) -> FeatureIndependentNoise:
    """The estimated rates as a noise model, which is not trained."""
    model = FeatureIndependentNoise(len(calibration.missing), calibration.missing, calibration.incorrect)
    return model.requires_grad_(False)
