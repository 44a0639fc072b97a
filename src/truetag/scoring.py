"""Scores of one distribution over labels, what they are held against, and the rates of a noise model."""

import math
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.data.labels import TRUE_FIELDS, caption_counts, has_true_tags
from truetag.data.manifest import stream_rows
from truetag.data.vocabulary import Vocabulary
from truetag.data.words import normalise
from truetag.errors import InputError
from truetag.evaluation.decisions import DEFAULT_THRESHOLD, calibration_error, decision_scores
from truetag.evaluation.ranking import average_precision, by_group, count_average_precision, mean_over_labels
from truetag.noise_models import NoiseModel
from truetag.truth import Metrics, Truth


def score(
    logits: Float[Tensor, "N K"],
    labels: Shaped[Tensor, "N K"],
    counts: tuple[Shaped[Tensor, "N K"], Shaped[Tensor, "N"]] | None,
    vocabulary: Vocabulary,
    threshold: float = DEFAULT_THRESHOLD,
) -> Metrics:
    """The scores of one distribution over labels; all in 0..1, None where nothing can be said.

    Args:
        logits: of the distribution.
        labels: 1, 0 and -1 or NaN for unknown.
        counts: how many captions name each word, and how many captions each photo has; None without captions.
        vocabulary: the labels.
        threshold: the probability from which a label counts as predicted.
    """
    ap = average_precision(logits, labels)
    count_ap = torch.full_like(ap, math.nan) if counts is None else count_average_precision(logits, *counts)
    groups, count_groups = (by_group(values, vocabulary.parts_of_speech) for values in (ap, count_ap))
    probabilities = logits.sigmoid()
    return {
        "num_labels": len(vocabulary),
        "num_labels_without_positives": int(ap.isnan().sum()),
        "num_without_tag": int((probabilities < threshold).all(1).sum()),
        "mean_ap": _number(mean_over_labels(ap)),
        "count_mean_ap": _number(mean_over_labels(count_ap)),
        "by_pos": {
            part: {
                "count": group["count"],
                "mean_ap": _number(group["mean"]),
                "count_mean_ap": _number(count_groups[part]["mean"]),
            }
            for part, group in groups.items()
        },
        "per_label": {word: _number(value) for word, value in zip(vocabulary.words, ap.tolist(), strict=True)},
        **{name: _number(value) for name, value in decision_scores(probabilities, labels, threshold).items()},
        "ece": _number(calibration_error(probabilities, labels)),
    }


@torch.no_grad()
def learnt_rates(noise_model: NoiseModel, h: Float[Tensor, "N D"], vocabulary: Vocabulary) -> Metrics:
    """Missing and incorrect rate of each word, for a feature-dependent model the mean over the photos."""
    rates = {}
    for name in ("missing_rate", "incorrect_rate"):
        values = getattr(noise_model, name)(h)
        values = values.mean(0) if values.ndim == 2 else values
        rates[name] = dict(zip(vocabulary.words, (round(value, 6) for value in values.tolist()), strict=True))
    return rates


def best_truth(rows: Any, vocabulary: Vocabulary) -> Truth:
    """The truth of what a run on such rows was trained to predict.

    True tags beside captions alone may be of another vocabulary, such as the categories of COCO.
    """
    there = {field: any(value is not None for value in rows[field][:]) for field in ("captions", "tags", *TRUE_FIELDS)}
    if there["true_tags"] and (there["tags"] or not there["captions"]):
        return "true"
    if there["true_tags"]:
        names = {normalise(tag) for tags in rows["true_tags"][:] for tag in tags or []}
        if 2 * len(names & set(vocabulary.words)) >= len(vocabulary):
            return "true"
    if there["true_captions"]:
        return "true"
    match there["captions"], there["tags"]:
        case True, True:
            return "observed"
        case True, False:
            return "captions"
        case False, True:
            return "tags"
    raise InputError("these rows have neither captions nor tags to score against")


def caption_counts_of(rows: Any, vocabulary: Vocabulary, truth: Truth) -> tuple[Tensor, Tensor] | None:
    """How many captions name each word, where the truth is made of captions and every row has some."""
    if truth in ("tags", "observed") or not all(rows["captions"][:]):
        return None
    if truth == "true" and any(map(has_true_tags, stream_rows(rows, ("captions", "tags", *TRUE_FIELDS)))):
        return None
    return caption_counts(rows, vocabulary, truth)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
