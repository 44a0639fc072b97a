"""Scoring a run on a manifest: every number of the metrics file, of p(y|I) and of the observed p(z|I)."""

from pathlib import Path
from statistics import fmean

from truetag.data.manifest import read_header, read_manifest
from truetag.io.files import write_json
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.media.files import Reading
from truetag.runs.paths import require_finished_run
from truetag.truth import TRUTH_IN_WORDS, Metrics, Truth

PARTS_IN_WORDS = {
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
    features: Path | None = None,
) -> Metrics:
    """Score a run and write RUN/metrics/MANIFEST-SPLIT.json, with the curves of each label beside it.

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
        features: embeddings by the ids of the manifest (.npz, .npy, Parquet), for a run that was trained on such.
    """
    require_finished_run(run)
    read_header(manifest)
    # here: what they import takes seconds, and mistakes are told at once
    import torch

    from truetag.data.labels import label_matrix
    from truetag.evaluation.curves import precision_at_recall, reliability
    from truetag.evaluation.decisions import DEFAULT_THRESHOLD
    from truetag.noise_models import observed_logits
    from truetag.prediction.inference import predict_manifest
    from truetag.runs.folder import open_run
    from truetag.runs.metrics import Curves, write_curves
    from truetag.runs.noise_model import load_noise_model
    from truetag.scoring import best_truth, caption_counts_of, learnt_rates, score

    opened, content = open_run(run), read_manifest(manifest)
    part = None if split == "all" else split
    rows = content.in_split(part)
    truth = truth or best_truth(rows, opened.vocabulary)
    if threshold is None:
        chosen = opened.threshold()
        threshold = DEFAULT_THRESHOLD if chosen is None else chosen
    labels = label_matrix(rows, opened.vocabulary, truth)
    counts = caption_counts_of(rows, opened.vocabulary, truth)
    logits, h, kept, skips = predict_manifest(opened, content, part, reading, features)
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
        curves = Curves(precision_at_recall(logits, labels), reliability(logits.sigmoid(), labels))
        write_curves(opened.folder, name, curves)
        skips.write(opened.folder / "metrics" / f"{name}.json.skipped.jsonl")
    except OSError as error:  # the numbers are there, and are shown
        tell(f"cannot write {error.filename} ({error.strerror})")
    return metrics


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
    kinds = [f"{part} {PARTS_IN_WORDS[part]}" for part in parts if part in PARTS_IN_WORDS]
    lines.append(f"(in percent; AP: mean over labels of the average precision{''.join(f'; {kind}' for kind in kinds)})")
    return "\n".join(lines)
