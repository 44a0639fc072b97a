"""Is model A better than model B on this test set? The paired bootstrap over test examples (Efron 1979; Koehn 2004).

A resample draws N examples with replacement, which is a whole-number weight for each example; both models are scored
under the same weights, so that what makes a resample hard for both cancels in their difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.ranking import ArrayLike, as_tensor, ranked_blocks

# weights that are summed at once (32 MiB): threads that wait for each other in many small steps cost more on a busy
# machine than a cache saves
ENTRIES_PER_CHUNK = 2**22


@dataclass(frozen=True)
class PairedDifference:
    """The mean average precision of A less that of B, and how far chance in the choice of test examples goes."""

    difference: float
    """On the test set itself, in -1..1; positive where A is better."""
    low: float
    """Lower end of the percentile interval of the difference over the resamples."""
    high: float
    """Upper end of that interval."""
    p_value: float
    """Two-sided: twice the share of resamples whose difference is 0 or turned; at least 2 / (num_resamples + 1)."""
    mean_ap_a: float
    """Mean average precision of A on the test set, over labels and seeds."""
    mean_ap_b: float
    """The same of B."""
    confidence: float
    """Share of the resamples that the interval covers."""
    num_resamples: int
    """Resamples that had a positive of any label."""


def paired_bootstrap(
    scores_a: Annotated[ArrayLike, "N K"] | Annotated[Sequence[ArrayLike], "N K"],
    scores_b: Annotated[ArrayLike, "N K"] | Annotated[Sequence[ArrayLike], "N K"],
    labels: Annotated[ArrayLike, "N K"],
    *,
    counts_per_image: Annotated[int | ArrayLike, "N"] | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    generator: torch.Generator,
) -> PairedDifference:
    """Compare two models' mean average precision on the same examples by resampling these.

    Each model is one array of scores or a sequence of them, one a seed; within a resample the mean over a model's seeds
    is compared. `labels` are 1, 0 and NaN or -1 for unknown, or, where `counts_per_image` gives each image's number of
    captions, how many captions name each word: then `count_average_precision` is used. A label that loses all its
    positives in a resample is left out of that resample's mean, for both models alike.

    Raises:
        InputError: shapes disagree, no label has a positive, `num_resamples` is below 1, `confidence` is not between 0
            and 1, or the scores or labels are what `average_precision` refuses.

    A model that ranks every photo rightly against one that has them all the wrong way round:

        >>> labels = torch.tensor([[1.0], [0.0]] * 20)
        >>> result = paired_bootstrap(labels, 1 - labels, labels, generator=torch.Generator().manual_seed(0))
        >>> result.difference, result.low > 0, result.p_value < 0.01
        (0.5, True, True)
    """
    if num_resamples < 1:
        raise InputError(f"num_resamples is {num_resamples}; expected at least 1")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a share between 0 and 1")
    labels = as_tensor(labels, "the labels", 2)
    # the first row is the test set as it is
    whole = torch.ones(1, len(labels), dtype=torch.float64)
    weights = torch.cat([whole, resample_weights(len(labels), num_resamples, generator)])
    a = _mean_over_seeds(scores_a, labels, counts_per_image, weights)
    b = _mean_over_seeds(scores_b, labels, counts_per_image, weights)
    differences = a - b
    if differences[0].isnan():
        raise InputError(f"none of the {labels.shape[1]} labels has a positive among the {len(labels)} examples")

    resampled = differences[1:][~differences[1:].isnan()]
    count = len(resampled)
    tail = (1 - confidence) / 2
    low, high = (
        resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        if count
        else (torch.nan, torch.nan)
    )
    turned = min((resampled <= 0).sum().item(), (resampled >= 0).sum().item())
    return PairedDifference(
        difference=differences[0].item(),
        low=low,
        high=high,
        p_value=min(1.0, 2 * (turned + 1) / (count + 1)),
        mean_ap_a=a[0].item(),
        mean_ap_b=b[0].item(),
        confidence=confidence,
        num_resamples=count,
    )


def resampled_mean_ap(
    scores: Annotated[ArrayLike, "N K"],
    labels: Annotated[ArrayLike, "N K"],
    weights: Float64[Tensor, "R N"],
    counts_per_image: Annotated[int | ArrayLike, "N"] | None = None,
) -> Float64[Tensor, "R"]:
    """Mean over labels of the average precision under each row of example weights (how often each was drawn)."""
    total = torch.zeros(len(weights), dtype=torch.float64)
    num_labels = torch.zeros(len(weights), dtype=torch.float64)
    for block in ranked_blocks(scores, labels, counts_per_image):
        rows = max(1, ENTRIES_PER_CHUNK // max(1, block.order.numel()))
        per_label = torch.cat(
            [block.average_precision(chunk).cpu() for chunk in weights.to(block.order.device).split(rows)]
        )
        total += per_label.nansum(1)
        num_labels += (~per_label.isnan()).sum(1)
    return total / num_labels


def resample_weights(num_examples: int, num_resamples: int, generator: torch.Generator) -> Float64[Tensor, "R N"]:
    """How often each example is drawn in each resample: N draws with replacement."""
    draw_shape = (num_examples,)
    draws = (
        torch.randint(num_examples, draw_shape, generator=generator, device=generator.device)
        for _ in range(num_resamples)
    )
    return torch.stack([draw.bincount(minlength=num_examples).double().cpu() for draw in draws])


def _mean_over_seeds(
    scores: ArrayLike | Sequence[ArrayLike],
    labels: Tensor,
    counts_per_image: int | ArrayLike | None,
    weights: Float64[Tensor, "R N"],
) -> Float64[Tensor, "R"]:
    seeds = _seeds(scores)
    if not seeds:
        raise InputError("a model has no scores: expected at least one array")
    return torch.stack([resampled_mean_ap(seed, labels, weights, counts_per_image) for seed in seeds]).mean(0)


def _seeds(scores: ArrayLike | Sequence[ArrayLike]) -> list[ArrayLike]:
    """One matrix a seed: from a matrix, a sequence of matrices, or one array with the seeds as its first axis."""
    if not isinstance(scores, (Tensor, np.ndarray)) and all(
        isinstance(member, (Tensor, np.ndarray)) and member.ndim == 2 for member in scores
    ):
        return list(scores)
    array = scores if isinstance(scores, (Tensor, np.ndarray)) else np.array(scores)
    return list(array) if array.ndim == 3 else [array]
