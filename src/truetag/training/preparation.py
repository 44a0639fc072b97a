"""From a manifest to bags to learn from: which rows, their labels, their photos or cached features, and warnings."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int8
from torch import Tensor

from truetag.data.bags import read_bags
from truetag.data.batches import FeatureBags, PhotoBags
from truetag.data.labels import observed_labels
from truetag.data.manifest import Manifest
from truetag.data.stratify import stratified_split
from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.io.fingerprints import fingerprint
from truetag.io.terminal import tell
from truetag.media.files import MediaFiles, Reading, SkipList
from truetag.media.photos import MediaError, Preprocessing
from truetag.models.backbones import digest_weights
from truetag.models.classifier import Classifier
from truetag.models.features import cached_features, feature_spec
from truetag.runs.config import TrainConfig

Bags = FeatureBags | PhotoBags
FEW_POSITIVES = 10
_NAMED_IN_WARNING = 10


@dataclass(frozen=True)
class TrainingData:
    """Bags to learn from, bags to choose the epoch on, and the photos of both that turn out to be unusable."""

    train: Bags
    validation: Bags
    source: str
    """What the inputs of the bags are: the name of their feature cache, or "photos"."""
    skips: SkipList
    train_rows: list[int] = field(default_factory=list)
    """Row number in the manifest of each training bag; for labels of frames, of each clip."""

    def digest(self) -> str:
        """A fingerprint of which rows there are, their labels, and what their inputs come from."""
        parts: list[str | bytes] = [self.source]
        for bags in (self.train, self.validation):
            names = [path.name for path in bags.bags.frames.paths] if isinstance(bags, PhotoBags) else []
            parts += ["\0".join([*bags.ids, *names]), bags.labels.contiguous().numpy().tobytes()]
        return fingerprint(parts)


def prepare_data(
    config: TrainConfig,
    manifest: Manifest,
    vocabulary: Vocabulary,
    classifier: Classifier,
    preprocessing: Preprocessing,
    reading: Reading,
) -> TrainingData:
    """The bags of a run; features are computed where they are cached and lack.

    Raises:
        InputError: the manifest has nothing to learn from, or too many of its photos cannot be used.
    """
    parts = _choose_rows(config, manifest, vocabulary)
    # one call for both parts: the share of what cannot be used is one of all of them
    rows = [row for part, _ in parts for row in part]
    labels = torch.cat([part for _, part in parts])
    skips = SkipList(reading.max_skipped)
    media = read_bags(manifest, manifest.rows.select(rows), reading, skips, config.num_frames)
    if config.freeze_backbone:
        spec = feature_spec(classifier, config.backbone, digest_weights(classifier.backbone), preprocessing)
        features = cached_features(media.frames, classifier, spec, skips, reading.cache)
        usable, source = features.rows >= 0, spec.fingerprint()
    else:
        features, source = None, "photos"
        usable = _readable(media.frames, skips)
    bags: list[Bags] = []
    train_rows: list[int] = []
    start = 0
    for name, (part, _) in zip(("train", "validation"), parts, strict=True):
        places = range(start, start + len(part))
        frames = slice(media.starts[start], media.starts[start + len(part)])
        start += len(part)
        chosen, kept = media.select(places).keep_frames(usable[frames])
        if not kept:
            raise InputError(f"{manifest.path}: nothing of its {name} rows can be used")
        known = labels[places[0] : places[-1] + 1][kept]
        if name == "train":
            train_rows = [part[place] for place in kept]
        if config.level == "frame" and name == "train":
            known, chosen = known.repeat_interleave(torch.from_numpy(chosen.lengths), dim=0), chosen.each_frame()
        if features is None:
            bags.append(PhotoBags(chosen, known, preprocessing))
        else:
            rows_of_frames = features.rows[frames][usable[frames]]
            bags.append(FeatureBags(features.array, rows_of_frames, chosen.starts, known, chosen.ids))
    return TrainingData(bags[0], bags[1], source, skips, train_rows)


def count_labels(labels: Int8[Tensor, "N K"], vocabulary: Vocabulary) -> str:
    """A table of how often each word is present, absent and unknown: labels.tsv of a run."""
    columns = [(labels == value).sum(0).tolist() for value in (1, 0, -1)]
    lines = ["word\tpresent\tabsent\tunknown"]
    lines += ["\t".join(map(str, line)) for line in zip(vocabulary.words, *columns, strict=True)]
    return "\n".join(lines) + "\n"


def warn_of_labels(labels: Int8[Tensor, "N K"], vocabulary: Vocabulary) -> None:
    """Tell of words that cannot be learnt from these rows, or hardly, each with its count."""
    present, known = (labels == 1).sum(0), (labels >= 0).sum(0)
    groups = {
        "never present": present == 0,
        "present in every row": (present == known) & (present > 0),
        f"present fewer than {FEW_POSITIVES} times": (present > 0) & (present < FEW_POSITIVES) & (present < known),
    }
    for what, chosen in groups.items():
        words = [f"{vocabulary.words[place]} ({present[place]})" for place in chosen.nonzero().flatten().tolist()]
        if words:
            rest = f" and {len(words) - _NAMED_IN_WARNING} more" if len(words) > _NAMED_IN_WARNING else ""
            some = ", ".join(words[:_NAMED_IN_WARNING]) + rest
            tell(f"warning: {len(words)} of {len(vocabulary)} words are {what}: {some}")


def _readable(photos: MediaFiles, skips: SkipList) -> Bool[np.ndarray, "F"]:
    """Whether each photo can be used, as far as a look at the file shows; pixels are checked when they are decoded."""
    usable = np.ones(len(photos), dtype=bool)
    for index in range(len(photos)):
        try:
            photos.check(index)
        except MediaError as error:
            usable[index] = False
            skips.report(photos.skip(index, error))
    return usable


def _choose_rows(
    config: TrainConfig, manifest: Manifest, vocabulary: Vocabulary
) -> list[tuple[list[int], Int8[Tensor, "N K"]]]:
    """Row numbers and observed labels of the training and the validation part."""
    splits = manifest.rows["split"][:]
    rows = [row for row, split in enumerate(splits) if split in (None, "train")]
    validation = [row for row, split in enumerate(splits) if split == "validation"]
    if not rows:
        raise InputError(f"{manifest.path}: no row has split 'train', its splits are: {sorted(set(splits))}")
    labels = observed_labels(manifest.rows.select(rows), vocabulary)
    if not (labels == 1).any():
        raise InputError(f"{manifest.path}: no training row names a word of the vocabulary")
    if validation:
        return [(rows, labels), (validation, observed_labels(manifest.rows.select(validation), vocabulary))]
    if not config.validation_fraction:
        raise InputError(f"validation_fraction must be above 0: {manifest.path} has no rows of split 'validation'")
    # every noisy choice needs held-out rows; where none are given they are cut here, the same for the same seed
    fractions = {"train": 1 - config.validation_fraction, "validation": config.validation_fraction}
    groups = manifest.rows["group"][:]
    generator = torch.Generator().manual_seed(config.seed)
    drawn = stratified_split(labels, fractions, generator, [groups[row] for row in rows])
    picked = {name: [i for i, split in enumerate(drawn) if split == name] for name in fractions}
    return [([rows[i] for i in chosen], labels[chosen]) for chosen in picked.values()]
