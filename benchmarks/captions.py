"""Do cleaner concepts make better sentences? Captioners on the concepts of runs whose captions were swapped.

    python benchmarks/captions.py --flickr8k FLICKR8K --work WORK        (about two hours on 2 cores; resumes)

Concepts are learnt from captions of which two of five are another photo's; the captioners read those concepts, or the
features of the backbone, and all of them learn from the same clean captions. Every setting is the same for all, and the
epoch is chosen on validation captions. `dev.txt` is scored. Expected: see captions.md, which this script writes.
"""

import json
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from product import prepare, swapped_manifest, train_recipe

from truetag.captioning.config import CaptionConfig
from truetag.captioning.evaluate import describe_scores, evaluate_captions
from truetag.captioning.scores import score_captions
from truetag.captioning.train import train_captioner
from truetag.data.bags import read_bags
from truetag.data.manifest import iterate_rows, read_manifest
from truetag.io.files import replacing, write_text
from truetag.media.files import Reading, SkipList
from truetag.models.building import load_classifier
from truetag.prediction.inference import feature_batches
from truetag.runs.folder import open_run

SOURCES = ("mlcn-star", "nmn-fi", "nmn-fd", "best", "features")
BASELINE = "mlcn-star"
SCORES = {"cider": "CIDEr", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "meteor": "METEOR"}
NUM_RESAMPLES = 2000
SMALL = CaptionConfig(
    captions="one",
    state_size=256,
    frame_size=256,
    word_size=200,
    learning_rate=2e-3,
    batch_size=32,
    dropout=0.3,
    min_count=3,
    epochs=10,
)
REPORT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Benchmark:
    """Where the photos are, where to work, and what to run."""

    flickr8k: Path
    work: Path
    sources: tuple[str, ...] = SOURCES
    seeds: tuple[int, ...] = (0, 1, 2)
    num_swapped: int = 2
    config: CaptionConfig = SMALL
    """Smaller than the paper's, so that fifteen of them fit into an hour."""
    report: bool = True
    """Score and write the report; without it, only train."""


def main(benchmark: Benchmark) -> None:
    benchmark.work.mkdir(parents=True, exist_ok=True)
    clean, _ = prepare(benchmark.flickr8k, benchmark.work)
    metrics: dict[str, list[dict[str, Any]]] = {}
    for seed in benchmark.seeds:
        for source in benchmark.sources:
            folder = train_one(benchmark, clean, source, seed)
            if benchmark.report:
                metrics.setdefault(source, []).append(evaluate_captions(folder, clean, "test", official=True))
    if benchmark.report:
        write_report(benchmark, clean, metrics)


def captioner_folder(benchmark: Benchmark, source: str, seed: int) -> Path:
    return benchmark.work / "captioners" / f"swap{benchmark.num_swapped}-seed{seed}" / source


def train_one(benchmark: Benchmark, clean: Path, source: str, seed: int) -> Path:
    """Train a captioner on the concepts of a recipe, or on the backbone's features."""
    run = (
        benchmark.work
        / "runs"
        / f"swap{benchmark.num_swapped}-seed{seed}"
        / (BASELINE if source == "features" else source)
    )
    swapped_manifest(benchmark.work, benchmark.num_swapped, seed)
    train_recipe(benchmark.work, run.name, benchmark.num_swapped, seed)
    out = captioner_folder(benchmark, source, seed)
    config = replace(benchmark.config, seed=seed)
    if source == "features":
        features = benchmark.work / "features.npz"
        if not features.exists():
            write_features(run, clean, features)
        train_captioner(config, clean, out, features=features, resume=True)
    else:
        train_captioner(config, clean, out, run=run, resume=True)
    return out


def write_features(run: Path, manifest: Path, out: Path) -> None:
    """The mean feature of each photo, of the frozen backbone of a run."""
    opened, content = open_run(run), read_manifest(manifest)
    bags = read_bags(content, None, Reading(), SkipList())
    batches = feature_batches(opened, load_classifier(opened), bags, Reading(), len(bags))
    parts = [(batch.indices, batch.features.mean((1, 2))) for batch in batches if batch.features is not None]
    ids = np.array([bags.ids[index] for indices, _ in parts for index in indices])
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez(file, ids=ids, features=torch.cat([features for _, features in parts]).numpy())


def resampled_difference(
    a: list[Float[np.ndarray, "N"]], b: list[Float[np.ndarray, "N"]]
) -> tuple[float, float, float]:
    """The mean of a - b over photos and seeds, and its 95 % interval over resampled photos (paired bootstrap)."""
    difference = np.mean([x - y for x, y in zip(a, b, strict=True)], axis=0)  # N
    rng = np.random.default_rng(0)
    picks = rng.integers(len(difference), size=(NUM_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def per_photo(folder: Path, manifest: Path, name: str) -> Float[np.ndarray, "N"]:
    rows = json.loads((folder / "metrics" / f"{manifest.stem}-test.captions.json").read_text())
    return np.array([row[name] for row in rows])


def scale(clean: Path) -> dict[str, dict[str, Any]]:
    """What the scores say of people: the fifth caption against the other four, and the same of another photo."""
    captions = {row["id"]: row["captions"] for row in iterate_rows(clean) if row["split"] == "test"}
    references = {name: texts[:4] for name, texts in captions.items()}
    names = list(captions)
    shuffled = dict(zip(names, names[1:] + names[:1], strict=True))
    return {
        "a fifth person's caption, against four": {name: texts[4] for name, texts in captions.items()},
        "the same of another photo": {name: captions[shuffled[name]][4] for name in names},
    } | {"": references}  # type: ignore[dict-item]


def write_report(benchmark: Benchmark, clean: Path, metrics: dict[str, list[dict[str, Any]]]) -> None:
    people = scale(clean)
    references = people.pop("")
    lines = [f"| captions | {' | '.join(SCORES.values())} |", "|---" * (len(SCORES) + 1) + "|"]
    for title, candidates in people.items():
        scores = describe_scores(score_captions(references, candidates, official=True))
        lines.append(f"| {title} | " + " | ".join(f"{100 * scores[name]:.2f}" for name in SCORES) + " |")
    for source, of_seeds in metrics.items():
        cells = []
        for name in SCORES:
            values = [100 * one[name] for one in of_seeds]
            cells.append(f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""))
        title = "the backbone's features" if source == "features" else f"concepts of `{source}`"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Differences from `{BASELINE}`, with 95 % intervals over photos (paired bootstrap, mean over seeds):",
        "",
    ]
    lines += [f"| captions | {' | '.join(SCORES.values())} |", "|---" * (len(SCORES) + 1) + "|"]
    for source in metrics:
        if source == BASELINE:
            continue
        cells = []
        for name in SCORES:
            values = [
                [100 * per_photo(captioner_folder(benchmark, one, seed), clean, name) for seed in benchmark.seeds]
                for one in (source, BASELINE)
            ]
            mean, low, high = resampled_difference(*values)
            cells.append(f"{mean:+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| `{source}` | {' | '.join(cells)} |")
    start, end = "<!-- captions -->", "<!-- /captions -->"
    text = REPORT.read_text(encoding="utf-8")
    before, after = text[: text.index(start) + len(start)], text[text.index(end) :]
    write_text(
        REPORT, f"{before}\n" + "\n".join(lines) + f"\n\n{platform.machine()}, torch {torch.__version__}\n{after}"
    )


if __name__ == "__main__":
    main(tyro.cli(Benchmark, config=(tyro.conf.OmitArgPrefixes,)))
