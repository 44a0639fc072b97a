"""Is model A better than model B on this test set? The paired bootstrap over test examples (Efron 1979; Koehn 2004).

A resample draws N examples with replacement, which gives each example a whole-number weight. Both models are scored
under the same weights, so whatever makes a resample hard for both cancels in their difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.arrays import ArrayLike, as_tensor
from truetag.evaluation.ranking import ranked_blocks

# weights summed at once (32 MiB): smaller chunks fit a cache, but threads then wait for each other more often
ENTRIES_PER_CHUNK = 2**22


@dataclass(frozen=True)
class PairedDifference:
    """The mean average precision of A minus that of B, and how much it varies with the choice of test examples."""

    difference: float
    """On the test set itself, in -1..1; positive where A is better."""
    low: float
    """Lower end of the percentile interval of the difference over the resamples."""
    high: float
    """Upper end of that interval."""
    p_value: float
    """Two-sided: 2 (r + 1) / (num_resamples + 1), where r resamples have a difference of 0 or of the other sign."""
    mean_ap_a: float
    """Mean average precision of A on the test set, over labels and seeds."""
    mean_ap_b: float
    """Mean average precision of B on the test set, over labels and seeds."""
    confidence: float
    """Share of the resamples that the interval covers."""
    num_resamples: int
    """Resamples that contain a positive of at least one label."""


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
    """Compare the mean average precision of two models on the same examples, by resampling the examples.

    Within a resample the means over the seeds of each model are compared. A label that has no positive in a resample is
    left out of that resample's mean, for both models alike.

    Args:
        scores_a: the scores of model A: one array, or one array per seed.
        scores_b: the scores of model B, likewise.
        labels: 1, 0, and NaN or -1 for unknown; with `counts_per_image`, how many captions name each word.
        counts_per_image: how many captions each image has; `count_average_precision` is used where it is given.
        num_resamples: how many resamples are drawn.
        confidence: share of the resamples that the interval covers.
        generator: draws the resamples.

    Raises:
        InputError: shapes disagree, no label has a positive, `num_resamples` is below 1, `confidence` is not between 0
            and 1, or the scores or labels are what `average_precision` refuses.

    A model that ranks every photo correctly against one that ranks them all in reverse:

        >>> labels = torch.tensor([[1.0], [0.0]] * 20)
        >>> result = paired_bootstrap(labels, 1 - labels, labels, generator=torch.Generator().manual_seed(0))
        >>> result.difference, result.low > 0, result.p_value < 0.01
        (0.5, True, True)
    """
    if num_resamples < 1:
        raise InputError(f"num_resamples: expected at least 1, got {num_resamples}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a share between 0 and 1, got {confidence}")
    labels = as_tensor(labels, "labels", 2)
    # the first row is the test set as it is
    whole = torch.ones(1, len(labels), dtype=torch.float64)
    weights = torch.cat([whole, resample_weights(len(labels), num_resamples, generator)])
    a = _mean_over_seeds(scores_a, labels, counts_per_image, weights)
    b = _mean_over_seeds(scores_b, labels, counts_per_image, weights)
    differences = a - b
    if differences[0].isnan():
        raise InputError(
            f"labels: expected at least one positive, got none for {labels.shape[1]} labels of {len(labels)} examples"
        )

    resampled = differences[1:][~differences[1:].isnan()]
    count = len(resampled)
    tail = (1 - confidence) / 2
    low = high = torch.nan
    if count:
        low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    num_opposed = min((resampled <= 0).sum().item(), (resampled >= 0).sum().item())
    return PairedDifference(
        difference=differences[0].item(),
        low=low,
        high=high,
        p_value=min(1.0, 2 * (num_opposed + 1) / (count + 1)),
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
    """Mean over labels of the average precision under each row of example weights.

    Args:
        scores: of each example for each label.
        labels: 1, 0, and NaN or -1 for unknown; with `counts_per_image`, how many captions name each word.
        weights: how often each resample draws each example.
        counts_per_image: how many captions each image has, of all images or of each.
    """
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
    counts = []
    for _ in range(num_resamples):
        draws = torch.randint(num_examples, (num_examples,), generator=generator, device=generator.device)
        counts.append(draws.bincount(minlength=num_examples).double().cpu())
    return torch.stack(counts)


def _mean_over_seeds(
    scores: Annotated[ArrayLike, "N K"] | Annotated[Sequence[ArrayLike], "N K"],
    labels: Shaped[Tensor, "N K"],
    counts_per_image: Annotated[int | ArrayLike, "N"] | None,
    weights: Float64[Tensor, "R N"],
) -> Float64[Tensor, "R"]:
    """Mean average precision of one model under each row of weights, averaged over its seeds.

    Args:
        scores: of the model: one array, or one per seed.
        labels: the labels or caption counts.
        counts_per_image: how many captions each image has; None for plain labels.
        weights: how often each resample draws each example.
    """
    seeds = _seeds(scores)
    if not seeds:
        raise InputError("scores: expected at least one array per model, got none")
    return torch.stack([resampled_mean_ap(seed, labels, weights, counts_per_image) for seed in seeds]).mean(0)


def _seeds(scores: Annotated[ArrayLike, "N K"] | Annotated[Sequence[ArrayLike], "N K"]) -> list[ArrayLike]:
    """One matrix per seed: from a matrix, a sequence of matrices, or one array with the seeds as its first axis."""
    if not isinstance(scores, (Tensor, np.ndarray)) and all(
        isinstance(member, (Tensor, np.ndarray)) and member.ndim == 2 for member in scores
    ):
        return list(scores)
    array = scores if isinstance(scores, (Tensor, np.ndarray)) else np.array(scores)
    return list(array) if array.ndim == 3 else [array]
