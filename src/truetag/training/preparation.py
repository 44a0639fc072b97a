"""From a manifest to bags to learn from: which rows, their labels, their photos or cached features, and warnings."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8, Int64, Shaped
from torch import Tensor

from truetag.data.bags import read_bags
from truetag.data.batches import FeatureBags, PhotoBags
from truetag.data.labels import observed_labels, soft_tags
from truetag.data.manifest import Manifest
from truetag.data.stratify import stratified_split
from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.io.fingerprints import fingerprint, fingerprint_file
from truetag.io.terminal import tell
from truetag.io.text import counted, shown
from truetag.media.files import MediaFiles, Reading, SkipList
from truetag.media.photos import MediaError
from truetag.media.preprocessing import Preprocessing
from truetag.models.classifier import Classifier
from truetag.models.features import CachedFeatures, features_of
from truetag.runs.config import EMBEDDINGS, TrainConfig
from truetag.training.augmentation import make_augmentation

Bags = FeatureBags | PhotoBags
FEW_POSITIVES = 10
_NAMED_IN_WARNING = 10


@dataclass(frozen=True)
class TrainingInputs:
    """What a run learns from: its settings, files and labels, and the classifier before its first step."""

    config: TrainConfig
    manifest: Manifest
    vocabulary: Vocabulary
    classifier: Classifier
    preprocessing: Preprocessing
    reading: Reading
    features: Path | None = None
    """A file of embeddings to learn from instead of the photos."""


@dataclass(frozen=True)
class TrainingData:
    """Bags to learn from, bags to choose the epoch on, and the photos of both that cannot be used."""

    train: Bags
    validation: Bags
    train_rows: list[int]
    """The manifest row of each training bag; where each frame is a bag, that of each clip."""
    source: str
    """What the inputs of the bags come from: the name of their feature cache, or "photos"."""
    skips: SkipList
    soft: Float[Tensor, "N K"] | None = None
    """What the manifest's `tag_probabilities` say of each training bag, NaN where nothing; None without any."""

    def fingerprint(self) -> str:
        """A name for which rows there are, their labels, and what their inputs come from."""
        parts: list[str | bytes] = [self.source]
        for bags in (self.train, self.validation):
            names = [path.name for path in bags.bags.frames.paths] if isinstance(bags, PhotoBags) else []
            parts += ["\0".join([*bags.ids, *names]), bags.labels.contiguous().numpy().tobytes()]
        if self.soft is not None:
            parts.append(self.soft.numpy().tobytes())
        return fingerprint(parts)


class _Part(NamedTuple):
    """The manifest rows of the training or the validation part, and their observed labels."""

    rows: list[int]
    labels: Int8[Tensor, "N K"]


def config_for(config: TrainConfig, features: Path | None) -> TrainConfig:
    """The settings, in which a run on embeddings has no backbone.

    Args:
        config: what was asked for.
        features: the file of embeddings; None for photos.

    Raises:
        InputError: a backbone or its weights were asked for beside embeddings, or embeddings without a file.
    """
    if features is None:
        if config.backbone == EMBEDDINGS:
            raise InputError(f"backbone: expected --features, or rows with `features`, for {EMBEDDINGS!r}, got photos")
        return config
    for name in ("backbone", "weights"):
        if (got := getattr(config, name)) not in (
            getattr(TrainConfig, name),
            EMBEDDINGS if name == "backbone" else "none",
        ):
            raise InputError(
                f"{name}: expected none beside embeddings ({features}), which need no backbone, got {got!r}"
            )
    return replace(config, backbone=EMBEDDINGS, weights="none", freeze_backbone=True)


