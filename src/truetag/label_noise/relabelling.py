"""Observed labels replaced by what they probably mean: one E-step of EM, in which nobody vouches for himself.

A head is trained on other folds, its out-of-sample logits are calibrated together with the rates of wrong labels
(`rates.calibrate`), the other tags of the example say what they know of it (`relations`), and Bayes gives
rho = p(y=1|z,x) [Appendix Eq. 2]. A second head is trained on rho instead of z. In plain EM the same network supplies
the logits of the E-step, and has learnt the wrong labels by then: what it has seen it believes. A second round would
bring that back (rho of the other folds has seen the label), and it does worse, so there is one.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.label_noise.heads import Head, HeadSettings, fit_head, out_of_sample_logits
from truetag.label_noise.rates import Calibration, calibrate
from truetag.label_noise.relations import fit_relations
from truetag.latent import known, posterior_logits
from truetag.noise_models import FeatureIndependentNoise

MOST_Q = 0.4
"""Of the second head: the posterior has taken out most of what a larger q would be for."""


@dataclass(frozen=True)
class Relabelled:
    """p(y=1|z,x) of each example, -1 where the label is unknown, and the rates it comes from."""

    labels: Float[Tensor, "N K"]
    calibration: Calibration


def relabel(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    seed: int = 0,
) -> Relabelled:
    """The posterior of every observed label by heads with these settings that did not see the example.

    Args:
        features: of each example.
        labels: observed: 1, 0, NaN or -1 for unknown.
        settings: of the heads.
        weights: of each example, in any unit.
        seed: of the folds and of training.
    """
    weights = _in_examples(weights)
    logits, calibration = _calibrated_logits(features, labels, settings, weights, seed)
    return Relabelled(_posterior(logits, calibration, labels, weights, seed), calibration)


def fit_calibrated(
    features: Float[Tensor, "N D"],
    labels: Shaped[Tensor, "N K"],
    settings: HeadSettings,
    weights: Float[Tensor, "N"] | None = None,
    seed: int = 0,
) -> Head:
    """A head with calibrated probabilities and estimated rates, trained on the posterior if `settings.relabel`.

    Its logits get the mean and the deviation over examples that the calibrated out-of-sample logits have: a regularised
    head says too little, and of its own training examples it is too sure. Which example ranks above which stays.

    The arguments are those of `relabel`.
    """
    in_examples = _in_examples(weights)
    target, calibration = _calibrated_logits(features, labels, settings, in_examples, seed)
    if settings.relabel:
        labels, settings = _posterior(target, calibration, labels, in_examples, seed), relabelled(settings)
    head = fit_head(features, labels, settings, weights, seed=seed)
    logits = head(features)
    deviation = logits.std(0, correction=0)
    scale = torch.where(deviation > 0, target.std(0, correction=0) / deviation, 1)
    return replace(
        head,
        weight=head.weight * scale.unsqueeze(1),
        bias=(head.bias - logits.mean(0)) * scale + target.mean(0),
        noise_model=_noise_model(calibration).to(features.dtype),
    )


def relabelled(settings: HeadSettings) -> HeadSettings:
    """Of the second head, which has the posterior to learn from: no noise model, and q not above `MOST_Q`."""
    return replace(settings, noise_model="none", q=min(settings.q, MOST_Q), relabel=False)


def _calibrated_logits(
    features: Tensor, labels: Tensor, settings: HeadSettings, weights: Tensor | None, seed: int
) -> tuple[Float[Tensor, "N K"], Calibration]:
    """Out-of-sample logits of p(y=1|x), and the calibration that they have been through."""
    logits = out_of_sample_logits(features, labels, settings, weights, seed=seed)
    calibration = calibrate(logits, labels, weights)
    return calibration.true_logits(logits), calibration


def _posterior(
    logits: Tensor, calibration: Calibration, labels: Tensor, weights: Tensor | None, seed: int
) -> Float[Tensor, "N K"]:
    log_q = _noise_model(calibration)()
    relations = fit_relations(logits, log_q, labels, weights, seed=seed)
    posterior = posterior_logits(relations(logits, log_q, labels), log_q, labels).sigmoid()
    return torch.where(known(labels), posterior, -1)


def _in_examples(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights / weights.mean()


def _noise_model(calibration: Calibration) -> FeatureIndependentNoise:
    model = FeatureIndependentNoise(len(calibration.missing), calibration.missing, calibration.incorrect)
    return model.requires_grad_(False)
