"""`truetag demo`: embedded data from drawing to report, through the same functions that real data takes.

The tags are drawn at random from the exact truth, so what truetag says of them can be checked: a true tag is lost with
one probability, and each word has its own probability of being added where it does not hold. A small network learns to
see from some of the photos. On its frozen features of the others, heads learn the same tags in different ways.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from truetag import __version__
from truetag.data.corruption import flip_labels, label_rates
from truetag.data.labels import label_matrix
from truetag.data.manifest import Manifest, Row, iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from truetag.demo.scenes import WORDS, draw_scenes
from truetag.evaluate import evaluate
from truetag.io.pages import write_page
from truetag.io.tensors import write_tensors
from truetag.io.terminal import tell
from truetag.label_noise.relabelling import posterior_labels
from truetag.label_noise.settings import HeadSettings
from truetag.media.data_urls import inline_photo
from truetag.media.files import Reading
from truetag.prediction.inference import predict_manifest
from truetag.reports.corrections import Corrections, correct_tags
from truetag.runs.config import TrainConfig
from truetag.runs.folder import Run
from truetag.runs.paths import require_new_folder
from truetag.training.recipes import recipe
from truetag.training.train import train
from truetag.truth import Metrics

MISSING_RATE = 0.3
LEAST_INCORRECT_RATE, MOST_INCORRECT_RATE = 0.02, 0.18
NUM_CARDS = 12
FUNCTION_WORDS = ("DT", "PRP", "IN", "Others")
"""Parts of speech that the cards leave out: nobody tags a photo with "in" or "his"."""

NETWORK: dict[str, Any] = {
    "backbone": "test_resnet",  # small enough to be trained from scratch: no weights to fetch
    "weights": "none",
    "resolution": 64,
    "standardise": False,
    "dropout": 0.2,
    "learning_rate": 6e-3,
    "backbone_learning_rate": 1.0,
    "weight_decay": 0.05,
    "batch_size": 32,
    "stage1_epochs": 5,
}
"""How the network learns to see."""


@dataclass(frozen=True)
class Method:
    """A row of the table: its title, the recipe, the settings that differ from it, and whether it learns exact tags."""

    title: str
    recipe: str
    settings: dict[str, Any]
    learns_truth: bool = False


BASELINE, BEST = "baseline", "best"
METHODS = {
    BASELINE: Method("Plain training", "mlcn-star", {}),
    "nmn-fi": Method("Paper's noise model", "nmn-fi", {}),
    BEST: Method("truetag", "best", {}),
    "exact": Method("Exact tags", "mlcn-star", {}, learns_truth=True),
}
"""The last one alone is trained on the truth, and shows how far the others are from it."""


@dataclass(frozen=True)
class Column:
    """A score of the table: what it is about, and how it is read."""

    title: str
    unit: str


COLUMNS = {
    "mean_ap": Column("Ranking", "mAP ↑"),
    "of1": Column("Decisions", "F1 ↑"),
    "ece": Column("Calibration", "error ↓"),
}
"""By their names in the metrics file."""

GAIN = "truetag's gain"
JUDGES = HeadSettings(stage1_epochs=15, stage2_epochs=0)
"""The heads that judge the tags of photos that they did not see."""


def demo(out: Path, num_train: int = 1500, num_test: int = 800, seed: int = 0) -> None:
    """Draw photos with noisy tags, learn from them with and without a noise model, and write a page that compares both.

    Args:
        out: a new folder for the data, the runs and `index.html`.
        num_train: photos to learn from; the network has twice as many others to learn to see, and a sixth as many
            choose the epoch.
        num_test: photos to score on, against the exact truth.
        seed: decides the drawings, the tags and the training.
    """
    require_new_folder(out)
    started = time.monotonic()
    words = out / "vocabulary.tsv"
    out.mkdir(parents=True, exist_ok=True)
    write_vocabulary(words, Vocabulary(tuple(WORDS), tuple(WORDS.values()), (0,) * len(WORDS)))
    num_validation = max(num_train // 6, 1)
    tell("drawing photos")
    # the network's own photos: what it has seen of their tags says nothing of the tags of the others
    counts = {"photos": (num_train, num_test, 2 * seed), "seeing": (2 * num_train, 0, 2 * seed + 1)}
    for name, (train_count, test_count, of) in counts.items():
        scenes = draw_scenes(out / "scenes" / name, train_count, num_validation, test_count, seed=of)
        write_tagged(out, name, scenes, words, seed=of)
    weights = _learn_to_see(out, words, seed)
    runs = _train_heads(out, words, weights, seed)
    metrics = {
        name: evaluate(run.folder, out / "photos.jsonl", truth="true", reading=Reading(out / "cache"))
        for name, run in runs.items()
    }
    _report(out, runs, metrics, started, seed)


def write_tagged(out: Path, name: str, scenes: Path, words: Path, seed: int) -> None:
    """Write `out`/NAME.jsonl, in which training and validation photos have noisy tags, and NAME-exact.jsonl.

    Args:
        out: the folder of the manifests.
        name: of the manifests.
        scenes: the manifest of the drawn scenes.
        words: the vocabulary.
        seed: of the mistakes.
    """
    vocabulary = read_vocabulary(words)
    drawn = list(iterate_rows(scenes))
    true = label_matrix(read_manifest(scenes).rows, vocabulary, "true")
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(len(vocabulary), generator=generator)
    incorrect_rate = LEAST_INCORRECT_RATE + spread * (MOST_INCORRECT_RATE - LEAST_INCORRECT_RATE)
    observed = flip_labels(true, MISSING_RATE, incorrect_rate, generator)

    def tagged(labels: Int8[Tensor, "N K"]) -> Iterator[Row]:
        for row, noisy, exact in zip(drawn, labels, true, strict=True):
            is_test = row["split"] == "test"
            yield {
                "id": row["id"],
                "image": row["image"],
                "split": row["split"],
                "tags": _named(vocabulary, exact if is_test else noisy),
                "true_tags": row["true_tags"],
            }

    header = {"media_root": str(scenes.parent.relative_to(out))}
    write_manifest(out / f"{name}.jsonl", tagged(observed), header)
    write_manifest(out / f"{name}-exact.jsonl", tagged(true), header)


def _named(vocabulary: Vocabulary, labels: Int8[Tensor, "K"]) -> list[str]:
    return [word for word, label in zip(vocabulary.words, labels.tolist(), strict=True) if label == 1]


def _learn_to_see(out: Path, words: Path, seed: int) -> Path:
    """Train the small network on the noisy tags of its own photos and keep its backbone: the weights of every row."""
    config = replace(recipe("mlcn"), seed=seed, **NETWORK)
    run = train(config, out / "seeing.jsonl", words, out / "network", reading=Reading(out / "cache"))
    state = run.load_state("classifier")
    path = out / "backbone.safetensors"
    start = "backbone."
    write_tensors(path, {name.removeprefix(start): state[name] for name in state if name.startswith(start)})
    return path


def _train_heads(out: Path, words: Path, weights: Path, seed: int) -> dict[str, Run]:
    """One run per row, all on the same frozen features."""
    runs: dict[str, Run] = {}
    for name, method in METHODS.items():
        config = head_config(method, weights, seed)
        manifest = out / ("photos-exact.jsonl" if method.learns_truth else "photos.jsonl")
        start_from = out / BASELINE if method.recipe == "nmn-fi" else None
        runs[name] = train(config, manifest, words, out / name, start_from, reading=Reading(out / "cache"))
    return runs


def head_config(method: Method, weights: Path, seed: int) -> TrainConfig:
    """A recipe on the small network's features."""
    return replace(
        recipe(method.recipe),
        **{name: NETWORK[name] for name in ("backbone", "resolution")},
        weights=str(weights),
        freeze_backbone=True,
        seed=seed,
        **method.settings,
    )


