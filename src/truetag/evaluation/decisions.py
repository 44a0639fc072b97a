"""Scores of yes-or-no decisions and of the probabilities behind them: the F1 family and the calibration error."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.arrays import ArrayLike, as_matrices, as_tensor, known_labels

DEFAULT_THRESHOLD = 0.5
"""The threshold where no known label is positive, so that there is no F1 to choose by."""


def decision_scores(
    probabilities: Annotated[ArrayLike, "N K"], labels: Annotated[ArrayLike, "N K"], threshold: float = 0.5
) -> dict[str, float]:
    """Overall and per-class precision, recall and F1 of the decisions [p(y=1) >= threshold], all in 0..1.

    `op`, `or` and `of1` pool the decisions of all labels. `cp` and `cr` are means over the labels that have at least
    one positive, where a label that is never predicted has precision 0; `cf1` is the harmonic mean of these two means.
    False alarms on labels without a positive count in `op` alone. `labels` are 1, 0, and NaN or -1 for unknown; unknown
    labels are ignored. Every score is NaN if no label is positive; the precisions are 0 if nothing is predicted.

    Raises:
        InputError: shapes disagree, a probability or the threshold is not in 0..1, or a label is none of the above.

    One of two predictions is right, and one of two positives is predicted:

        >>> decision_scores([[0.9, 0.2], [0.6, 0.1]], [[1, 1], [0, -1]])["of1"]
        0.5
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold: expected a probability in 0..1, got {threshold}")
    probabilities, positive, known = _as_decisions(probabilities, labels)
    predicted = (probabilities >= threshold) & known
    correct = (predicted * positive).sum(0)
    num_predicted, num_positive = predicted.sum(0).double(), positive.sum(0)
    has_positive = num_positive > 0

    precision = torch.where(num_predicted > 0, correct / num_predicted, 0.0)[has_positive].mean().item()
    recall = (correct / num_positive)[has_positive].mean().item()
    overall_recall = (correct.sum() / num_positive.sum()).item()
    overall_precision = (correct.sum() / num_predicted.sum().clamp(min=1)).item() if has_positive.any() else torch.nan
    return {
        "op": overall_precision,
        "or": overall_recall,
        "of1": _harmonic_mean(overall_precision, overall_recall),
        "cp": precision,
        "cr": recall,
        "cf1": _harmonic_mean(precision, recall),
        "threshold": threshold,
    }


def best_threshold(
    probabilities: Annotated[ArrayLike, "N K"],
    labels: Annotated[ArrayLike, "N K"],
    weights: Annotated[ArrayLike, "N"] | None = None,
) -> float:
    """The one threshold for all labels whose decisions [p(y=1) >= threshold] have the highest overall F1 (`of1`).

    Every threshold that makes a difference is tried. The result lies halfway between the lowest probability that is
    accepted and the next lower one; where several are as good, it is the highest. `labels` are 1, 0, and NaN or -1 for
    unknown, and unknown ones are ignored. `weights` are of the examples, not negative. Where nothing known is positive,
    it is 0.5. Choose it on examples that the probabilities were not trained on; noisy labels will do.

    Raises:
        InputError: shapes disagree, a probability is not in 0..1, or a label is none of the above.

    >>> best_threshold([[0.75, 0.5], [0.25, 0.0]], [[1, 1], [0, 0]])
    0.375
    """
    probabilities, positive, known = _as_decisions(probabilities, labels)
    each = torch.ones(len(probabilities)) if weights is None else as_tensor(weights, "weights", 1)
    if each.shape != probabilities.shape[:1]:
        raise InputError(f"weights: expected {len(probabilities)}, one per example, got {len(each)}")
    probabilities = probabilities if probabilities.is_floating_point() else probabilities.double()
    each = each.to(positive).unsqueeze(1).expand_as(positive)[known]
    ranked, order = probabilities[known].sort(descending=True)
    correct = (positive[known] * each)[order].cumsum(0)
    if not len(ranked) or correct[-1] == 0:
        return DEFAULT_THRESHOLD
    following = torch.cat([ranked[1:], ranked.new_zeros(1)])
    f1 = 2 * correct / (each[order].cumsum(0) + correct[-1])
    f1[:-1][ranked[:-1] == following[:-1]] = -1  # equal probabilities are accepted together
    last = f1.argmax()
    halfway = (ranked[last] + following[last]) / 2
    return float(halfway if halfway > following[last] else ranked[last])  # two neighbouring floats have nothing between


