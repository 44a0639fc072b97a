"""Data and corruptions that methods are compared on: features, true labels, and the labels that a method may see.

`flickr8k`: 500 words of captions, and captions may belong to other photos. `scenes`: drawn photos whose truth is exact.
`shop`: products whose tags are words of the sellers' names, with the shop's own attributes as the truth. All are
features of the frozen offline EfficientNet-Lite0.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from product import prepare, swapped_manifest
from torch import Tensor

from truetag.data.bags import read_bags
from truetag.data.corruption import flip_labels, keep_single_positive
from truetag.data.imports import import_tags
from truetag.data.labels import label_matrix, observed_labels
from truetag.data.manifest import Manifest, read_manifest, stream_rows
from truetag.data.vocabulary import Vocabulary, read_vocabulary
from truetag.data.words import normalise
from truetag.demo.scenes import WORDS, draw_scenes
from truetag.media.files import Reading, SkipList
from truetag.models.backbones import digest_weights, load_backbone
from truetag.models.classifier import Classifier
from truetag.models.features import cached_features, feature_spec
from truetag.runs.config import TrainConfig

FLIPS = ((0.0, 0.2), (0.0, 0.6), (0.02, 0.3), (0.1, 0.1), (0.2, 0.2))
COLUMNS = {
    "flickr8k": [
        "clean",
        *(f"swap {number}" for number in (1, 2, 3, 4)),
        *(f"flip {incorrect:g}, {missing:g}" for incorrect, missing in FLIPS),
        "one label",
        "missing by photo",
        "one person",
        "two people",
    ],
    "scenes": ["clean", *(f"flip {incorrect:g}, {missing:g}" for incorrect, missing in FLIPS)],
    "shop": ["names"],
}
REAL = ("one person", "two people", "names")
"""Noise that nobody drew: what one or two of five people say of a photo, and what a seller's name says of a product."""
NUM_SCENES, NUM_TEST_SCENES = 3000, 1000
FEWEST_TRUE, FEWEST_TRUE_TEST = 10, 3
_MISSING_BY_PHOTO = 0.3


@dataclass(frozen=True)
class Dataset:
    """Features and true labels of the training and the test photos."""

    name: str
    work: Path
    train: Tensor
    test: Tensor
    truth: Tensor
    test_truth: Tensor
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Column:
    """The training labels that a method may see; and those of the upper bound: of the photos' own captions, or true."""

    observed: Tensor
    bound: Tensor | None = None


def load(name: str, source: Path, work: Path) -> Dataset:
    """The data set of this name, from files kept under `work` where it was loaded before.

    Args:
        name: one of `COLUMNS`.
        source: the folder of Flickr8k, or of the shop; `scenes` need none.
        work: where to.
    """
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "flickr8k":
        clean, vocabulary_file = prepare(source, folder)
        vocabulary, kind = read_vocabulary(vocabulary_file), "captions"
    elif name == "shop":
        clean, kind = folder / "all.jsonl", "true"
        if not clean.exists():
            import_tags(source / "tags.csv", source / "photos", clean)
        rows = stream_rows(read_manifest(clean).rows, ("true_tags",))
        counts = Counter(normalise(tag) for row in rows for tag in row["true_tags"])
        vocabulary = Vocabulary(tuple(counts), ("",) * len(counts), tuple(counts.values()))
    else:
        clean, kind = folder / "scenes.jsonl", "true"
        if not clean.exists():
            draw_scenes(folder, NUM_SCENES, 1, NUM_TEST_SCENES, seed=0)
        words = sorted(WORDS)
        vocabulary = Vocabulary(tuple(words), tuple(WORDS[word] for word in words), (1,) * len(words))
    manifest = read_manifest(clean)
    splits = manifest.rows["split"][:]
    rows = {part: [row for row, split in enumerate(splits) if split == part] for part in ("train", "test")}
    train, test = (_features(manifest, rows[part], work) for part in rows)
    truth, test_truth = (label_matrix(manifest.rows.select(rows[part]), vocabulary, kind).float() for part in rows)
    kept = torch.ones(len(vocabulary.words), dtype=torch.bool)
    if name != "flickr8k":  # words that are hardly ever true cannot be scored
        kept = (truth.sum(0) >= FEWEST_TRUE) & (test_truth.sum(0) >= FEWEST_TRUE_TEST)
    entries = zip(vocabulary.words, vocabulary.parts_of_speech, vocabulary.counts, strict=True)
    of_kept = zip(*(entry for entry, is_kept in zip(entries, kept.tolist(), strict=True) if is_kept), strict=True)
    return Dataset(name, folder, train, test, truth[:, kept], test_truth[:, kept], Vocabulary(*of_kept))


