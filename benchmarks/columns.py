"""Data and corruptions that methods are compared on: features, true labels, and the labels that a method may see.

`flickr8k`: 500 words of captions, and captions can be those of other photos. `scenes`: drawn photos whose truth is
exact. Both are features of the frozen offline EfficientNet-Lite0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flickr8k import prepare
from scipy import sparse
from torch import Tensor

from truetag.data.bags import read_bags
from truetag.data.corruption import flip_labels, keep_single_positive, swap_captions
from truetag.data.labels import label_matrix, source_words
from truetag.data.manifest import Manifest, read_manifest
from truetag.data.vocabulary import Vocabulary, read_vocabulary
from truetag.demo.scenes import WORDS, draw_scenes
from truetag.label_noise.validity import naming_shares
from truetag.media.files import SkipList
from truetag.models.backbones import digest_weights, load_backbone
from truetag.models.classifier import Classifier
from truetag.models.features import cached_features, feature_spec

FLIPS = ((0.0, 0.2), (0.0, 0.6), (0.02, 0.3), (0.1, 0.1), (0.2, 0.2))
COLUMNS = {
    "flickr8k": [
        "clean",
        *(f"swap {number}" for number in (1, 2, 3, 4)),
        *(f"flip {incorrect:g}, {missing:g}" for incorrect, missing in FLIPS),
        "one label",
        "missing by photo",
    ],
    "scenes": ["clean", *(f"flip {incorrect:g}, {missing:g}" for incorrect, missing in FLIPS)],
}
NUM_SCENES, NUM_TEST_SCENES = 3000, 1000
_MISSING_BY_PHOTO = 0.3


@dataclass(frozen=True)
class Dataset:
    """Features and true labels of both parts, and the captions behind the training labels (of scenes none)."""

    train: Tensor
    test: Tensor
    truth: Tensor
    test_truth: Tensor
    words: sparse.csr_array | None
    bags: np.ndarray | None


@dataclass(frozen=True)
class Column:
    """What a method may see of the training labels, and `valid`: which captions are their photo's own."""

    observed: Tensor
    words: sparse.csr_array | None = None
    bags: np.ndarray | None = None
    valid: np.ndarray | None = None


def load(name: str, flickr8k: Path, work: Path) -> Dataset:
    """The data set, from files kept under `work` where it was loaded before."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "flickr8k":
        clean, vocabulary_file = prepare(flickr8k, folder)
        vocabulary, truth = read_vocabulary(vocabulary_file), "captions"
    else:
        clean, truth = folder / "scenes.jsonl", "true"
        if not clean.exists():
            draw_scenes(folder, NUM_SCENES, 1, NUM_TEST_SCENES, seed=0)
        words = sorted(WORDS)
        vocabulary = Vocabulary(tuple(words), tuple(WORDS[word] for word in words), (1,) * len(words))
    manifest = read_manifest(clean)
    # the validation rows that `prepare` cuts off are trained on: every choice here is cut from what is given
    training = [row for row, part in enumerate(manifest.rows["split"][:]) if part != "test"]
    testing = [row for row, part in enumerate(manifest.rows["split"][:]) if part == "test"]
    train, test = (_features(manifest, rows, work) for rows in (training, testing))
    labels, test_labels = (
        label_matrix(manifest.rows.select(rows), vocabulary, truth).float() for rows in (training, testing)
    )
    if name == "scenes":
        kept = labels.sum(0) >= 10  # words that only captions use are nobody's true tag
        return Dataset(train, test, labels[:, kept], test_labels[:, kept], None, None)
    return Dataset(train, test, labels, test_labels, *source_words(manifest.rows.select(training), vocabulary))


def corrupt(data: Dataset, column: str, seed: int) -> Column:
    """The column's labels for this seed."""
    generator = torch.Generator().manual_seed(seed)
    kind, _, values = column.partition(" ")
    if kind in ("clean", "swap") and data.words is not None and data.bags is not None:
        return _swap(data, data.words, data.bags, int(values or 0), generator)
    if kind == "clean":
        return Column(data.truth)
    if kind == "flip":
        incorrect, missing = map(float, values.split(", "))
        return Column(flip_labels(data.truth, missing, incorrect, generator))
    if kind == "one":
        return Column(keep_single_positive(data.truth, generator))
    return Column(_missing_by_photo(data, generator))


def _swap(data: Dataset, words: sparse.csr_array, bags: np.ndarray, number: int, generator: torch.Generator) -> Column:
    """Captions as their numbers, so that their words follow them."""
    of_bags = np.split(np.arange(len(bags)), np.flatnonzero(np.diff(bags)) + 1)
    captions, swapped = swap_captions([[str(place) for place in places] for places in of_bags], number, generator)
    order = np.array([int(place) for places in captions for place in places])
    given = words[order]
    observed = (naming_shares(given, bags, len(data.truth)) > 0).float()
    return Column(observed, given, bags, ~np.concatenate([np.array(places) for places in swapped]))


def _missing_by_photo(data: Dataset, generator: torch.Generator) -> Tensor:
    """True tags go missing with a probability that the photo decides: logit a u . h, 0.3 in the mean over photos."""
    h = (data.train - data.train.mean(0)) / data.train.std(0).clamp(min=1e-2)
    score = h @ torch.randn(h.shape[1], generator=generator)
    odds = 2 * (score - score.mean()) / score.std()
    low, high = -10.0, 10.0
    for _ in range(50):  # the intercept that gives the mean
        middle = (low + high) / 2
        low, high = (middle, high) if (odds + middle).sigmoid().mean() < _MISSING_BY_PHOTO else (low, middle)
    gone = torch.rand(data.truth.shape, generator=generator) < (odds + low).sigmoid().unsqueeze(1)
    return torch.where((data.truth == 1) & gone, 0, data.truth)


def _features(manifest: Manifest, rows: list[int], work: Path) -> Tensor:
    backbone, preprocessing = load_backbone("tf_efficientnet_lite0", "offline", 224)
    classifier = Classifier(backbone, 1280, 1).eval()
    spec = feature_spec(classifier, "tf_efficientnet_lite0", digest_weights(backbone), preprocessing)
    skips = SkipList(max_skipped=0.0)
    media = read_bags(manifest, manifest.rows.select(rows), skips=skips)
    cached = cached_features(media.frames, classifier, spec, skips, work / "cache")
    return torch.from_numpy(np.array(cached.array[cached.rows, 0]))
