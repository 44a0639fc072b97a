"""How probably each label of an audit is true, and each record belongs to its example; all of it out of sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truetag.audit.evidence import Evidence
from truetag.io.terminal import Progress
from truetag.label_noise.heads import NUM_FOLDS, out_of_sample_logits
from truetag.label_noise.posterior import Observation, label_posterior, observe_labels, observe_records
from truetag.label_noise.rates import Calibration
from truetag.label_noise.selection import candidates, choose, describe
from truetag.label_noise.settings import HeadSettings
from truetag.label_noise.validity import caption_validity, naming_shares

FEWEST_RECORDS = 200
"""With fewer, whether a record belongs to its example cannot be learnt."""
CLEAN_SHARE = 0.995
"""From this share of valid records on all count as valid: the few that are left are the oddest of the valid ones."""


@dataclass(frozen=True)
class Judgement:
    """The posterior of every label, and the validity of every record."""

    posterior: Float64[np.ndarray, "N K"]
    """p(y=1|z,x); at unknown labels what everything else implies; 0 or 1 where a person has decided."""
    calibration: Calibration
    """The rates behind it."""
    validity: Float64[np.ndarray, "S"] | None
    """The probability that each record belongs to its example; None where there are too few to learn from."""
    method: str
    """How heads were trained."""


def judge(evidence: Evidence, seed: int = 0) -> Judgement:
    """Ask models that did not see the example.

    Args:
        evidence: examples, labels and records.
        seed: decides the folds and the training.
    """
    labels, groups = evidence.labels, evidence.groups
    validity = _weigh_records(evidence, seed)
    if validity is None:
        observation = observe_labels(labels)
    else:
        observation = observe_records(labels, evidence.records.words, evidence.records.bags, validity)
    if evidence.decided is not None:
        observation = _without_doubt(observation, evidence)
    if evidence.logits is not None:
        logits, method = evidence.logits, "the probabilities that were given"
    else:
        assert evidence.features is not None
        settings = evidence.settings or _choose(evidence.features, observation.labels, groups, seed)
        method = describe(settings)
        with Progress("asking models that did not see the photo", NUM_FOLDS) as progress:
            logits = out_of_sample_logits(
                evidence.features,
                observation.labels,
                settings,
                observation.weights,
                groups,
                seed=seed,
                on_fold=progress.advance,
            ).cpu()
    found = label_posterior(logits, observation, groups, seed)
    posterior = found.probabilities.double()
    if evidence.decided is not None:
        posterior = torch.where(evidence.decided, labels.double(), posterior)
    return Judgement(posterior.numpy(), found.calibration, validity, method)


def _weigh_records(evidence: Evidence, seed: int) -> Float64[np.ndarray, "S"] | None:
    records, labels = evidence.records, evidence.labels
    if len(records.bags) < FEWEST_RECORDS or len(np.unique(records.bags)) < FEWEST_RECORDS / 2:
        return None
    logits = evidence.logits
    if logits is None:
        assert evidence.features is not None
        shares = naming_shares(records.words, records.bags, len(labels))
        shares = torch.where(labels >= 0, shares, -1)
        with Progress("asking of each record whether it belongs to its photo", NUM_FOLDS) as progress:
            logits = out_of_sample_logits(
                evidence.features, shares, groups=evidence.groups, seed=seed, on_fold=progress.advance
            ).cpu()
    validity = caption_validity(logits, records.words, records.bags, evidence.groups, seed)
    return validity.probabilities if validity.share < CLEAN_SHARE else np.ones(len(records.bags))


def _without_doubt(observation: Observation, evidence: Evidence) -> Observation:
    """What a person has decided is learnt from as it is."""
    assert evidence.decided is not None
    return replace(observation, labels=torch.where(evidence.decided, evidence.labels, observation.labels))


def _choose(
    features: Float[Tensor, "N D"], labels: Float[Tensor, "N K"], groups: Sequence[str | None] | None, seed: int
) -> HeadSettings:
    """As `NoisyLabelClassifier` does; the posterior is computed here anyway."""
    among = candidates(HeadSettings())
    with Progress("choosing how to treat the noise", None, even=False) as progress:
        targets = labels if bool(((labels > 0) & (labels < 1)).any()) else None
        observed = labels if targets is None else torch.where(labels >= 0, (labels >= 0.5).float(), -1)
        choice = choose(
            features,
            observed,
            among,
            targets=targets,
            groups=groups,
            seed=seed,
            on_compared=lambda compared: progress.advance(1, f"tried {describe(compared)}"),
        )
    return choice.settings