@dataclass(frozen=True)
class _Tags:
    """The training photos' tags, observed and true, and what heads that did not see a photo say of its tags."""

    observed: Int8[Tensor, "N K"]
    true: Int8[Tensor, "N K"]
    posterior: Float[Tensor, "N K"]
    rates: dict[str, Float[Tensor, "K"]]


def _judge_tags(out: Path, manifest: Manifest, run: Run, seed: int) -> _Tags:
    """p(y=1|z,I) of every training tag and the rates of mistakes, both out of sample and from noisy tags alone."""
    rows = manifest.in_split("train")
    observed, true = (label_matrix(rows, run.vocabulary, source) for source in ("observed", "true"))
    features = predict_manifest(run, manifest, "train", Reading(out / "cache")).features
    posterior = posterior_labels(features, observed, JUDGES, seed=seed)
    rates = {"missing": posterior.calibration.missing, "incorrect": posterior.calibration.incorrect}
    return _Tags(observed, true, posterior.labels, rates)


def _report(out: Path, runs: dict[str, Run], metrics: dict[str, Metrics], started: float, seed: int) -> None:
    manifest = read_manifest(out / "photos.jsonl")
    vocabulary = runs[BEST].vocabulary
    tags = _judge_tags(out, manifest, runs[BEST], seed)
    shown = torch.tensor([part not in FUNCTION_WORDS for part in vocabulary.parts_of_speech])
    corrections = correct_tags(vocabulary.words, tags.observed, tags.true, tags.posterior, shown)
    training = manifest.in_split("train")
    num_cards = min(NUM_CARDS, len(training))
    pictures = [inline_photo(manifest.media_root / path) for path in training["image"][:num_cards]]
    rows = [
        {"name": name, "title": method.title, "recipe": method.recipe}
        | {column: metrics[name][column] for column in COLUMNS}
        for name, method in METHODS.items()
    ]
    gain = {column: metrics[BEST][column] - metrics[BASELINE][column] for column in COLUMNS}
    page = out / "index.html"
    write_page(
        page,
        "truetag.reports",
        "demo.html",
        rows=rows,
        gain=gain,
        columns=COLUMNS,
        overall=_overall(tags),
        rates={kind: _dots(vocabulary, tags, kind) for kind in tags.rates},
        mean_rates={kind: _mean_rates(_dots(vocabulary, tags, kind)) for kind in tags.rates},
        cards=list(zip(pictures, corrections.photos, strict=False)),
        corrections=corrections,
        num_train=len(training),
        num_test=metrics[BEST]["num_examples"],
        version=__version__,
        seconds=round(time.monotonic() - started),
    )
    print(_table(rows, gain, corrections))
    print(f"\nThe page with all of it ({time.monotonic() - started:.0f} s): {page}")


