"""Average precision of every label's ranking of the examples: the plain one, and the one that counts captions.

Both come from one curve. Going down a label's ranking, an example adds `gain` true positives and `mass` true plus false
positives (both scaled by the example's weight); examples with tied scores enter together. Then, over the examples p
with a gain,

    AP = sum_p gain_p * precision(p) / sum_p gain_p,    precision(p) = (sum of gain) / (sum of mass) down to p's score

is the area under the precision-recall steps. Only the sums depend on the weights: one sort serves a whole bootstrap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Num
from torch import Tensor

from truetag.errors import InputError

ArrayLike = Tensor | np.ndarray | Sequence[Any]
ENTRIES_PER_BLOCK = 2**20  # scores that are handled at once: bounds the memory whatever N and K


@dataclass(frozen=True)
class RankedBlock:
    """Some labels' examples from the highest score to the lowest, to be scored under any weights of the examples.

    The P axis holds the examples with a gain, best first; labels that have fewer of them end in entries of gain 0.
    """

    order: Int64[Tensor, "K N"]  # the example at each place of the ranking
    mass: Float64[Tensor, "K N"]  # true plus false positives that it adds
    positives: Int64[Tensor, "K P"]  # the examples that add true positives
    gain: Float64[Tensor, "K P"]  # how many
    ends: Int64[Tensor, "K P"]  # the last place whose score ties with the positive's
    last: Int64[Tensor, "K P"]  # the last positive whose score ties with it
    interpolated: bool  # precision made non-increasing (VOC)

    def average_precision(self, weights: Float64[Tensor, "R N"]) -> Float64[Tensor, "R K"]:
        """Average precision under each row of non-negative example weights; NaN where the gains sum to 0."""
        gain = weights[:, self.positives] * self.gain
        # in place: the only steps over all N examples, whose memory costs more time than their sums
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

    The area under the uninterpolated steps, tied scores sharing one threshold: what scikit-learn's
    `average_precision_score` computes. `labels` are 1, 0 and NaN or -1 for unknown; an unknown example does not count
    for that label. `weights` (non-negative, in any unit) are scikit-learn's `sample_weight`. A label without a positive
    has NaN.

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
    """Average precision of each word against how many of an image's captions say it (Fang et al. 2015), in 0..1.

    With n of an image's C captions naming the word: true positives += n (1 - 1/C); false positives += 0 if n > 1, 1/C
    if n = 1, 1 if n = 0; recall is out of the sum of n (C-1)/C. Precision is made non-increasing from the right and the
    area under it taken (VOC); tied scores share one threshold. This is the paper's "AP as in [7]". `counts` are n, with
    NaN or -1 for unknown; `captions_per_image` is C, of all images or of each. A word whose recall denominator is 0 has
    NaN.

    Raises:
        InputError: shapes disagree, a score is NaN, C is not a whole number of at least 1, n is not one of 0..C, -1 or
            NaN, or a weight is negative or infinite.

    Two captions an image; the word is in one caption of the first image and in both of the second:

        >>> count_average_precision([[0.9], [0.8]], [[1], [2]], 2)  # precision .5 / 1, then 1.5 / 2: never below .75
        tensor([0.7500], dtype=torch.float64)
    """
    return _average_precision(scores, counts, captions_per_image, weights)


def mean_over_labels(per_label: Annotated[ArrayLike, "K"]) -> float:
    """Mean over the labels that have a score, NaN if none has.

    >>> mean_over_labels([0.5, float("nan"), 1.0])
    0.75
    """
    return as_tensor(per_label, "the scores of the labels", 1).double().nanmean().item()


def by_group(per_label: Annotated[ArrayLike, "K"], groups: Sequence[str]) -> dict[str, dict[str, int | float]]:
    """Count of labels and mean score of each group (a part of speech), in order of appearance.

    `count` is of all labels of the group, also those without a score; `mean` leaves these out, NaN if none is left.

    Raises:
        InputError: there are not as many groups as labels.

    >>> by_group([0.5, float("nan"), 1.0], ["NN", "NN", "VB"])
    {'NN': {'count': 2, 'mean': 0.5}, 'VB': {'count': 1, 'mean': 1.0}}
    """
    scores = as_tensor(per_label, "the scores of the labels", 1).tolist()
    if len(groups) != len(scores):
        raise InputError(f"{len(groups)} groups for {len(scores)} labels")
    members: dict[str, list[float]] = {}
    for group, score in zip(groups, scores, strict=True):
        members.setdefault(group, []).append(score)
    return {group: {"count": len(values), "mean": mean_over_labels(values)} for group, values in members.items()}


def ranked_blocks(
    scores: Annotated[ArrayLike, "N K"],
    truth: Annotated[ArrayLike, "N K"],
    captions_per_image: Annotated[int | ArrayLike, "N"] | None = None,
) -> Iterator[RankedBlock]:
    """The labels in order, a block at a time; `truth` are caption counts where `captions_per_image` is given.

    Raises:
        InputError: as `average_precision` and `count_average_precision` say.
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


