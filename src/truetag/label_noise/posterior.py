"""rho = p(y=1|z,x) of every label from out-of-sample logits: what an audit lists, and what `best` trains on.

1. Calibrate the logits together with the rates of wrong labels (`rates`).
2. Weigh the records. A record is what was said at once: a caption, or a row's list of tags. With v the probability that
   a record belongs to its example (`validity`), t = 1 - prod (1 - v) over the records that name the label, and u the
   probability that absence says nothing,

       rho = t p(y=1|z=1,x) + (1 - t) [(1 - u) p(y=1|z=0,x) + u p(y=1|x)]

   so a record from elsewhere says nothing. u is the larger of prod (1 - v) over the records that do not name the
   label, and of the probability that only records that were lost would have named it (`frequencies`). Without records
   t = z and u = 0, and this is Bayes alone.
3. Add what the other labels imply, learnt from other examples (`relations`); calibrate once more, as relations sharpen
   the probabilities; and weigh the records again.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from scipy import sparse
from torch import Tensor

from truetag.label_noise.frequencies import named_if_valid
from truetag.label_noise.rates import Calibration, calibrate, split_ends
from truetag.label_noise.relations import related_logits, surprise_of
from truetag.label_noise.validity import sum_over_bags
from truetag.latent import known, posterior_logits
from truetag.noise_models import transition

_SMALLEST = 1e-6


@dataclass(frozen=True)
class Observation:
    """The observed labels, and how far each may be believed."""

    labels: Float[Tensor, "N K"]
    """1, 0, and -1 for unknown; between 0 and 1 the probability of 1 if some record of the example is valid."""
    weights: Float[Tensor, "N"]
    """Examples, times the probability that some record of the example is valid."""
    named: Float[Tensor, "N K"]
    """t: some valid record names the label."""
    silent: Float[Tensor, "N K"] | None = None
    """No record that does not name the label is valid; None: some one always is."""
    lost: Float[Tensor, "N K"] | None = None
    """Only records that the example lost would have named the label; None: it lost none."""


@dataclass(frozen=True)
class LabelPosterior:
    """rho of each label; where it is unknown, what everything else implies. And the calibration behind it."""

    probabilities: Float[Tensor, "N K"]
    calibration: Calibration


def observe_labels(labels: Shaped[Tensor, "N K"], weights: Float[Tensor, "N"] | None = None) -> Observation:
    """Labels that are believed as far as their rates say, all alike.

    Args:
        labels: 1, 0, NaN or -1 for unknown.
        weights: one per example, in units of examples.
    """
    values = torch.where(known(labels), labels.float(), -1)
    return Observation(values, torch.ones(len(labels)) if weights is None else weights.cpu(), values.clamp(min=0))


def observe_records(
    labels: Shaped[Tensor, "N K"],
    words: sparse.csr_array,
    bags: Int64[np.ndarray, "S"],
    validity: Float64[np.ndarray, "S"],
    weights: Float[Tensor, "N"] | None = None,
) -> Observation:
    """Labels that are believed as far as the records that name them, and those that do not.

    Args:
        labels: 1, 0, NaN or -1 for unknown.
        words: [S, K], 1 where a record names a label.
        bags: the example of each record.
        validity: the probability that each record belongs to its example.
        weights: one per example, in units of examples.
    """
    plain = observe_labels(labels, weights)
    num_examples = len(labels)
    log_invalid = np.log1p(-np.minimum(validity, 1 - 1e-12))  # S
    in_all = np.bincount(bags, log_invalid, minlength=num_examples)  # N
    in_naming = sum_over_bags(log_invalid, words, bags, num_examples)  # N K
    has_records = torch.from_numpy(np.bincount(bags, minlength=num_examples) > 0)  # N
    by_records = torch.from_numpy(sum_over_bags(np.ones(len(bags)), words, bags, num_examples) > 0) & (labels == 1)
    valid = torch.where(has_records, torch.from_numpy(-np.expm1(in_all)).float(), 1)
    by_valid = torch.from_numpy(-np.expm1(in_naming)).float()  # as `validity.soft_labels`
    named = torch.where(by_records, by_valid, plain.named)
    silent = torch.from_numpy(np.exp(np.minimum(in_all[:, None] - in_naming, 0))).float()
    silent = torch.where(has_records.unsqueeze(1), silent, 0)
    given_valid = (named / valid.clamp(min=_SMALLEST).unsqueeze(1)).clamp(0, 1)
    soft = torch.where(known(plain.labels), given_valid, -1)
    lost = _named_by_lost_alone(by_valid, words, bags, validity)
    return Observation(soft, plain.weights * valid, named, silent, lost)


def _named_by_lost_alone(
    by_valid: Float[Tensor, "N K"],
    words: sparse.csr_array,
    bags: Int64[np.ndarray, "S"],
    validity: Float64[np.ndarray, "S"],
) -> Float[Tensor, "N K"]:
    """How far p(y=1|x) remains where no valid record names the label, as records that the example lost might have.

    Of each label from how often it would be named if all were valid, and in proportion to what the example lost.
    """
    num_examples = len(by_valid)
    num_records = np.bincount(bags, minlength=num_examples)  # N
    if_valid = named_if_valid(words, bags, validity, num_examples)  # K
    named = by_valid[torch.from_numpy(num_records > 0)].mean(0)
    # with q = 1 - named / if_valid: p(y=1|x), of what valid records name, is 1 - q of what all would name, q of it lost
    missed = torch.where(if_valid > _SMALLEST, if_valid / named.clamp(min=_SMALLEST) - 1, 0).clamp(0, 1)
    lost = np.bincount(bags, 1 - validity, minlength=num_examples) / np.maximum(num_records, 1)
    relative = torch.from_numpy(lost / max(float(lost[num_records > 0].mean()), _SMALLEST)).float()
    return (missed * relative.unsqueeze(1)).clamp(0, 1)


def label_posterior(
    logits: Float[Tensor, "N K"],
    observation: Observation,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> LabelPosterior:
    """rho of every label.

    Args:
        logits: of heads that did not see the example; they need not be calibrated.
        observation: the observed labels.
        groups: near-duplicates.
        seed: decides the folds and the training of the relations.
        calibration: of these logits, if they have been calibrated.
    """
    labels, weights = observation.labels, observation.weights
    first = split_ends(calibrate(logits, labels, weights) if calibration is None else calibration)
    by_image = first.true_logits(logits)
    posterior = _weigh_records(by_image, by_image, first, observation)
    related = related_logits(
        by_image, surprise_of(by_image, posterior, labels), _log_q(first), labels, weights, groups, seed
    )
    second = split_ends(calibrate(related, labels, weights))
    posterior = _weigh_records(second.true_logits(related), by_image, second, observation)
    # the relations come from the same labels: after them no more is known of the rates than before
    return LabelPosterior(posterior, replace(second, missing_deviation=first.missing_deviation))


def _weigh_records(
    logits: Float[Tensor, "N K"], by_image: Float[Tensor, "N K"], calibration: Calibration, observation: Observation
) -> Float[Tensor, "N K"]:
    """The mixture above; `by_image` is the logit of p(y=1|x), for records that say nothing."""
    present, absent = (
        posterior_logits(logits, _log_q(calibration), torch.full_like(logits, value)).sigmoid() for value in (1, 0)
    )
    if observation.silent is not None and observation.lost is not None:
        absent = torch.lerp(absent, by_image.sigmoid(), torch.maximum(observation.silent, observation.lost))
    posterior = torch.lerp(absent, present, observation.named)
    return torch.where(known(observation.labels), posterior, logits.sigmoid())


def _log_q(calibration: Calibration) -> Float[Tensor, "K 2 2"]:
    return transition(len(calibration.missing), calibration.missing, calibration.incorrect).to(calibration.missing)
