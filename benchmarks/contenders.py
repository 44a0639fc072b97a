"""The methods that `methods.py` compares on features: the product's estimator, and published losses on its head.

Every published loss trains the very head of `NoisyLabelClassifier("none")`, for as long and with the same step sizes.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import peers
import torch
from columns import Column
from torch import Tensor

from truetag import NoisyLabelClassifier
from truetag.label_noise.heads import FittedHead, Objective, fit_head
from truetag.label_noise.settings import JOINT, HeadSettings
from truetag.latent import negative_log_likelihood, observe
from truetag.losses import q_likelihood
from truetag.noise_models import transition

PLAIN = HeadSettings()
NUM_EPOCHS = PLAIN.stage1_epochs + PLAIN.stage2_epochs

# a method: (features, its column, the tuned value, seed) -> a head and what to note of it
Fitted = tuple[FittedHead, dict[str, Any]]
Fit = Callable[[Tensor, Column, float, int], Fitted]


@dataclass(frozen=True)
class Method:
    """How to fit it, and the values of its one setting: the default first; none where it chooses or is fixed."""

    fit: Fit
    setting: str = ""
    values: tuple[float, ...] = (0.0,)


def by_settings(make: Callable[[float], HeadSettings]) -> Fit:
    """A composition of our own parts."""
    return lambda features, column, value, seed: (fit_head(features, column.observed, make(value), seed=seed), {})


def by_loss(make: Callable[[float], Objective]) -> Fit:
    """A published loss on the plain head."""
    return lambda features, column, value, seed: (
        fit_head(features, column.observed, PLAIN, objective=make(value), seed=seed),
        {},
    )


def by_anchors(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Fit:
    """A loss with rates that are estimated from anchors of the plain head: `value` is their quantile."""

    def fit(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
        plain = fit_head(features, column.observed, PLAIN, seed=seed)
        missing, incorrect = peers.anchor_rates(plain(features).sigmoid(), value)
        scale = (0.95 / (missing + incorrect)).clamp(max=1)  # of rare labels the anchors leave nothing to learn
        missing, incorrect = missing * scale, incorrect * scale
        head = fit_head(
            features,
            column.observed,
            PLAIN,
            objective=lambda logits, labels, _: loss(logits, labels, missing, incorrect),
            seed=seed,
        )
        return head, {"rates": torch.stack([missing, incorrect], 1)}

    return fit


def fit_expected_positives(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
    expected = column.observed.sum(1).mean().item()
    loss = by_loss(lambda weight: lambda o, z, _: peers.expected_positives(o, z, expected, weight, "none"))
    return loss(features, column, value, seed)


def by_estimator(noise_model: str) -> Fit:
    """The product's estimator as it comes."""

    def fit(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
        tagger = NoisyLabelClassifier(noise_model, random_state=seed, device=str(features.device))
        tagger.fit(features.cpu().numpy(), column.observed.numpy())
        found: dict[str, Any] = {"rates": torch.from_numpy(tagger.noise_rates_).float()}
        if tagger.choice_ is not None:
            chosen = tagger.choice_.settings
            choice = {"noise_model": chosen.noise_model, "q": chosen.q, "posterior": chosen.train_on_posterior}
            found |= {"chosen": json.dumps(choice), "held_out_ap": json.dumps(tagger.choice_.scores)}
        return tagger.head_, found

    return fit


def fit_upper_bound(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
    """The baseline without the words of captions that are swapped; of real noise, on the truth."""
    labels = column.observed if column.bound is None else column.bound
    return fit_head(features, labels, PLAIN, seed=seed), {}


def forward(logits: Tensor, labels: Tensor, missing: Tensor, incorrect: Tensor) -> Tensor:
    observed = observe(logits, transition(len(missing), missing, incorrect))
    return negative_log_likelihood(observed, labels, "none")


def reweighted(logits: Tensor, labels: Tensor, missing: Tensor, incorrect: Tensor) -> Tensor:
    return peers.importance_reweighting(logits, labels, transition(len(missing), missing, incorrect), reduction="none")


def large_loss(loss: Callable[..., Tensor]) -> Callable[[float], Objective]:
    """The rejected share grows by `value` an epoch."""
    return lambda value: lambda o, z, done: loss(o, z, value * math.floor(done * NUM_EPOCHS), "none")


def splc(o: Tensor, z: Tensor, done: float, threshold: float) -> Tensor:
    if done * NUM_EPOCHS < 1:  # published: labels are corrected after the first epoch
        return negative_log_likelihood(o, z, "none")
    return peers.splc_loss(o, z, threshold=threshold, reduction="none")


METHODS: dict[str, Method] = {
    "best": Method(by_estimator("auto")),
    "mlcn-star": Method(by_estimator("none")),
    "nmn-fi": Method(by_estimator("fi")),
    "nmn-fd": Method(by_estimator("fd")),
    "ridge": Method(by_settings(lambda value: HeadSettings(solver="ridge"))),
    "gce": Method(by_loss(lambda value: lambda o, z, _: q_likelihood(o, z, value, "none")), "q", (0.7, 0.5, 0.3)),
    "upper bound": Method(fit_upper_bound),
    "weak negatives": Method(
        by_loss(lambda value: lambda o, z, _: peers.weak_negatives(o, z, value, "none")), "weight", (0.002, 0.1, 0.5)
    ),
    "label smoothing": Method(
        by_loss(lambda value: lambda o, z, _: peers.label_smoothing(o, z, value, "none")), "smoothing", (0.1, 0.02, 0.2)
    ),
    "focal": Method(
        by_loss(lambda value: lambda o, z, _: peers.focal_loss(o, z, value, None, "none")), "gamma", (2, 1, 3)
    ),
    "asl": Method(
        by_loss(lambda value: lambda o, z, _: peers.asymmetric_loss(o, z, value, reduction="none")), "gamma-", (4, 2, 1)
    ),
    "hill": Method(
        by_loss(lambda value: lambda o, z, _: peers.hill_loss(o, z, value, reduction="none")), "peak", (1.5, 1, 2)
    ),
    "splc": Method(by_loss(lambda value: lambda o, z, done: splc(o, z, done, value)), "threshold", (0.6, 0.4, 0.8)),
    "symmetric ce": Method(
        by_loss(lambda value: lambda o, z, _: peers.symmetric_cross_entropy(o, z, value, reduction="none")),
        "alpha",
        (0.1, 1, 6),
    ),
    "soft bootstrapping": Method(
        by_loss(lambda value: lambda o, z, _: peers.soft_bootstrapping(o, z, value, "none")), "beta", (0.95, 0.8, 0.6)
    ),
    "hard bootstrapping": Method(
        by_loss(lambda value: lambda o, z, _: peers.hard_bootstrapping(o, z, value, "none")), "beta", (0.8, 0.9, 0.6)
    ),
    "ll-r": Method(by_loss(large_loss(peers.reject_large_losses)), "share an epoch", (0.002, 0.0005, 0.005)),
    "ll-ct": Method(by_loss(large_loss(peers.correct_large_losses)), "share an epoch", (0.002, 0.0005, 0.005)),
    "expected positives": Method(fit_expected_positives, "weight", (1, 10, 100)),
    "forward, anchors": Method(by_anchors(forward), "quantile", (0.97, 0.99, 0.999)),
    "reweighting, anchors": Method(by_anchors(reweighted), "quantile", (0.97, 0.99, 0.999)),
    "nmn-fd-shared": Method(by_estimator("fd-shared")),
    **{f"fi, q = {q:g}": Method(by_settings(lambda value, q=q: replace(JOINT, q=q))) for q in (0.2, 0.4, 0.6, 0.8)},
}
OURS = (
    "best",
    "ridge",
    "mlcn-star",
    "nmn-fi",
    "nmn-fd",
    "nmn-fd-shared",
    "upper bound",
    *(n for n in METHODS if n[:2] == "fi"),
)
PEERS = [name for name in METHODS if name not in OURS]