def known_labels(
    labels: Num[Tensor, "N K"] | Bool[Tensor, "N K"],
) -> tuple[Float64[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """Labels with 0 in place of unknown, and where they are known.

    Raises:
        InputError: a label is not 1, 0, -1 or NaN.
    """
    labels = labels if labels.is_floating_point() else labels.double()
    positive = labels == 1
    known = positive | (labels == 0)
    others = labels[~known]
    wrong = others[~(others.isnan() | (others == -1))]
    if len(wrong) > 0:
        raise InputError(f"a label is {wrong[0].item():g}; expected 1, 0, or -1 or NaN for unknown")
    return positive.double(), known


def as_matrices(predicted: ArrayLike, truth: ArrayLike, name: str) -> tuple[Tensor, Tensor]:
    """Two tensors of the same [N, K], on the device of the first.

    Raises:
        InputError: the shapes disagree, or the first (called `name` in the message) has a NaN.
    """
    predicted, truth = as_tensor(predicted, f"the {name}", 2), as_tensor(truth, "the labels", 2)
    if predicted.shape != truth.shape:
        raise InputError(f"{name} of shape {tuple(predicted.shape)} for labels of shape {tuple(truth.shape)}")
    if predicted.isnan().any():
        raise InputError(f"{int(predicted.isnan().sum())} of the {predicted.numel()} {name} are NaN")
    return predicted, truth.to(predicted.device)


def as_tensor(values: ArrayLike, name: str, num_axes: int) -> Tensor:
    """A tensor without gradient, checked to have `num_axes` axes.

    Raises:
        InputError: it has another number of axes.
    """
    tensor = _tensor(values)
    if tensor.ndim != num_axes:
        raise InputError(f"expected {num_axes} axes for {name}, got shape {tuple(tensor.shape)}")
    return tensor


def _tensor(values: int | ArrayLike) -> Tensor:
    # np.array copies: torch warns of arrays it could not write to
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _average_precision(
    scores: ArrayLike, truth: ArrayLike, captions_per_image: int | ArrayLike | None, weights: ArrayLike | None
) -> Float64[Tensor, "K"]:
    scores, truth = as_matrices(scores, truth, "scores")
    num_examples = len(scores)
    if weights is None:
        weights = torch.ones(num_examples, dtype=torch.float64)
    else:
        weights = as_tensor(weights, "the weights", 1).double()
        if len(weights) != num_examples:
            raise InputError(f"weights of shape {tuple(weights.shape)} for scores of shape {tuple(scores.shape)}")
        if not ((weights >= 0) & weights.isfinite()).all():
            raise InputError(
                f"weights are expected to be finite and not negative; the least is {weights.min().item():g}"
            )
    weights = weights.to(scores.device)[None]
    blocks = [block.average_precision(weights)[0] for block in ranked_blocks(scores, truth, captions_per_image)]
    return torch.cat([torch.empty(0, dtype=torch.float64, device=scores.device), *blocks])


def _as_captions(captions_per_image: int | ArrayLike, num_examples: int) -> Float64[Tensor, "N"]:
    captions = _tensor(captions_per_image).double()
    if captions.ndim > 0 and captions.shape != (num_examples,):
        raise InputError(
            f"captions_per_image of shape {tuple(captions.shape)} for {num_examples} images: expected one or as many"
        )
    captions = captions.expand(num_examples)
    wrong = ~((captions >= 1) & (captions == captions.floor()))
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise InputError(
            f"image {place} has {captions[place].item():g} captions; expected a whole number of at least 1"
        )
    return captions


def _caption_gain_and_mass(
    counts: Num[Tensor, "N K"] | Bool[Tensor, "N K"], captions: Float64[Tensor, "N"]
) -> tuple[Float64[Tensor, "N K"], Float64[Tensor, "N K"]]:
    counts, captions = counts.double(), captions[:, None]
    known = ~(counts.isnan() | (counts == -1))
    wrong = known & ((counts < 0) | (counts > captions) | (counts != counts.floor()))
    if wrong.any():
        image, label = wrong.nonzero()[0].tolist()
        count, most = counts[image, label].item(), captions[image].item()
        raise InputError(
            f"image {image} has a count of {count:g} in {most:g} captions; expected 0..{most:g}, -1 or NaN"
        )
    gain = torch.where(known, counts * (1 - 1 / captions), 0.0)
    false = torch.where(counts == 0, 1.0, torch.where(counts == 1, 1 / captions, 0.0))
    return gain, gain + false


def _rank(
    scores: Num[Tensor, "N K"], gain: Float64[Tensor, "K N"], mass: Float64[Tensor, "K N"], *, interpolated: bool
) -> RankedBlock:
    ascending, order = scores.T.contiguous().neg().sort(dim=1)
    gain = gain.gather(1, order)
    labels, places = gain.nonzero(as_tuple=True)
    num_positives = labels.bincount(minlength=len(gain))
    first = num_positives.cumsum(0) - num_positives
    slots = torch.arange(len(labels), device=labels.device) - first[labels]
    # the padding stands at the last place, with no gain: it changes neither a sum nor a maximum of the precision
    shape = (len(gain), int(num_positives.max()))
    at = order.new_full(shape, order.shape[1] - 1).index_put((labels, slots), places)
    padded_gain = gain.new_zeros(shape).index_put((labels, slots), gain[labels, places])
    ends = torch.searchsorted(ascending, ascending.gather(1, at), right=True) - 1
    last = torch.searchsorted(ends, ends, right=True) - 1
    return RankedBlock(order, mass.gather(1, order), order.gather(1, at), padded_gain, ends, last, interpolated)
