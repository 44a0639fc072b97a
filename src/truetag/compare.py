"""`truetag compare`: runs on the same photos, and whether their differences are more than chance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from truetag.data.labels import label_matrix
from truetag.data.manifest import Manifest, read_manifest
from truetag.errors import InputError
from truetag.evaluation.decisions import DEFAULT_THRESHOLD
from truetag.evaluation.significance import PairedDifference, paired_bootstrap
from truetag.io.files import write_json
from truetag.io.paths import takes_paths
from truetag.media.files import Reading
from truetag.prediction.inference import Prediction, predict_manifest
from truetag.runs.config import EMBEDDINGS
from truetag.runs.folder import Run, open_run
from truetag.runs.paths import distinct_names, runs_in
from truetag.scoring import best_truth, caption_counts_of, score
from truetag.truth import Truth

SCORES = ("mean_ap", "count_mean_ap", "of1", "cf1", "ece")
"""The scores of the table, by their names in the metrics file."""


class Contender(NamedTuple):
    """A run, or runs of several seeds that count as one."""

    name: str
    runs: list[Run]


@dataclass(frozen=True)
class Comparison:
    """Runs on the same photos."""

    num_examples: int
    truth: Truth
    scores: dict[str, dict[str, list[float]]]
    """For each contender each score, one value per seed."""
    differences: dict[str, PairedDifference]
    """Mean AP of each other contender minus that of the first."""


@takes_paths
def compare(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    truth: Truth | None = None,
    out: Path | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    reading: Reading = Reading(),
    features: Path | None = None,
) -> Comparison:
    """Score runs on the same photos, each against the first one, with paired bootstrap intervals.

    Args:
        runs: run folders, or folders of runs (`seed-0`, `seed-1`, ..) of one recipe, which count as one.
        data: the manifest that holds the photos and the truth.
        split: the rows to score; `all` for every row.
        truth: what counts as true, as for `evaluate`.
        out: a JSON file for all numbers.
        num_resamples: how often the photos are drawn anew.
        seed: of these draws.
        reading: how photos and clips are read.
        features: embeddings by the ids of the manifest (.npz, .npy, Parquet), for the runs that were trained on such;
            the others read the photos.

    Raises:
        InputError: there are fewer than two runs, they have different vocabularies, or none of them reads `features`.
    """
    if len(runs) < 2:
        raise InputError(f"runs: expected at least two, got {len(runs)}")
    contenders = [Contender(folder.name, [open_run(path) for path in runs_in(folder)]) for folder in runs]
    names = distinct_names(runs)
    first = contenders[0].runs[0]
    for contender in contenders:
        for run in contender.runs:
            run.require_finished()
            if run.vocabulary.words != first.vocabulary.words:
                raise InputError(f"runs: expected one vocabulary, got another in {run.folder} than in {first.folder}")
    if features is not None and not any(run.config.backbone == EMBEDDINGS for one in contenders for run in one.runs):
        raise InputError(f"features: expected none, as no run was trained on embeddings, got {features}")
    manifest, part = read_manifest(data), None if split == "all" else split
    rows = manifest.in_split(part)
    truth = truth or best_truth(rows, first.vocabulary)
    labels = label_matrix(rows, first.vocabulary, truth)
    logits, kept = _predict_all(contenders, manifest, part, reading, features)
    labels = labels[kept]
    counts = caption_counts_of(rows, first.vocabulary, truth)
    counts = None if counts is None else (counts[0][kept], counts[1][kept])
    scores: dict[str, dict[str, list[float]]] = {}
    for name, contender, of_seeds in zip(names, contenders, logits, strict=True):
        thresholds = [run.threshold() for run in contender.runs]
        metrics = [
            score(values, labels, counts, first.vocabulary, DEFAULT_THRESHOLD if threshold is None else threshold)
            for values, threshold in zip(of_seeds, thresholds, strict=True)
        ]
        scores[name] = {key: [of_seed[key] for of_seed in metrics] for key in SCORES if metrics[0][key] is not None}
    differences = {
        name: paired_bootstrap(
            of_seeds,
            logits[0],
            labels,
            num_resamples=num_resamples,
            generator=torch.Generator().manual_seed(seed),
        )
        for name, of_seeds in zip(names[1:], logits[1:], strict=True)
    }
    comparison = Comparison(len(kept), truth, scores, differences)
    if out is not None:
        write_json(out, asdict(comparison))
    return comparison


def format_comparison(comparison: Comparison) -> str:
    """The table that `truetag compare` prints; scores in percent."""
    width = max(map(len, comparison.scores))
    titles = {"mean_ap": "AP", "count_mean_ap": "count-AP", "of1": "OF1", "cf1": "CF1", "ece": "ECE"}
    there = list(next(iter(comparison.scores.values())))
    lines = [f"{comparison.num_examples} examples, truth: {comparison.truth}"]
    lines.append(
        f"{'':{width}}" + "".join(f"{titles[key]:>15}" for key in there) + "   AP minus the first's (95 % over photos)"
    )
    for name, scores in comparison.scores.items():
        line = f"{name:{width}}" + "".join(f"{_spread(scores[key]):>15}" for key in there)
        if name in comparison.differences:
            pair = comparison.differences[name]
            line += f"   {100 * pair.difference:+.2f} [{100 * pair.low:+.2f}, {100 * pair.high:+.2f}]"
            line += "" if pair.low > 0 or pair.high < 0 else ", may be chance"
        lines.append(line)
    return "\n".join(lines)


def _predict_all(
    contenders: Sequence[Contender], manifest: Manifest, part: str | None, reading: Reading, features: Path | None
) -> tuple[list[list[Float[Tensor, "N K"]]], list[int]]:
    """The logits of all runs on the photos that all of them could read, and the rows of these photos.

    Args:
        contenders: the runs.
        manifest: holds the photos.
        part: the split; None for all rows.
        reading: how the photos are read.
        features: of the runs on embeddings; None for those that the manifest names.
    """

    def predict(run: Run) -> Prediction:
        return predict_manifest(run, manifest, part, reading, features if run.config.backbone == EMBEDDINGS else None)

    predictions = [[predict(run) for run in contender.runs] for contender in contenders]
    kept = sorted(set.intersection(*(set(one.rows) for several in predictions for one in several)))
    logits = []
    for several in predictions:
        places = [{row: place for place, row in enumerate(one.rows)} for one in several]
        logits.append([one.logits[[place[row] for row in kept]] for one, place in zip(several, places, strict=True)])
    return logits, kept


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * stdev(values):.2f}"