def expected_f1_thresholds(
    probabilities: Annotated[ArrayLike, "N K"], expectations: Annotated[ArrayLike, "N K"]
) -> Float[Tensor, "K"]:
    """For each label the threshold whose decisions [p(y=1) >= threshold] have the highest expected F1.

    Expected true positives are sums of the `expectations` E[y], such as the posterior p(y=1|z,x) of examples that the
    probabilities were not trained on: observed labels would count a missing tag as a false alarm. NaN or -1: unknown.
    A label of which nothing is known gets 0.5.

    Raises:
        InputError: shapes disagree, or a value is no probability.

    >>> expected_f1_thresholds([[0.9], [0.4], [0.3], [0.1]], [[0.9], [0.8], [0.1], [0.0]])
    tensor([0.3500])
    """
    probabilities, expectations = as_tensor(probabilities, "probabilities", 2), as_tensor(expectations, "expected", 2)
    if probabilities.shape != expectations.shape:
        raise InputError(f"expectations: expected {tuple(probabilities.shape)}, got {tuple(expectations.shape)}")
    thresholds = torch.full(probabilities.shape[1:], DEFAULT_THRESHOLD)
    for label, (scores, expected) in enumerate(zip(probabilities.T, expectations.T, strict=True)):
        known = expected >= 0  # and no NaN
        if ((scores < 0) | (scores > 1)).any() or (expected[known] > 1).any():
            raise InputError("probabilities: expected values between 0 and 1, got others")
        ranked, order = scores[known].sort(descending=True)
        correct = expected[known][order].cumsum(0)
        if not len(ranked) or correct[-1] == 0:
            continue
        f1 = 2 * correct / (torch.arange(1, len(ranked) + 1) + correct[-1])
        following = torch.cat([ranked[1:], ranked.new_zeros(1)])
        f1[:-1][ranked[:-1] == following[:-1]] = -1  # equal probabilities are accepted together
        last = f1.argmax()
        thresholds[label] = (ranked[last] + following[last]) / 2
    return thresholds


def calibration_error(
    probabilities: Annotated[ArrayLike, "N K"], labels: Annotated[ArrayLike, "N K"], num_bins: int = 15
) -> float:
    """Expected calibration error of p(y=1) over all known decisions [sum_b (n_b / n) |mean p - mean y|], a probability.

    The bins are equally wide; a probability on an edge belongs to the bin above it. NaN if no label is known.

    Raises:
        InputError: shapes disagree, a probability is not in 0..1, a label is not 1, 0, -1 or NaN, or `num_bins` < 1.

    Four tags predicted with a probability of 80 %, three of which are right:

        >>> round(calibration_error([[0.8], [0.8], [0.8], [0.8]], [[1], [1], [1], [0]]), 6)
        0.05
    """
    if num_bins < 1:
        raise InputError(f"num_bins: expected at least 1, got {num_bins}")
    probabilities, positive, known = _as_decisions(probabilities, labels)
    probabilities, positive = probabilities[known].double(), positive[known]
    bins = (probabilities * num_bins).long().clamp(max=num_bins - 1)
    surplus = torch.bincount(bins, weights=probabilities - positive, minlength=num_bins)
    return surplus.abs().sum().item() / len(bins) if len(bins) else torch.nan


def _as_decisions(
    probabilities: Annotated[ArrayLike, "N K"], labels: Annotated[ArrayLike, "N K"]
) -> tuple[Float[Tensor, "N K"], Float64[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """Check probabilities and labels.

    Returns:
        The probabilities, the labels with 0 in place of unknown, and where the labels are known.
    """
    probabilities, labels = as_matrices(probabilities, labels, "probabilities")
    outside = (probabilities < 0) | (probabilities > 1)
    if outside.any():
        got = f"{probabilities[outside][0].item():g}"
        raise InputError(f"probabilities: expected values in 0..1 (not logits), got {got}")
    positive, known = known_labels(labels)
    return probabilities, positive, known


def _harmonic_mean(precision: float, recall: float) -> float:
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
