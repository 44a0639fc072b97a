"""The methods that `methods.py` compares: published losses, noise models, and what is chosen without clean labels.

All train the same linear head with the same schedule (`truetag.label_noise.heads`).
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from columns import Column
from torch import Tensor

from truetag import peers
from truetag.estimator import NoisyLabelClassifier
from truetag.evaluation.separation import roc_auc
from truetag.label_noise.heads import Head, HeadSettings, Objective, fit_head
from truetag.label_noise.selection import QS
from truetag.label_noise.validity import soft_labels
from truetag.latent import negative_log_likelihood, observe
from truetag.losses import q_likelihood
from truetag.noise_models import transition
from truetag.training.recipes import recipe
from truetag.training.targets import learn_from_features, soften

PLAIN = HeadSettings()

# a method: (features, its column, the tuned value, seed) -> a head and what to note of it
Fitted = tuple[Head, dict[str, Any]]
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


def fit_best(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
    """As `truetag train best`: captions by their validity, then noise model and q by held-out noisy labels."""
    if column.words is None or column.bags is None:
        return fit_auto(features, column, value, seed)
    sources = column.words, column.bags
    state, note = learn_from_features(
        replace(recipe("best"), seed=seed), column.observed.to(torch.int8), features, sources
    )
    validity = state["validity"].numpy()
    targets = soften(*sources, validity, column.observed.to(torch.int8))
    found = {"chosen": json.dumps(note["chosen"]), "share_of_valid": note["share_of_valid_captions"]}
    if column.valid is not None and 0 < column.valid.mean() < 1:
        found["validity_auc"] = roc_auc(validity[:, None], column.valid[:, None].astype(np.int8)).item()
    return fit_head(features, targets, replace(PLAIN, **note["chosen"]), seed=seed), found


def fit_auto(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
    """The estimator as it comes: noise model, q and relabelling by held-out noisy labels; rates and calibration."""
    tagger = NoisyLabelClassifier(random_state=seed).fit(features.numpy(), column.observed.numpy())
    assert tagger.choice_ is not None
    chosen = tagger.choice_.settings
    found = {"noise_model": chosen.noise_model, "q": chosen.q, "relabel": chosen.relabel}
    scores = json.dumps(tagger.choice_.scores)
    return tagger.head_, {"chosen": json.dumps(found), "held_out_ap": scores}


def fit_oracle(features: Tensor, column: Column, value: float, seed: int) -> Fitted:
    """The baseline without the words of captions that are swapped."""
    labels = column.observed
    if column.words is not None and column.bags is not None and column.valid is not None:
        labels = soft_labels(column.words, column.bags, column.valid.astype(float), len(labels)).round()
    return fit_head(features, labels, PLAIN, seed=seed), {}


def forward(logits: Tensor, labels: Tensor, missing: Tensor, incorrect: Tensor) -> Tensor:
    observed = observe(logits, transition(len(missing), missing, incorrect))
    return negative_log_likelihood(observed, labels, "none")


def reweighted(logits: Tensor, labels: Tensor, missing: Tensor, incorrect: Tensor) -> Tensor:
    return peers.importance_reweighting(logits, labels, transition(len(missing), missing, incorrect), reduction="none")


def large_loss(loss: Callable[..., Tensor]) -> Callable[[float], Objective]:
    """The rejected share grows by `value` an epoch."""
    return lambda value: lambda o, z, done: loss(o, z, value * math.floor(done * PLAIN.epochs), "none")


def splc(o: Tensor, z: Tensor, done: float, threshold: float) -> Tensor:
    if done * PLAIN.epochs < 1:  # published: labels are corrected after the first epoch
        return negative_log_likelihood(o, z, "none")
    return peers.splc_loss(o, z, threshold=threshold, reduction="none")


METHODS: dict[str, Method] = {
    "mlcn-star": Method(by_settings(lambda value: replace(PLAIN, dropout=value)), "dropout", (0.6, 0.5, 0.7)),
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
    "gce": Method(by_loss(lambda value: lambda o, z, _: q_likelihood(o, z, value, "none")), "q", (0.7, 0.5, 0.3)),
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
    "nmn-fi": Method(
        by_settings(lambda value: replace(PLAIN, noise_model="fi", noise_learning_rate=value)),
        "noise learning rate",
        (1e-2, 3e-3, 3e-2),
    ),
    "nmn-fd": Method(
        by_settings(lambda value: replace(PLAIN, noise_model="fd", noise_weight_learning_rate=value)),
        "learning rate of u",
        (1e-5, 1e-6, 1e-4),
    ),
    "nmn-fd-shared": Method(
        by_settings(lambda value: replace(PLAIN, noise_model="fd-shared", noise_learning_rate=value)),
        "noise learning rate",
        (1e-2, 3e-3, 3e-2),
    ),
    **{f"fi, q = {q:g}": Method(by_settings(lambda value, q=q: replace(PLAIN, noise_model="fi", q=q))) for q in QS[1:]},
    "auto": Method(fit_auto),
    "best": Method(fit_best),
    "oracle": Method(fit_oracle),
}
FIXED = [f"fi, q = {q:g}" for q in QS[1:]]
OURS = ("nmn-fi", "nmn-fd", "nmn-fd-shared", *FIXED, "auto", "best", "oracle")
PEERS = [name for name in METHODS if name not in OURS and name != "mlcn-star"]
