"""Scoring a run on a manifest: every number of the metrics file, of p(y|I) and of the observed p(z|I)."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.data.labels import caption_counts, label_matrix
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.evaluation.decisions import DEFAULT_THRESHOLD, calibration_error, decision_scores
from truetag.evaluation.ranking import average_precision, by_group, count_average_precision, mean_over_labels
from truetag.io.files import write_json
from truetag.io.terminal import tell
from truetag.media.files import Reading
from truetag.noise_models import NoiseModel, observed_logits
from truetag.prediction.inference import predict_manifest
from truetag.runs.folder import open_run
from truetag.runs.noise_model import load_noise_model

Truth = Literal["captions", "tags", "true"]
Metrics = dict[str, Any]


def evaluate(
    run: Path,
    manifest: Path,
    split: str | None = "test",
    truth: Truth | None = None,
    threshold: float | None = None,
    reading: Reading = Reading(),
) -> Metrics:
    """Score a run and write RUN/metrics/MANIFEST-SPLIT.json.

    Args:
        run: the run folder.
        manifest: the manifest that holds the photos and the truth.
        split: the rows to score; `all` for every row.
        truth: what counts as true: words of the captions, the tags, or the true captions and tags of a corrupted
            manifest; without it, `true` where rows have it, else captions, else tags.
        threshold: the probability from which a tag counts as predicted, for precision and recall; by default the one
            that training chose on noisy validation tags, or 0.5 where it chose none.
        reading: how photos and clips are read.
    """
    opened, content = open_run(run), read_manifest(manifest)
    part = None if split == "all" else split
    rows = content.in_split(part)
    truth = truth or _best_truth(rows)
    if threshold is None:
        chosen = opened.threshold()
        threshold = DEFAULT_THRESHOLD if chosen is None else chosen
    labels = label_matrix(rows, opened.vocabulary, truth)
    counts = _counts(rows, opened.vocabulary, truth)
    logits, h, kept, skips = predict_manifest(opened, content, part, reading)
    labels = labels[kept]
    counts = None if counts is None else (counts[0][kept], counts[1][kept])
    metrics: Metrics = {"split": split, "truth": truth, "num_examples": len(kept), "num_skipped": len(skips)}
    metrics |= score(logits, labels, counts, opened.vocabulary, threshold)
    noise_model = load_noise_model(opened)
    if noise_model is not None:
        with torch.inference_mode():
            p_observed = observed_logits(logits, h, noise_model)
            observed = score(p_observed, labels, counts, opened.vocabulary, threshold)
            metrics["observed"] = {name: observed[name] for name in ("mean_ap", "count_mean_ap", "by_pos", "ece")}
            metrics["noise"] = learnt_rates(noise_model, h, opened.vocabulary)
    name = f"{manifest.stem}-{split or 'all'}"
    try:
        write_json(opened.folder / "metrics" / f"{name}.json", metrics)
        skips.write(opened.folder / "metrics" / f"{name}.json.skipped.jsonl")
    except OSError as error:  # the numbers are there, and are shown
        tell(f"cannot write {error.filename} ({error.strerror})")
    return metrics


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


def format_metrics(metrics: Metrics) -> str:
    """The table that `truetag evaluate` prints; scores in percent."""

    def percent(value: float | None) -> str:
        return f"{100 * value:7.2f}" if value is not None else f"{'-':>7}"

    parts = metrics["by_pos"]
    header = f"{metrics['num_examples']} examples of split {metrics['split']}, truth: {metrics['truth']}"
    lines = [header, f"{'':16}" + "".join(f"{part:>8}" for part in [*parts, "all"])]
    lines.append(
        f"{'labels':16}"
        + "".join(f"{count:8d}" for count in [p["count"] for p in parts.values()])
        + f"{metrics['num_labels']:8d}"
    )
    for title, values in (("AP", metrics), ("AP of p(z|I)", metrics.get("observed"))):
        for prefix, key in ((title, "mean_ap"), (f"count-{title}", "count_mean_ap")):
            if values is not None and values[key] is not None:
                cells = [part[key] for part in values["by_pos"].values()] + [values[key]]
                lines.append(f"{prefix:16}" + "".join(f" {percent(cell)}" for cell in cells))
    decisions = "  ".join(
        f"{name.upper()} {percent(metrics[name]).strip()}" for name in ("op", "or", "of1", "cp", "cr", "cf1")
    )
    lines.append(f"at p >= {metrics['threshold']:g}: {decisions}; calibration error {percent(metrics['ece']).strip()}")
    if metrics["num_labels_without_positives"]:
        lines.append(f"{metrics['num_labels_without_positives']} labels have no positive here and are left out")
    if metrics["num_skipped"]:
        lines.append(f"{metrics['num_skipped']} photos could not be used")
    return "\n".join(lines)


def _best_truth(rows: Any) -> Truth:
    sources: dict[str, Truth] = {"true_tags": "true", "true_captions": "true", "captions": "captions", "tags": "tags"}
    for field, truth in sources.items():
        if any(value is not None for value in rows[field][:]):
            return truth
    raise InputError("these rows have neither captions nor tags to score against")


def _counts(rows: Any, vocabulary: Vocabulary, truth: Truth) -> tuple[Tensor, Tensor] | None:
    """How many captions name each word, where the truth is made of captions and every row has some."""
    has_true_tags = any(tags is not None for tags in rows["true_tags"][:])
    if truth == "tags" or (truth == "true" and has_true_tags) or not all(rows["captions"][:]):
        return None
    return caption_counts(rows, vocabulary, truth)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
