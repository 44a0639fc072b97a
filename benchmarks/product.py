"""Recipes of `truetag train` on Flickr8k, through files: what a reader who types the commands gets.

The photos are imported once; 3 % of `train.txt` are held out, as noisy as the rest, to choose the epoch; captions are
swapped by `truetag corrupt`; `dev.txt` is scored with its own captions.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from truetag.data.corruption import corrupt
from truetag.data.imports import ImportOptions, import_captions
from truetag.data.manifest import read_manifest
from truetag.data.splits import split
from truetag.data.vocabulary import make_vocabulary
from truetag.evaluate import evaluate
from truetag.prediction.inference import predict_manifest
from truetag.runs.folder import open_run
from truetag.runs.paths import is_run
from truetag.training.recipes import recipe
from truetag.training.train import train

RECIPES = ("best", "mlcn-star", "nmn-fi", "nmn-fd", "mil-star", "mil-nmn-fi", "mil-nmn-fd")
VALIDATION_FRACTION = 0.03
NUM_WORDS = 500


def prepare(flickr8k: Path, work: Path) -> tuple[Path, Path]:
    """The manifest of all photos with their own captions, split, and its vocabulary.

    Args:
        flickr8k: holds images/, captions.csv, train.txt and dev.txt.
        work: where to.

    Returns:
        The manifest, and the vocabulary.
    """
    imported, clean, vocabulary = (work / name for name in ("all.jsonl", "clean.jsonl", "vocabulary.tsv"))
    if not vocabulary.exists():
        options = ImportOptions(overwrite=True)  # of what a run that was stopped left
        import_captions(flickr8k / "captions.csv", flickr8k / "images", imported, options=options)
        lists = {"train": flickr8k / "train.txt", "test": flickr8k / "dev.txt"}
        split(imported, clean, lists=lists, validation_fraction=VALIDATION_FRACTION, overwrite=True)
        make_vocabulary(clean, vocabulary, size=NUM_WORDS)
    return clean, vocabulary


def swapped_manifest(work: Path, num_swapped: int, seed: int) -> Path:
    """The manifest with so many captions of each photo swapped."""
    if not num_swapped:
        return work / "clean.jsonl"
    manifest = work / f"swap{num_swapped}-seed{seed}.jsonl"
    if not manifest.exists():
        corrupt(
            work / "clean.jsonl", manifest, swap_captions=num_swapped, vocabulary=work / "vocabulary.tsv", seed=seed
        )
    return manifest


def train_recipe(work: Path, name: str, num_swapped: int, seed: int) -> tuple[Float[np.ndarray, "N K"], dict[str, Any]]:
    """Train a recipe and score it on `dev.txt`.

    Args:
        work: holds the manifests and the runs.
        name: of the recipe.
        num_swapped: captions of five that are swapped.
        seed: of the corruption and of training.

    Returns:
        The logits of the test photos, and the metrics.
    """
    out = work / "runs" / f"swap{num_swapped}-seed{seed}" / name
    config = replace(recipe(name), weights="offline", freeze_backbone=True, seed=seed)
    manifest = swapped_manifest(work, num_swapped, seed)
    if not (is_run(out) and open_run(out).is_finished):
        train(config, manifest, work / "vocabulary.tsv", out, resume=True)
    metrics = evaluate(out, work / "clean.jsonl", truth="captions")
    prediction = predict_manifest(open_run(out), read_manifest(work / "clean.jsonl"), "test")
    return prediction.logits.numpy(), metrics
