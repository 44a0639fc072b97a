"""Recipes against swapped captions on Flickr8k, as Table 2: frozen EfficientNet-Lite0, 500 words, tested on `dev.txt`.

    python benchmarks/flickr8k.py --data FLICKR8K --work WORK        (about two hours on 2 cores; resumes)

FLICKR8K holds images/, captions.csv, train.txt and dev.txt. A validation part is cut from `train.txt` and corrupted
like the rest of it; `dev.txt` is scored once, at the end. Expected: see flickr8k.md, which this script writes.
"""

import csv
import itertools
import json
import platform
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from truetag.data.corruption import corrupt
from truetag.data.imports import import_captions
from truetag.data.labels import label_matrix
from truetag.data.manifest import read_manifest
from truetag.data.splits import split
from truetag.data.vocabulary import make_vocabulary
from truetag.evaluate import evaluate
from truetag.evaluation.significance import PairedDifference, paired_bootstrap
from truetag.prediction.inference import predict_manifest
from truetag.runs.folder import open_run, versions
from truetag.training.recipes import recipe
from truetag.training.train import train

# a recipe and what it is compared with; the baselines come first, for the others take over their stage 1
BASELINES = {
    "mlcn-star": None,
    "nmn-fi": "mlcn-star",
    "nmn-fd": "mlcn-star",
    "mil-star": None,
    "mil-nmn-fi": "mil-star",
    "mil-nmn-fd": "mil-star",
}
DIFFERENCES = [
    ("nmn-fi", "mlcn-star"),
    ("nmn-fd", "mlcn-star"),
    ("mil-star", "mlcn-star"),
    ("mil-nmn-fi", "mil-star"),
    ("mil-nmn-fd", "mil-star"),
    ("mil-nmn-fi", "nmn-fi"),
    ("mil-nmn-fd", "nmn-fd"),
]
VALIDATION_FRACTION = 0.03
NUM_RESAMPLES = 100
REPORT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Benchmark:
    """Where the photos are, where to work, and what to run."""

    data: Path
    work: Path
    out: Path = REPORT
    levels: tuple[int, ...] = (0, 1, 2, 3, 4)
    seeds: tuple[int, ...] = (0, 1, 2)
    report: bool = True
    """Write the report at the end; without it, several processes can share the levels."""


def main(benchmark: Benchmark) -> None:
    clean, vocabulary = prepare(benchmark.data, benchmark.work)
    for level in benchmark.levels:
        for seed in benchmark.seeds:
            run_recipes(benchmark, clean, vocabulary, level, seed)
    if benchmark.report:
        write_report(benchmark, clean)


def prepare(data: Path, work: Path) -> tuple[Path, Path]:
    """The manifest of all photos with their own captions, split, and its vocabulary."""
    imported, clean, vocabulary = (work / name for name in ("all.jsonl", "clean.jsonl", "vocabulary.tsv"))
    if not vocabulary.exists():
        import_captions(data / "captions.csv", data / "images", imported)
        lists = {"train": data / "train.txt", "test": data / "dev.txt"}
        split(imported, clean, lists=lists, validation_fraction=VALIDATION_FRACTION)
        make_vocabulary(clean, vocabulary, size=500)
    return clean, vocabulary


def run_recipes(benchmark: Benchmark, clean: Path, vocabulary: Path, level: int, seed: int) -> None:
    manifest = clean
    if level:
        manifest = benchmark.work / f"swap{level}-seed{seed}.jsonl"
        if not manifest.exists():
            corrupt(clean, manifest, swap_captions=level, vocabulary=vocabulary, seed=seed)
    for name, baseline in BASELINES.items():
        folder = run_folder(benchmark, level, seed, name)
        if (folder / "scores.npy").exists():
            continue
        config = replace(recipe(name), weights="offline", freeze_backbone=True, seed=seed)
        start_from = None if baseline is None else run_folder(benchmark, level, seed, baseline)
        started = time.monotonic()
        run = train(config, manifest, vocabulary, folder, start_from)
        (folder / "seconds.json").write_text(json.dumps(time.monotonic() - started))
        metrics = evaluate(folder, clean)
        logits = predict_manifest(run, read_manifest(clean), "test").logits
        np.save(folder / "scores.npy", logits.numpy())
        print(f"level {level} seed {seed} {name}: {metrics['mean_ap']:.4f} {metrics['count_mean_ap']:.4f}", flush=True)


def run_folder(benchmark: Benchmark, level: int, seed: int, name: str) -> Path:
    return benchmark.work / f"swap{level}" / f"seed{seed}" / name


def seeds_of(benchmark: Benchmark, level: int) -> list[int]:
    """The seeds whose recipes are all done."""
    return [
        seed
        for seed in benchmark.seeds
        if all((run_folder(benchmark, level, seed, name) / "scores.npy").exists() for name in BASELINES)
    ]


