"""Training on what the observed labels probably mean: one E-step of EM, in which no example vouches for itself.

A head is trained on the other folds; its out-of-sample logits are calibrated together with the rates of wrong labels
(`rates.calibrate`); the other tags of the example add what they imply (`relations`); and Bayes gives
rho = p(y=1|z,x) [Appendix Eq. 2]. A second head is trained on rho instead of z. In plain EM the same network supplies
the logits of the E-step and has already learnt the wrong labels: it believes what it has seen. A second round would
bring that back (the rho of the other folds has seen the label) and does worse, so there is only one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.label_noise.heads import FittedHead, fit_head, out_of_sample_logits
from truetag.label_noise.rates import Calibration, calibrate
from truetag.label_noise.relations import fit_relations
from truetag.label_noise.settings import HeadSettings
from truetag.latent import known, posterior_logits
from truetag.noise_models import FeatureIndependentNoise

HIGHEST_Q = 0.4
"""Of the second head: the posterior has already removed most of what a larger q would protect from."""


@dataclass(frozen=True)
class PosteriorLabels:
    """p(y=1|z,x) of each example, -1 where the label is unknown, and the calibration behind it."""

    labels: Float[Tensor, "N K"]
    calibration: Calibration


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
    weights = _in_examples(weights)
    logits, calibration = _calibrated_logits(features, labels, settings, weights, groups, seed)
    return PosteriorLabels(_posterior(logits, calibration, labels, weights, seed), calibration)


def fit_calibrated(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> FittedHead:
    """A head with calibrated probabilities and estimated rates; with `settings.train_on_posterior` trained on rho.

    Its logits get the mean and the deviation over examples of the calibrated out-of-sample logits: a regularised head
    is not sure enough in general, and too sure on its own training examples. Each label's ranking stays as it is.

    Args:
        features: one row per example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        settings: of the heads.
        weights: one per example, in any unit.
        groups: near-duplicates, none of which is trained on where another is scored.
        seed: decides the folds and the training.
    """
    weights_in_examples = _in_examples(weights)
    target, calibration = _calibrated_logits(features, labels, settings, weights_in_examples, groups, seed)
    if settings.train_on_posterior:
        labels = _posterior(target, calibration, labels, weights_in_examples, seed)
        settings = second_head_settings(settings)
    fitted = fit_head(features, labels, settings, weights, seed=seed)
    logits = fitted(features).to(target.device)  # N K
    deviation = logits.std(0, correction=0)  # K
    scale = torch.where(deviation > 0, target.std(0, correction=0) / deviation, 1)  # K
    head = fitted.head
    with torch.no_grad():
        bias = (head.bias.to(target.device) - logits.mean(0)) * scale + target.mean(0)
        head.weight.mul_(scale.unsqueeze(1).to(features.device))
        head.bias.copy_(bias)
    return FittedHead(head, _noise_model(calibration).to(features))


def second_head_settings(settings: HeadSettings) -> HeadSettings:
    """The settings of the head that learns from the posterior: no noise model, and q not above `HIGHEST_Q`."""
    return replace(settings, noise_model="none", q=min(settings.q, HIGHEST_Q), train_on_posterior=False)


def _calibrated_logits(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None,
    groups: Sequence[Hashable] | None,
    seed: int,
) -> tuple[Float[Tensor, "N K"], Calibration]:
    """Out-of-sample logits of p(y=1|x), and the calibration that was applied to them.

    Args:
        features: one row per example.
        labels: observed.
        settings: of the heads.
        weights: one per example, in units of examples.
        groups: near-duplicates, which share a fold.
        seed: decides the folds and the training.

    Returns:
        The calibrated logits, and the calibration.
    """
    logits = out_of_sample_logits(features, labels, settings, weights, groups, seed=seed).to(labels.device)
    calibration = calibrate(logits, labels, weights)
    return calibration.true_logits(logits), calibration


def _posterior(
    logits: Float[Tensor, "N K"],
    calibration: Calibration,
    labels: Shaped[Tensor, "N K"],
    weights: Float[Tensor, "N"] | None,
    seed: int,
) -> Float[Tensor, "N K"]:
    """rho from calibrated logits, label relations and the observed label itself; -1 where the label is unknown.

    Args:
        logits: calibrated, out of sample.
        calibration: holds the rates.
        labels: observed.
        weights: one per example, in units of examples.
        seed: decides the training of the relations.
    """
    log_q = _noise_model(calibration)()
    relations = fit_relations(logits, log_q, labels, weights, seed=seed)
    posterior = posterior_logits(relations(logits, log_q, labels), log_q, labels).sigmoid()
    return torch.where(known(labels), posterior, -1)


def _in_examples(weights: Float[Tensor, "N"] | None) -> Float[Tensor, "N"] | None:
    return None if weights is None else weights / weights.mean()


def _noise_model(calibration: Calibration) -> FeatureIndependentNoise:
    model = FeatureIndependentNoise(len(calibration.missing), calibration.missing, calibration.incorrect)
    return model.requires_grad_(False)