def prepare_data(inputs: TrainingInputs) -> TrainingData:
    """The bags of a run; features that the cache lacks are computed.

    Raises:
        InputError: the manifest has nothing to learn from, or too many of its photos cannot be used.
    """
    config, manifest = inputs.config, inputs.manifest
    train, validation = _choose_parts(inputs)
    # one list for both parts: the share of unusable photos is one of all of them
    skips = SkipList(inputs.reading.max_skipped)
    media = read_bags(
        manifest,
        manifest.rows.select([*train.rows, *validation.rows]),
        inputs.reading,
        skips,
        config.num_frames,
        inputs.features,
    )
    features = _features(inputs, media.frames, skips) if config.freeze_backbone else None
    usable = _present_files(media.frames, skips) if features is None else features.rows >= 0
    bags: list[Bags] = []
    kept_rows: list[list[int]] = []
    soft = None
    if features is not None:
        _tell_of_copies(features.rows, int(media.starts[len(train.rows)]))
    for name, part, first in (("train", train, 0), ("validation", validation, len(train.rows))):
        bags_of_part = range(first, first + len(part.rows))
        frames = slice(int(media.starts[bags_of_part.start]), int(media.starts[bags_of_part.stop]))
        chosen, kept = media.select(bags_of_part).keep_frames(usable[frames])
        if not kept:
            raise InputError(f"{manifest.path}: no photo of its {name} rows can be used")
        rows = [part.rows[index] for index in kept]
        labels = part.labels[kept]
        if name == "train":
            soft = soft_tags(manifest.rows.select(rows), inputs.vocabulary)
        if config.level == "frame" and name == "train":
            lengths = torch.from_numpy(chosen.lengths)
            labels = labels.repeat_interleave(lengths, dim=0)
            soft = None if soft is None else soft.repeat_interleave(lengths, dim=0)
            chosen = chosen.each_frame()
        if features is None:
            varied = make_augmentation(config, inputs.preprocessing) if name == "train" else None
            bags.append(PhotoBags(chosen, labels, inputs.preprocessing, varied))
        else:
            feature_rows = features.rows[frames][usable[frames]]
            bags.append(FeatureBags(features.array, feature_rows, chosen.starts, labels, chosen.ids))
        kept_rows.append(rows)
    source = "photos" if features is None else features.name
    if media.frames.rows is not None:  # a run that continues must find the same numbers
        source = fingerprint_file(media.frames.paths[0])
    return TrainingData(bags[0], bags[1], kept_rows[0], source, skips, soft)


def count_labels(labels: Int8[Tensor, "N K"], vocabulary: Vocabulary) -> str:
    """A table of how often each word is present, absent and unknown: labels.tsv of a run."""
    columns = [(labels == value).sum(0).tolist() for value in (1, 0, -1)]
    lines = ["word\tpresent\tabsent\tunknown"]
    lines += ["\t".join(map(str, line)) for line in zip(vocabulary.words, *columns, strict=True)]
    return "\n".join(lines) + "\n"


def warn_of_labels(labels: Int8[Tensor, "N K"], vocabulary: Vocabulary) -> None:
    """Warn of words that these rows teach hardly or not at all, each with its count."""
    present, num_known = (labels == 1).sum(0), (labels >= 0).sum(0)
    problems = {
        "never present": present == 0,
        "present in every row": (present == num_known) & (present > 0),
        f"present fewer than {FEW_POSITIVES} times": (present > 0) & (present < FEW_POSITIVES) & (present < num_known),
    }
    for problem, concerned in problems.items():
        words = [f"{vocabulary.words[index]} ({present[index]})" for index in concerned.nonzero().flatten().tolist()]
        if words:
            others = f" and {len(words) - _NAMED_IN_WARNING} more" if len(words) > _NAMED_IN_WARNING else ""
            named = ", ".join(words[:_NAMED_IN_WARNING]) + others
            advice = "; `truetag vocabulary --min-count` leaves such words out" if "fewer" in problem else ""
            tell(f"warning: {len(words)} of {len(vocabulary)} words are {problem}: {named}{advice}")


def _features(inputs: TrainingInputs, frames: MediaFiles, skips: SkipList) -> CachedFeatures:
    return features_of(
        frames, inputs.classifier, inputs.config.backbone, inputs.preprocessing, skips, inputs.reading.cache
    )


