"""`truetag demo`: embedded data from drawing to report, through the same commands that real data takes."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truetag import __version__
from truetag.data.corruption import corrupt, label_rates
from truetag.data.labels import label_matrix
from truetag.data.manifest import Manifest, read_manifest
from truetag.data.vocabulary import Vocabulary, build_vocabulary, write_vocabulary
from truetag.demo.scenes import WORDS, draw_scenes
from truetag.evaluate import Metrics, evaluate
from truetag.reports.figures import plot_rates
from truetag.reports.page import inline_figure, write_page
from truetag.reports.tagged_photos import tag_photos
from truetag.runs.folder import Run, require_new_folder
from truetag.training.recipes import recipe
from truetag.training.train import train

DEMO_RECIPES = ("mlcn-star", "nmn-fi", "nmn-fd")
NUM_SWAPPED, NUM_CAPTIONS = 2, 5
NUM_EXAMPLES = 12
_SHOWN = (DEMO_RECIPES[0], DEMO_RECIPES[-1])
_SETTINGS: dict[str, Any] = {
    # a small network from scratch, all of it trained: no weights to fetch
    "backbone": "test_resnet",
    "weights": "none",
    "resolution": 64,
    "standardise": False,
    "dropout": 0.2,
    "backbone_learning_rate": 1.0,
    "weight_decay": 0.05,
    "learning_rate": 6e-3,
    "stage2_learning_rate": 2e-3,
    "batch_size": 32,
    "stage2_epochs": 3,
    # few steps: the rates must move faster than on real data
    "noise_learning_rate": 3e-2,
    "stage1_epochs": 8,
}


def demo(out: Path, num_train: int = 2000, num_test: int = 800, seed: int = 0) -> None:
    """Draw photos with noisy captions, train with and without a noise model, and write a page that compares them.

    Args:
        out: a new folder for the data, the runs and `index.html`.
        num_train: photos to learn from; an eighth as many more choose the epoch.
        num_test: photos to score on, against the exact truth.
        seed: decides the drawings, the captions and the training.
    """
    require_new_folder(out)
    started = time.monotonic()
    clean = draw_scenes(out / "scenes", num_train, num_train // 8, num_test, seed=seed)
    manifest, words = out / "corrupted.jsonl", out / "vocabulary.tsv"
    corrupt(clean, manifest, swap_captions=NUM_SWAPPED, seed=seed)
    write_vocabulary(words, _vocabulary(read_manifest(clean)))
    runs: dict[str, Run] = {}
    for name in DEMO_RECIPES:
        config = replace(recipe(name), seed=seed, **_SETTINGS)
        start_from = out / DEMO_RECIPES[0] if runs else None
        runs[name] = train(config, manifest, words, out / name, start_from)
    metrics = {name: evaluate(run.folder, manifest, truth="true") for name, run in runs.items()}
    _report(out, read_manifest(manifest), runs, metrics, started)


def _vocabulary(manifest: Manifest) -> Vocabulary:
    """The words that the scenes are drawn from, with their parts of speech, by frequency in the training captions."""
    counted = build_vocabulary(manifest.in_split("train"), size=10_000)
    kept = [
        (word, WORDS[word], count) for word, count in zip(counted.words, counted.counts, strict=True) if word in WORDS
    ]
    return Vocabulary(*zip(*kept, strict=True))


def _report(out: Path, manifest: Manifest, runs: dict[str, Run], metrics: dict[str, Metrics], started: float) -> None:
    vocabulary = runs[DEMO_RECIPES[0]].vocabulary
    training = manifest.in_split("train")
    truth = label_matrix(training, vocabulary, "true")
    observed = label_matrix(training, vocabulary, "observed")
    missing, incorrect = label_rates(truth, observed)
    realised = {
        "missing": ((truth == 1) & (observed == 0)).sum().item() / (truth == 1).sum().item(),
        "incorrect": ((truth == 0) & (observed == 1)).sum().item() / (truth == 0).sum().item(),
    }
    rows = [_row(name, metrics[name], truth) for name in runs]
    best = max(row["metrics"]["mean_ap"] for row in rows)
    for row in rows:
        row["best"] = row["metrics"]["mean_ap"] == best
    learnt = metrics["nmn-fi"]["noise"]
    figure = plot_rates(
        {"missing": missing.tolist(), "incorrect": incorrect.tolist()},
        {kind: [learnt[f"{kind}_rate"][word] for word in vocabulary.words] for kind in realised},
        (truth == 1).sum(0).double().tolist(),
    )
    testing = manifest.in_split("test")
    examples = replace(manifest, rows=testing.select(range(min(NUM_EXAMPLES, len(testing)))))
    write_page(
        out / "index.html",
        "demo.html",
        rows=rows,
        parts=list(rows[0]["metrics"]["by_pos"]),
        realised=realised,
        rates_figure=inline_figure(figure),
        photos=tag_photos(examples, {name: runs[name] for name in _SHOWN}, "true", threshold=0.5),
        num_train=len(training),
        num_test=metrics[DEMO_RECIPES[0]]["num_examples"],
        num_swapped=NUM_SWAPPED,
        num_captions=NUM_CAPTIONS,
        version=__version__,
        seconds=round(time.monotonic() - started),
    )
    print(_table(rows, realised))
    seconds = time.monotonic() - started
    print(f"\n{out / 'index.html'} shows the rates of each word and photos with their tags ({seconds:.0f} s)")


def _row(name: str, metrics: Metrics, truth: Tensor) -> dict[str, Any]:
    """One line of the table; mean learnt rates weigh words as the realised ones do, by their true tags."""
    row: dict[str, Any] = {"recipe": name, "metrics": metrics, "missing": None, "incorrect": None}
    if "noise" in metrics:
        for kind, value in (("missing", 1), ("incorrect", 0)):
            rates = torch.tensor(list(metrics["noise"][f"{kind}_rate"].values()), dtype=torch.float64)
            weights = (truth == value).sum(0).double()
            row[kind] = (rates * weights / weights.sum()).sum().item()
    return row


def _table(rows: list[dict[str, Any]], realised: dict[str, float]) -> str:
    """What is printed: scores and rates in percent."""
    lines = [f"{'recipe':12}{'mAP':>7}{'OF1':>7}{'CF1':>7}{'ECE':>7}{'missing':>10}{'incorrect':>11}"]
    for row in rows:
        scores = "".join(f"{100 * row['metrics'][name]:7.1f}" for name in ("mean_ap", "of1", "cf1", "ece"))
        rates = "".join(
            f"{'-':>{width}}" if row[kind] is None else f"{100 * row[kind]:{width}.1f}"
            for kind, width in (("missing", 10), ("incorrect", 11))
        )
        lines.append(f"{row['recipe']:12}{scores}{rates}")
    lines.append(f"{'realised':40}{100 * realised['missing']:10.1f}{100 * realised['incorrect']:11.1f}")
    return "\n".join(lines)