def corrupt(data: Dataset, column: str, seed: int) -> Column:
    """The column's labels for this seed."""
    generator = torch.Generator().manual_seed(seed)
    kind, _, values = column.partition(" ")
    if kind == "swap":
        return _swapped(data, int(values), seed)
    if kind == "clean":
        return Column(data.truth)
    if kind == "flip":
        incorrect, missing = map(float, values.split(", "))
        return Column(flip_labels(data.truth, missing, incorrect, generator))
    if column in REAL:
        return _real(data, column, generator)
    if kind == "one":
        return Column(keep_single_positive(data.truth, generator))
    return Column(_missing_by_photo(data, generator))


def _swapped(data: Dataset, num_swapped: int, seed: int) -> Column:
    """The labels of the very manifest that the recipes are trained on."""
    rows = read_manifest(swapped_manifest(data.work, num_swapped, seed)).in_split("train")
    own = []
    for row in stream_rows(rows, ("id", "captions", "true_captions")):
        pairs = zip(row["captions"], row["true_captions"], strict=True)
        own.append({"id": row["id"], "captions": [caption for caption, true in pairs if caption == true]})
    return Column(observed_labels(rows, data.vocabulary).float(), observed_labels(own, data.vocabulary).float())


def _real(data: Dataset, column: str, generator: torch.Generator) -> Column:
    """What a seller says of a product, or one or two of five people, drawn for each photo, of a photo."""
    if data.name == "shop":
        rows = read_manifest(data.work / "all.jsonl").in_split("train")
        return Column(observed_labels(rows, data.vocabulary).float(), data.truth)
    rows = read_manifest(data.work / "clean.jsonl").in_split("train")
    number = 1 if column.startswith("one") else 2
    said = []
    for row in stream_rows(rows, ("id", "captions")):
        order = torch.randperm(len(row["captions"]), generator=generator)[:number].tolist()
        said.append({"id": row["id"], "captions": [row["captions"][place] for place in order]})
    return Column(observed_labels(said, data.vocabulary).float(), data.truth)


def _missing_by_photo(data: Dataset, generator: torch.Generator) -> Tensor:
    """True tags go missing with a probability that the photo decides: logit a u . h, 0.3 in the mean over photos."""
    features = data.train.cpu()
    h = (features - features.mean(0)) / features.std(0).clamp(min=1e-2)
    score = h @ torch.randn(h.shape[1], generator=generator)
    odds = 2 * (score - score.mean()) / score.std()
    low, high = -10.0, 10.0
    for _ in range(50):  # the intercept that gives the mean
        middle = (low + high) / 2
        low, high = (middle, high) if (odds + middle).sigmoid().mean() < _MISSING_BY_PHOTO else (low, middle)
    gone = torch.rand(data.truth.shape, generator=generator) < (odds + low).sigmoid().unsqueeze(1)
    return torch.where((data.truth == 1) & gone, 0, data.truth)


def _features(manifest: Manifest, rows: list[int], work: Path) -> Tensor:
    """The mean feature of each photo, from the cache that `truetag train` uses."""
    backbone, preprocessing = load_backbone(TrainConfig().backbone, "offline", TrainConfig().resolution)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = Classifier(backbone, 1280, 1).to(device).eval()
    spec = feature_spec(classifier, TrainConfig().backbone, digest_weights(backbone), preprocessing)
    skips = SkipList(max_skipped=0.0)
    media = read_bags(manifest, manifest.rows.select(rows), Reading(), skips)
    cached = cached_features(media.frames, classifier, spec, skips)
    return torch.from_numpy(np.array(cached.array[cached.rows, 0]))