def _dots(vocabulary: Vocabulary, tags: _Tags, kind: str) -> list[dict[str, Any]]:
    """Of each word: the realised and the estimated rate of one kind of mistake, and how often it is true."""
    missing, incorrect = label_rates(tags.true, tags.observed)
    realised = missing if kind == "missing" else incorrect
    columns = (realised.tolist(), tags.rates[kind].tolist(), (tags.true == 1).sum(0).tolist())
    return [
        {"word": word, "realised": there, "estimated": estimated, "count": count}
        for word, there, estimated, count in zip(vocabulary.words, *columns, strict=True)
        if not math.isnan(there)  # a word that is true of no photo is never missing
    ]


def _mean_rates(dots: list[dict[str, Any]]) -> dict[str, float]:
    """Means over words."""
    return {name: sum(dot[name] for dot in dots) / max(len(dots), 1) for name in ("realised", "estimated")}


def _overall(tags: _Tags) -> dict[str, float]:
    """Over all training photos: the share of true tags that is missing, and that of the tags there that is wrong."""
    present, true = tags.observed == 1, tags.true == 1
    return {
        "missing": ((true & ~present).sum() / true.sum()).item(),
        "wrong": ((present & ~true).sum() / present.sum()).item(),
    }


def _table(rows: list[dict[str, Any]], gain: dict[str, float], corrections: Corrections) -> str:
    """What is printed, in percent."""
    width = max(len(row["title"]) for row in rows) + 2
    lines = [" " * width + "".join(f"{column.title:>14}" for column in COLUMNS.values())]
    lines.append(" " * width + "".join(f"{column.unit:>14}" for column in COLUMNS.values()))
    lines += [f"{row['title']:{width}}" + "".join(f"{100 * row[name]:14.1f}" for name in COLUMNS) for row in rows]
    lines.append(f"{GAIN:{width}}" + "".join(f"{100 * gain[name]:+14.1f}" for name in COLUMNS))
    lines.append(
        f"\nOf {corrections.num_removed} tags that truetag takes away {100 * corrections.removed_right:.1f} % were "
        f"wrong; of {corrections.num_added} that it adds {100 * corrections.added_right:.1f} % are true."
    )
    return "\n".join(lines)
