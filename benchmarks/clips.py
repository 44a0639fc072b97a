"""Recipes on clips, as Table 3: frame level and video MIL, each without and with a noise model, on made clips.

    python benchmarks/make_clips.py --flickr8k FLICKR8K --out CLIPS
    python benchmarks/clips.py --data CLIPS --work WORK              (about an hour on 2 cores; resumes)

A word of a clip holds in part of its frames only: of the photos that follow one another in it. Expected: see clips.md,
which this script writes.
"""

import json
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from truetag.data.corruption import corrupt
from truetag.data.imports import ImportOptions, import_msrvtt
from truetag.data.vocabulary import make_vocabulary
from truetag.evaluate import evaluate
from truetag.runs.config import Level, TrainConfig
from truetag.runs.folder import versions
from truetag.training.recipes import recipe
from truetag.training.train import train

# level, recipe and the recipe whose stage 1 is taken over
ROWS: list[tuple[Level, str, str | None]] = [
    ("frame", "mlcn-star", None),
    ("frame", "nmn-fi", "mlcn-star"),
    ("frame", "nmn-fd", "mlcn-star"),
    ("bag", "mlcn-star", None),
    ("bag", "mil-star", None),
    ("bag", "mil-nmn-fi", "mil-star"),
    ("bag", "mil-nmn-fd", "mil-star"),
]
PARTS = ("VB", "NN", "JJ", "DT", "PRP", "IN", "Others")
REPORT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Benchmark:
    """Where the clips are, where to work, and what to run."""

    data: Path
    work: Path
    num_words: int = 300
    resolution: int = 128
    """Frames are small, so that all of their regions fit on a small machine."""
    num_frames: int = 13
    levels: tuple[int, ...] = (0, 6)
    """Captions swapped, of the ten or fifteen of a clip."""
    seeds: tuple[int, ...] = (0, 1)
    stage1_epochs: int = 10
    stage2_epochs: int = 4
    report: bool = True


def main(benchmark: Benchmark) -> None:
    clean, vocabulary = benchmark.work / "clean.jsonl", benchmark.work / "vocabulary.tsv"
    if not vocabulary.exists():
        annotations, options = benchmark.data / "train_val_videodatainfo.json", ImportOptions(overwrite=True)
        import_msrvtt(annotations, benchmark.data / "clips", clean, options=options)
        make_vocabulary(clean, vocabulary, size=benchmark.num_words)
    metrics: dict[tuple[int, Level, str], list[dict[str, Any]]] = {}
    for swapped in benchmark.levels:
        for seed in benchmark.seeds:
            manifest = clean
            if swapped:
                manifest = benchmark.work / f"swap{swapped}-seed{seed}.jsonl"
                if not manifest.exists():
                    corrupt(clean, manifest, swap_captions=swapped, vocabulary=vocabulary, seed=seed)
            for level, name, baseline in ROWS:
                folders = benchmark.work / f"swap{swapped}-seed{seed}-{level}"
                config = replace(_settings(benchmark, name), level=level, seed=seed)
                start_from = None if baseline is None else folders / baseline
                started = time.monotonic()
                train(config, manifest, vocabulary, folders / name, start_from, resume=True)
                kept = folders / name / "metrics" / "clean-test.json"
                result = json.loads(kept.read_text()) if kept.exists() else evaluate(folders / name, clean)
                metrics.setdefault((swapped, level, name), []).append(result)
                seconds = time.monotonic() - started
                print(f"{swapped} swapped, seed {seed}, {level}, {name}: {result['mean_ap']:.4f} ({seconds:.0f} s)")
    if benchmark.report:
        REPORT.write_text(_report(benchmark, metrics))
        print(REPORT.read_text())


def _settings(benchmark: Benchmark, name: str) -> TrainConfig:
    return replace(
        recipe(name),
        weights="offline",
        freeze_backbone=True,
        resolution=benchmark.resolution,
        num_frames=benchmark.num_frames,
        batch_size=16,
        stage1_epochs=benchmark.stage1_epochs,
        stage2_epochs=benchmark.stage2_epochs,
    )


def _report(benchmark: Benchmark, metrics: dict[tuple[int, Level, str], list[dict[str, Any]]]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    sizes = [len(rows) for rows in metrics.values()]
    lines = [
        "# Recipes on clips (as Table 3)",
        "",
        f"`python benchmarks/clips.py --data CLIPS --work WORK`, commit {commit}, {platform.machine()} with "
        f"{torch.get_num_threads()} threads, "
        + ", ".join(f"{name} {version}" for name, version in versions().items() if name in ("torch", "timm"))
        + f". {min(sizes)} seeds. Clips made of Flickr8k photos (`make_clips.py`: 600 for training, 100 to choose the "
        "epoch, 200 for the test, two or three photos each, their captions together), "
        f"{benchmark.num_frames} frames of {benchmark.resolution} x {benchmark.resolution}, head on frozen "
        f"EfficientNet-Lite0 features, {benchmark.num_words} most frequent words, "
        f"{benchmark.stage1_epochs} + {benchmark.stage2_epochs} epochs. Frame level: the clip's words on every frame, "
        "the largest probability over frames at the test. Video: one bag of all regions of all frames. In percent, "
        "mean ± standard deviation over seeds.",
        "",
        "| captions swapped | level | recipe | " + " | ".join(PARTS) + " | all (count-AP) | all (AP) |",
        "|---" * (len(PARTS) + 5) + "|",
    ]
    for (swapped, level, name), rows in metrics.items():
        cells = [_spread([row["by_pos"][part]["count_mean_ap"] for row in rows]) for part in PARTS]
        cells += [_spread([row[key] for row in rows]) for key in ("count_mean_ap", "mean_ap")]
        what = "frame" if level == "frame" else "video, mean" if name == "mlcn-star" else "video, MIL"
        lines.append(f"| {swapped} | {what} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