def write_report(benchmark: Benchmark, clean: Path) -> None:
    metrics = {
        (level, name): [
            json.loads((run_folder(benchmark, level, seed, name) / "metrics" / "clean-test.json").read_text())
            for seed in seeds_of(benchmark, level)
        ]
        for level in benchmark.levels
        for name in BASELINES
    }
    pairs = list(itertools.product(benchmark.levels, DIFFERENCES))
    with ThreadPoolExecutor() as pool:  # start with OMP_NUM_THREADS=1: many small sums are slower on two threads each
        differences = dict(
            zip(pairs, pool.map(lambda pair: compare(benchmark, clean, pair[0], *pair[1]), pairs), strict=True)
        )
    with benchmark.out.with_suffix(".csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["swapped", "recipe", "seed", "mean_ap", "count_mean_ap", "of1", "cf1", "ece", "seconds"])
        for (level, name), rows in metrics.items():
            for seed, row in zip(seeds_of(benchmark, level), rows, strict=True):
                seconds = json.loads((run_folder(benchmark, level, seed, name) / "seconds.json").read_text())
                scores = [round(row[key], 5) for key in ("mean_ap", "count_mean_ap", "of1", "cf1", "ece")]
                table.writerow([level, name, seed, *scores, round(seconds, 1)])
    benchmark.out.write_text(format_report(benchmark, metrics, differences))
    print(benchmark.out.read_text())


def compare(benchmark: Benchmark, clean: Path, level: int, name: str, baseline: str) -> PairedDifference:
    """Paired bootstrap over the test photos of mean AP, `name` minus the baseline, both averaged over seeds."""
    run = open_run(run_folder(benchmark, level, seeds_of(benchmark, level)[0], name))
    labels = label_matrix(read_manifest(clean).in_split("test"), run.vocabulary, "captions")
    ours, theirs = (
        [np.load(run_folder(benchmark, level, seed, recipe_name) / "scores.npy") for seed in seeds_of(benchmark, level)]
        for recipe_name in (name, baseline)
    )
    generator = torch.Generator().manual_seed(0)
    return paired_bootstrap(ours, theirs, labels, num_resamples=NUM_RESAMPLES, generator=generator)


def format_report(benchmark: Benchmark, metrics: dict, differences: dict) -> str:
    levels = benchmark.levels
    num_seeds = ", ".join(f"{level}: {len(seeds_of(benchmark, level))}" for level in levels)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Recipes against swapped captions, Flickr8k (as Table 2)",
        "",
        f"`python benchmarks/flickr8k.py --data FLICKR8K --work WORK`, commit {commit}, {platform.machine()} with "
        f"{torch.get_num_threads()} threads, "
        + ", ".join(f"{name} {version}" for name, version in versions().items() if name in ("torch", "timm"))
        + f". Seeds (of corruption, order, dropout) by captions swapped: {num_seeds}. Head on frozen "
        "EfficientNet-Lite0 features (the offline wheel; `mil`: noisy-OR over its 7x7 map), 500 most frequent words "
        "of the training captions; "
        f"{VALIDATION_FRACTION:.0%} of `train.txt` held out, as noisy as the rest, to choose the epoch. Tested on the "
        "1,000 photos of `dev.txt` with their own captions. In percent, mean ± standard deviation over seeds.",
    ]
    for title, key in (("Mean AP", "mean_ap"), ("Mean count-AP (Fang et al. 2015)", "count_mean_ap")):
        lines += ["", f"## {title}", "", "| captions swapped of 5 | " + " | ".join(map(str, levels)) + " |"]
        lines.append("|---" * (len(levels) + 1) + "|")
        for name in BASELINES:
            cells = [spread([row[key] for row in metrics[level, name]]) for level in levels]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## Differences of mean AP", ""]
    lines += ["| captions swapped of 5 | " + " | ".join(map(str, levels)) + " |", "|---" * (len(levels) + 1) + "|"]
    for name, baseline in DIFFERENCES:
        cells = [interval(differences[level, (name, baseline)]) for level in levels]
        lines.append(f"| {name} − {baseline} [95 %] | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The interval is a paired bootstrap over test photos "
        f"({NUM_RESAMPLES} resamples), of the difference of the means over seeds.",
        "",
        "## By part of speech (count-AP, as in the paper), and all words with MIL",
        "",
    ]
    parts = metrics[levels[0], "mlcn-star"][0]["by_pos"]
    named = " | ".join(f"{part} ({value['count']})" for part, value in parts.items())
    lines += [f"| swapped | recipe | {named} | all | all, MIL |", "|---" * (len(parts) + 4) + "|"]
    for level in levels:
        for name, with_mil in (("mlcn-star", "mil-star"), ("nmn-fi", "mil-nmn-fi"), ("nmn-fd", "mil-nmn-fd")):
            rows = metrics[level, name]
            cells = [spread([row["by_pos"][part]["count_mean_ap"] for row in rows]) for part in parts]
            cells += [spread([row["count_mean_ap"] for row in metrics[level, which]]) for which in (name, with_mil)]
            lines.append(f"| {level} | {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Other scores (mean over seeds)",
        "",
        "| swapped | recipe | AP of p(z\\|I) | OF1 | CF1 | calibration error | "
        "missing rate | incorrect rate | seconds |",
        "|---" * 9 + "|",
    ]
    for level in levels:
        for name in BASELINES:
            rows = metrics[level, name]
            observed = spread([row["observed"]["mean_ap"] for row in rows]) if "observed" in rows[0] else "–"
            scores = [f"{100 * statistics.mean(row[key] for row in rows):.2f}" for key in ("of1", "cf1", "ece")]
            rates = ["–", "–"]
            if "noise" in rows[0]:
                rates = [
                    f"{100 * statistics.mean(statistics.mean(row['noise'][key].values()) for row in rows):.1f}"
                    for key in ("missing_rate", "incorrect_rate")
                ]
            seconds = statistics.mean(
                json.loads((run_folder(benchmark, level, seed, name) / "seconds.json").read_text())
                for seed in seeds_of(benchmark, level)
            )
            lines.append(f"| {level} | {name} | {observed} | " + " | ".join([*scores, *rates, f"{seconds:.0f}"]) + " |")
    lines.append(
        "\nSeconds are of a whole `train` call; recipes with a noise model take stage 1 over from their baseline "
        "(`--from`)."
    )
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def interval(difference: PairedDifference) -> str:
    return f"{100 * difference.difference:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
