"""Curves of each label: precision at each recall, and how often a probability comes true."""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.arrays import ArrayLike, as_matrices, known_labels

NUM_POINTS = 101
NUM_BINS = 10


class Reliability(NamedTuple):
    """For each label and bin of probability the known examples in it; NaN where a bin is empty."""

    counts: Int64[Tensor, "K B"]
    probabilities: Float64[Tensor, "K B"]
    """The mean probability."""
    shares: Float64[Tensor, "K B"]
    """The share of examples where the label holds."""


def precision_at_recall(
    scores: Annotated[ArrayLike, "N K"], labels: Annotated[ArrayLike, "N K"], num_points: int = NUM_POINTS
) -> Float64[Tensor, "K P"]:
    """The highest precision of each label at a recall of at least 0, 1 / (P - 1), .., 1; both in 0..1.

    Tied scores share one threshold. `labels` are 1, 0, and NaN or -1 for unknown, which do not count. A label without a
    positive gets NaN.

    Raises:
        InputError: shapes disagree, a label is none of the above, or there are fewer than two points.

    A ranking that puts a wrong photo between the two right ones:

        >>> precision_at_recall([[0.9], [0.8], [0.1]], [[1], [0], [1]], 3).tolist()
        [[1.0, 1.0, 0.6666666666666666]]
    """
    if num_points < 2:
        raise InputError(f"num_points: expected at least 2, got {num_points}")
    scores, labels = as_matrices(scores, labels, "scores")
    positive, known = known_labels(labels)
    points = torch.linspace(0, 1, num_points, dtype=torch.float64)
    curves = torch.full((scores.shape[1], num_points), torch.nan, dtype=torch.float64)
    for label, (values, holds, counts) in enumerate(zip(scores.T, positive.T, known.T, strict=True)):
        ranked, order = values[counts].sort(descending=True)
        correct = holds[counts][order].cumsum(0)
        if not len(ranked) or correct[-1] == 0:
            continue
        last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)])  # of equal scores
        precision = (correct / torch.arange(1, len(ranked) + 1))[last]
        recall = (correct / correct[-1])[last]
        best = precision.flip(0).cummax(0).values.flip(0)
        curves[label] = best[torch.searchsorted(recall, points - 1e-12)]
    return curves


def reliability(
    probabilities: Annotated[ArrayLike, "N K"], labels: Annotated[ArrayLike, "N K"], num_bins: int = NUM_BINS
) -> Reliability:
    """How often each label holds, by its probability.

    The bins are equally wide; a probability on an edge belongs to the bin above it. `labels` are 1, 0, and NaN or -1
    for unknown, which do not count.

    Raises:
        InputError: shapes disagree, a label is none of the above, or `num_bins` < 1.

    >>> reliability([[0.75], [0.75], [0.75], [0.25]], [[1], [1], [0], [0]], 2).shares.tolist()
    [[0.0, 0.6666666666666666]]
    """
    if num_bins < 1:
        raise InputError(f"num_bins: expected at least 1, got {num_bins}")
    probabilities, labels = as_matrices(probabilities, labels, "probabilities")
    positive, known = known_labels(labels)
    num_labels = probabilities.shape[1]
    bins = (probabilities.double() * num_bins).long().clamp(0, num_bins - 1)
    cells = (bins + num_bins * torch.arange(num_labels))[known]

    def total(values: Float64[Tensor, "C"] | None = None) -> Tensor:
        return torch.bincount(cells, values, num_labels * num_bins).unflatten(0, (num_labels, num_bins))

    counts = total()
    return Reliability(
        counts, total(probabilities.double()[known]) / counts, total(positive[known]) / counts
    )  # 0 / 0 is NaN
