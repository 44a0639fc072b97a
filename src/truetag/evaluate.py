"""Scoring a run on a manifest: every number of the metrics file, of p(y|I) and of the observed p(z|I)."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from truetag.data.labels import TRUE_FIELDS, TRUTH_IN_WORDS, caption_counts, has_true_tags, label_matrix
from truetag.data.manifest import read_manifest, stream_rows
from truetag.data.vocabulary import Vocabulary
from truetag.data.words import normalise
from truetag.errors import InputError
from truetag.evaluation.decisions import DEFAULT_THRESHOLD, calibration_error, decision_scores
from truetag.evaluation.ranking import average_precision, by_group, count_average_precision, mean_over_labels
from truetag.io.files import write_json
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.media.files import Reading
from truetag.noise_models import NoiseModel, observed_logits
from truetag.prediction.inference import predict_manifest
from truetag.runs.folder import open_run
from truetag.runs.noise_model import load_noise_model

Truth = Literal["observed", "captions", "tags", "true"]
Metrics = dict[str, Any]
_PARTS_IN_WORDS = {
    **{"VB": "verbs", "NN": "nouns", "JJ": "adjectives", "DT": "determiners", "PRP": "pronouns", "IN": "prepositions"},
    "-": "not known",
}


@takes_paths
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
        truth: what counts as true: words of the captions, the tags, both (`observed`), or the true captions and tags of
            a corrupted manifest; without it, `true` for what was corrupted, else what the rows have. True tags beside
            captions alone count where they are of the run's vocabulary, which the categories of COCO are not.
        threshold: the probability from which a tag counts as predicted, for precision and recall; by default the one
            that training chose on noisy validation tags, or 0.5 where it chose none.
        reading: how photos and clips are read.
    """
    opened, content = open_run(run), read_manifest(manifest)
    opened.require_finished()
    part = None if split == "all" else split
    rows = content.in_split(part)
    truth = truth or best_truth(rows, opened.vocabulary)
    if threshold is None:
        chosen = opened.threshold()
        threshold = DEFAULT_THRESHOLD if chosen is None else chosen
    labels = label_matrix(rows, opened.vocabulary, truth)
    counts = caption_counts_of(rows, opened.vocabulary, truth)
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


def format_metrics(metrics: Metrics) -> str:
    """The table that `truetag evaluate` prints; scores in percent."""

    def percent(value: float | None) -> str:
        return f"{100 * value:7.2f}" if value is not None else f"{'-':>7}"

    parts = metrics["by_pos"]
    truth = f"truth: {metrics['truth']} ({TRUTH_IN_WORDS[metrics['truth']]})"
    header = f"{metrics['num_examples']} examples of split {metrics['split']}, {truth}"
    lines = [header, f"{'':16}" + "".join(f"{part:>8}" for part in [*parts, "all"])]
    lines.append(
        f"{'labels':16}"
        + "".join(f"{count:8d}" for count in [p["count"] for p in parts.values()])
        + f"{metrics['num_labels']:8d}"
    )
    observed = metrics.get("observed")
    if observed is not None and observed["mean_ap"] == metrics["mean_ap"]:
        observed = None  # rates that do not depend on the photo keep the order of the photos
    for title, values in (("AP", metrics), ("AP of p(z|I)", observed)):
        for prefix, key in ((title, "mean_ap"), (f"count-{title}", "count_mean_ap")):
            if values is not None and values[key] is not None:
                cells = [part[key] for part in values["by_pos"].values()] + [values[key]]
                lines.append(f"{prefix:16}" + "".join(f" {percent(cell)}" for cell in cells))
    lines.append(f"at p >= {metrics['threshold']:g}:")
    for title, initial in (("all tags together", "o"), ("mean over labels", "c")):
        precision, recall, f1 = (percent(metrics[initial + name]).strip() for name in ("p", "r", "f1"))
        lines.append(f"  {title}: precision {precision}, recall {recall}, F1 {f1}")
    lines.append(f"  {metrics['num_without_tag']} of {metrics['num_examples']} examples get no tag")
    lines.append(f"calibration error {percent(metrics['ece']).strip()}")
    if "noise" in metrics:
        missing, incorrect = (
            percent(fmean(metrics["noise"][name].values())).strip() for name in ("missing_rate", "incorrect_rate")
        )
        lines.append(
            f"estimated noise, mean over labels: {missing} % of the true tags are missing, {incorrect} % of the absent "
            "ones are given (too low where mistakes follow a pattern that the photos show)"
        )
    if metrics["num_labels_without_positives"]:
        lines.append(f"{metrics['num_labels_without_positives']} labels have no positive here and are left out")
    if metrics["num_skipped"]:
        lines.append(f"{metrics['num_skipped']} photos could not be used")
    kinds = [f"{part} {_PARTS_IN_WORDS[part]}" for part in parts if part in _PARTS_IN_WORDS]
    lines.append(f"(in percent; AP: mean over labels of the average precision{''.join(f'; {kind}' for kind in kinds)})")
    return "\n".join(lines)


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
