"""Average precision of every label's ranking of the examples: the plain one, and the one that counts captions.

Both come from one curve. Going down a label's ranking, each example adds `gain` true positives and `mass` true plus
false positives (both scaled by the example's weight); examples with tied scores enter together. Then, over the examples
p that have a gain,

    AP = sum_p gain_p * precision(p) / sum_p gain_p,    precision(p) = (sum of gain) / (sum of mass) down to p's score

is the area under the precision-recall steps. Only the sums depend on the weights, so one sort serves a whole bootstrap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float64, Int64, Num
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.arrays import ArrayLike, as_matrices, as_tensor, known_labels, to_tensor

ENTRIES_PER_BLOCK = 2**20  # scores handled at once: bounds the memory for any N and K


@dataclass(frozen=True)
class RankedBlock:
    """The rankings of some labels, from the highest score to the lowest, ready to be scored under any example weights.

    The P axis holds the examples that have a gain, best first; a label with fewer than P of them ends in entries of
    gain 0.
    """

    order: Int64[Tensor, "K N"]  # the example at each rank
    mass: Float64[Tensor, "K N"]  # the true plus false positives that it adds
    positives: Int64[Tensor, "K P"]  # the examples that add true positives
    gain: Float64[Tensor, "K P"]  # how many true positives they add
    ends: Int64[Tensor, "K P"]  # the last rank whose score ties with the positive's
    last: Int64[Tensor, "K P"]  # the last positive whose score ties with it
    interpolated: bool  # whether precision is made non-increasing (VOC)

    def average_precision(self, weights: Float64[Tensor, "R N"]) -> Float64[Tensor, "R K"]:
        """Average precision under each row of non-negative example weights; NaN where the gains sum to 0."""
        gain = weights[:, self.positives] * self.gain
        # in place: these steps run over all N examples, and memory traffic costs more time than the sums
        retrieved = weights[:, self.order].mul_(self.mass).cumsum_(-1)
        retrieved = retrieved.gather(-1, self.ends.expand(len(weights), -1, -1))
        correct = gain.cumsum(-1).gather(-1, self.last.expand_as(gain))
        precision = torch.where(retrieved > 0, correct / retrieved, 0.0)
        if self.interpolated and precision.shape[-1] > 0:
            precision = precision.flip(-1).cummax(-1).values.flip(-1)
        return (gain * precision).sum(-1) / gain.sum(-1)


def average_precision(
    scores: Annotated[ArrayLike, "N K"],
    labels: Annotated[ArrayLike, "N K"],
    weights: Annotated[ArrayLike, "N"] | None = None,
) -> Float64[Tensor, "K"]:
    """Average precision of each label [sum over thresholds of (recall gained) * precision], in 0..1.

    This is the area under the uninterpolated steps, where tied scores share one threshold, as scikit-learn's
    `average_precision_score` computes it. `labels` are 1, 0, and NaN or -1 for unknown; an unknown example does not
    count for that label. `weights` (non-negative, in any unit) are scikit-learn's `sample_weight`. A label without a
    positive gets NaN.

    Raises:
        InputError: shapes disagree, a score is NaN, a label is none of the above, or a weight is negative or infinite.

    A ranking that puts a wrong photo between the two right ones:

        >>> average_precision([[0.9], [0.8], [0.1]], [[1], [0], [1]])  # (1/1 + 2/3) / 2
        tensor([0.8333], dtype=torch.float64)
    """
    return _average_precision(scores, labels, None, weights)


def count_average_precision(
    scores: Annotated[ArrayLike, "N K"],
    counts: Annotated[ArrayLike, "N K"],
    captions_per_image: Annotated[int | ArrayLike, "N"],
    weights: Annotated[ArrayLike, "N"] | None = None,
) -> Float64[Tensor, "K"]:
    """Average precision of each word against how many of an image's captions name it (Fang et al. 2015), in 0..1.

    An image of which n of C captions name the word adds n (1 - 1/C) true positives, and 0 false positives if n > 1,
    1/C if n = 1, 1 if n = 0; the denominator of recall is the sum of n (1 - 1/C). The result is the area under the
    precision made non-increasing (VOC); tied scores share one threshold. This is the paper's "AP as in [7]". A word
    whose recall denominator is 0 gets NaN.

    Args:
        scores: any scores that rank the images for each word.
        counts: n, how many captions of each image name each word; NaN or -1 for unknown.
        captions_per_image: C, one number for all images or one per image.
        weights: of the images, non-negative, in any unit; equal without them.

    Raises:
        InputError: shapes disagree, a score is NaN, C is not a whole number of at least 1, n is not one of 0..C, -1 or
            NaN, or a weight is negative or infinite.

    Two captions per image; the word is in one caption of the first image and in both of the second:

        >>> count_average_precision([[0.9], [0.8]], [[1], [2]], 2)  # precision 0.5 / 1 is raised to 1.5 / 2, the next
        tensor([0.7500], dtype=torch.float64)
    """
    return _average_precision(scores, counts, captions_per_image, weights)


def mean_over_labels(per_label: Annotated[ArrayLike, "K"]) -> float:
    """Mean over the labels that have a score; NaN if none has one.

    >>> mean_over_labels([0.5, float("nan"), 1.0])
    0.75
    """
    return as_tensor(per_label, "per_label", 1).double().nanmean().item()


def by_group(per_label: Annotated[ArrayLike, "K"], groups: Sequence[str]) -> dict[str, dict[str, int | float]]:
    """Number of labels and mean score of each group (a part of speech), in order of first appearance.

    `count` includes labels without a score; `mean` leaves them out and is NaN if no label of the group has a score.

    Raises:
        InputError: the number of groups is not the number of labels.

    >>> by_group([0.5, float("nan"), 1.0], ["NN", "NN", "VB"])
    {'NN': {'count': 2, 'mean': 0.5}, 'VB': {'count': 1, 'mean': 1.0}}
    """
    scores = as_tensor(per_label, "per_label", 1).tolist()
    if len(groups) != len(scores):
        raise InputError(f"groups: expected {len(scores)}, one per label, got {len(groups)}")
    members: dict[str, list[float]] = {}
    for group, score in zip(groups, scores, strict=True):
        members.setdefault(group, []).append(score)
    return {group: {"count": len(values), "mean": mean_over_labels(values)} for group, values in members.items()}


def ranked_blocks(
    scores: Annotated[ArrayLike, "N K"],
    truth: Annotated[ArrayLike, "N K"],
    captions_per_image: Annotated[int | ArrayLike, "N"] | None = None,
) -> Iterator[RankedBlock]:
    """Rank the examples of every label, a block of labels at a time and in order.

    `truth` holds labels, or caption counts where `captions_per_image` is given.

    Raises:
        InputError: under the conditions of `average_precision` and `count_average_precision`.
    """
    scores, truth = as_matrices(scores, truth, "scores")
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.double()
    captions = None if captions_per_image is None else _as_captions(captions_per_image, len(scores)).to(scores.device)
    width = max(1, ENTRIES_PER_BLOCK // max(1, len(scores)))
    for start in range(0, scores.shape[1], width):
        block = slice(start, start + width)
        if captions is None:
            positive, known = known_labels(truth[:, block])
            gain, mass = positive, known.double()
        else:
            gain, mass = _caption_gain_and_mass(truth[:, block], captions)
        yield _rank(scores[:, block], gain.T, mass.T, interpolated=captions is not None)


def _average_precision(
    scores: Annotated[ArrayLike, "N K"],
    truth: Annotated[ArrayLike, "N K"],
    captions_per_image: Annotated[int | ArrayLike, "N"] | None,
    weights: Annotated[ArrayLike, "N"] | None,
) -> Float64[Tensor, "K"]:
    """Average precision of each label.

    Args:
        scores: of each example for each label.
        truth: labels, or caption counts where `captions_per_image` is given.
        captions_per_image: of all images or of each; None for plain labels.
        weights: of the examples; None for equal ones.
    """
    scores, truth = as_matrices(scores, truth, "scores")
    num_examples = len(scores)
    if weights is None:
        weights = torch.ones(num_examples, dtype=torch.float64)
    else:
        weights = as_tensor(weights, "weights", 1).double()
        if len(weights) != num_examples:
            raise InputError(f"weights: expected {num_examples}, one per example, got {len(weights)}")
        if not ((weights >= 0) & weights.isfinite()).all():
            raise InputError(f"weights: expected finite and not negative values, got {weights.min().item():g}")
    weights = weights.to(scores.device)[None]
    blocks = [block.average_precision(weights)[0] for block in ranked_blocks(scores, truth, captions_per_image)]
    return torch.cat([torch.empty(0, dtype=torch.float64, device=scores.device), *blocks])


def _as_captions(captions_per_image: Annotated[int | ArrayLike, "N"], num_examples: int) -> Float64[Tensor, "N"]:
    captions = to_tensor(captions_per_image).double()
    if captions.ndim > 0 and captions.shape != (num_examples,):
        got = tuple(captions.shape)
        raise InputError(f"captions_per_image: expected one number or {num_examples}, one per image, got shape {got}")
    captions = captions.expand(num_examples)
    wrong = ~((captions >= 1) & (captions == captions.floor()))
    if wrong.any():
        image = int(wrong.nonzero()[0])
        expected = f"captions_per_image: expected a whole number of at least 1 for image {image}"
        raise InputError(f"{expected}, got {captions[image].item():g}")
    return captions


def _caption_gain_and_mass(
    counts: Num[Tensor, "N K"] | Bool[Tensor, "N K"], captions: Float64[Tensor, "N"]
) -> tuple[Float64[Tensor, "N K"], Float64[Tensor, "N K"]]:
    """What each image adds for each word.

    Returns:
        The true positives, and the true plus false positives.
    """
    counts, captions = counts.double(), captions[:, None]
    known = ~(counts.isnan() | (counts == -1))
    wrong = known & ((counts < 0) | (counts > captions) | (counts != counts.floor()))
    if wrong.any():
        image, label = wrong.nonzero()[0].tolist()
        count, most = counts[image, label].item(), captions[image].item()
        expected = f"counts: expected 0..{most:g}, -1 or NaN for image {image} with {most:g} captions"
        raise InputError(f"{expected}, got {count:g}")
    gain = torch.where(known, counts * (1 - 1 / captions), 0.0)
    false = torch.where(counts == 0, 1.0, torch.where(counts == 1, 1 / captions, 0.0))
    return gain, gain + false


def _rank(
    scores: Num[Tensor, "N K"], gain: Float64[Tensor, "K N"], mass: Float64[Tensor, "K N"], *, interpolated: bool
) -> RankedBlock:
    """Sort the examples of each label by score.

    Args:
        scores: of each example for each label.
        gain: the true positives that each example adds.
        mass: the true plus false positives that it adds.
        interpolated: whether precision is to be made non-increasing.
    """
    ascending, order = scores.T.contiguous().neg().sort(dim=1)
    gain = gain.gather(1, order)
    labels, ranks = gain.nonzero(as_tuple=True)
    num_positives = labels.bincount(minlength=len(gain))
    first = num_positives.cumsum(0) - num_positives
    slots = torch.arange(len(labels), device=labels.device) - first[labels]
    # padding points at the last rank and has no gain: it changes neither the sums nor the maxima of the precision
    shape = (len(gain), int(num_positives.max()))
    padded_ranks = order.new_full(shape, order.shape[1] - 1).index_put((labels, slots), ranks)
    padded_gain = gain.new_zeros(shape).index_put((labels, slots), gain[labels, ranks])
    ends = torch.searchsorted(ascending, ascending.gather(1, padded_ranks), right=True) - 1
    last = torch.searchsorted(ends, ends, right=True) - 1
    return RankedBlock(
        order, mass.gather(1, order), order.gather(1, padded_ranks), padded_gain, ends, last, interpolated
    )