def _present_files(frames: MediaFiles, skips: SkipList) -> Bool[np.ndarray, "F"]:
    """Which files are there; whether their pixels can be decoded shows later."""
    present = np.ones(len(frames), dtype=bool)
    for index in range(len(frames)):
        try:
            frames.check(index)
        except MediaError as error:
            present[index] = False
            skips.report(frames.skip(index, error))
    return present


def _tell_of_copies(rows: Int64[np.ndarray, "F"], num_train: int) -> None:
    """Say how many validation photos are training photos, too: the choices that they take part in are too bold.

    Args:
        rows: the row of each photo in the cache, which is the same for the same content; -1 for an unusable one.
        num_train: so many of the photos, the first ones, are for training.
    """
    copies = np.isin(rows[num_train:], rows[:num_train][rows[:num_train] >= 0]).sum()
    if copies:
        tell(
            f"copies of training photos among those for validation: {copies}; "
            "`truetag split --group-copies` keeps copies together"
        )


def _choose_parts(inputs: TrainingInputs) -> tuple[_Part, _Part]:
    """The training and the validation part, by the splits of the manifest; without validation rows one is cut.

    Returns:
        The training part, and the validation part.
    """
    config, manifest, vocabulary = inputs.config, inputs.manifest, inputs.vocabulary
    rows, validation_rows = rows_to_learn_from(manifest)
    labels = observed_labels(manifest.rows.select(rows), vocabulary)
    if not (labels == 1).any():
        raise InputError(f"{manifest.path}: no training row names a word of the vocabulary")
    if validation_rows:
        validation_labels = observed_labels(manifest.rows.select(validation_rows), vocabulary)
        return _Part(rows, labels), _Part(validation_rows, validation_labels)
    # every noisy choice needs held-out rows; where none are given they are cut here, the same for the same seed
    train, validation = hold_out(manifest, rows, labels, config.validation_fraction, config.seed)
    return (
        _Part([rows[index] for index in train], labels[train]),
        _Part([rows[index] for index in validation], labels[validation]),
    )


def rows_to_learn_from(manifest: Manifest) -> tuple[list[int], list[int]]:
    """The rows to train and to validate on, by their splits; the rows of other splits are told.

    Returns:
        The indices of both; there may be none to validate on.

    Raises:
        InputError: there are no rows to train on.
    """
    splits = manifest.rows["split"][:]
    train = [row for row, split in enumerate(splits) if split in (None, "train")]
    validation = [row for row, split in enumerate(splits) if split == "validation"]
    if not train:
        raise InputError(f"{manifest.path}: no row has split 'train', its splits are: {sorted(set(splits))}")
    unused = Counter(split for split in splits if split not in (None, "train", "validation"))
    for split, count in unused.items():
        tell(f"{counted(count, 'row')} of split {shown(split)} not learnt from")
    return train, validation


def hold_out(
    manifest: Manifest, rows: list[int], labels: Shaped[Tensor, "N K"], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Cut validation rows off the training rows: every label keeps its share, and groups stay together.

    Args:
        manifest: has the groups of the rows.
        rows: N of its rows.
        labels: of these rows.
        fraction: the share to hold out.
        seed: decides which.

    Returns:
        The indices, among these rows, of those to train on and of those to validate on.

    Raises:
        InputError: the share is 0, or one of both would be empty.
    """
    if not fraction:
        raise InputError(
            f"validation_fraction: expected a share above 0, since {manifest.path} has no rows of split 'validation', "
            "got 0"
        )
    fractions = {"train": 1 - fraction, "validation": fraction}
    groups = manifest.rows["group"][:]
    generator = torch.Generator().manual_seed(seed)
    parts = np.array(stratified_split(labels, fractions, generator, [groups[row] for row in rows]))
    train, validation = ((parts == name).nonzero()[0].tolist() for name in fractions)
    if not train or not validation:
        raise InputError(
            f"{manifest.path}: expected enough rows to learn from and to hold some out, got {counted(len(rows), 'row')}"
        )
    return train, validation
