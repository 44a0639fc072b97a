"""From bags of photos to what the classifier says of them, a batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from truetag.data.bags import MediaBags, read_bags
from truetag.data.batches import even_batches, frame_indices, stream_photos
from truetag.data.manifest import Manifest
from truetag.errors import InputError
from truetag.io.terminal import Progress, tell
from truetag.media.files import Reading, SkipList, Skipped
from truetag.media.preprocessing import Preprocessing
from truetag.models.building import load_classifier
from truetag.models.classifier import Classifier
from truetag.models.features import CachedFeatures, NoSpaceError, features_of, require_readable
from truetag.runs.folder import Run

BATCH_SIZE = 32


class Prediction(NamedTuple):
    """What the classifier says of N rows of a manifest."""

    logits: Float[Tensor, "N K"]
    """Their true logits."""
    features: Float[Tensor, "N D"]
    """Their pooled features h(I)."""
    rows: list[int]
    """The index of each among the rows of the split; rows without a usable photo are absent."""
    skips: SkipList
    """The photos that cannot be used."""


class FeatureBatch(NamedTuple):
    """A batch of consecutive bags: the features of those that can be used."""

    num_bags: int
    """The number of bags in the batch, whether they can be used or not."""
    indices: list[int]
    """The indices, among all bags, of the B bags that can be used."""
    features: Float[Tensor, "B T R D"] | None
    """None if no bag can be used."""
    mask: Bool[Tensor, "B T"] | None
    """False at the padding of bags with fewer than T frames; None if all bags have T frames."""
    skipped: list[Skipped]
    """The photos of these bags that cannot be used."""


def predict_manifest(
    run: Run, manifest: Manifest, split: str | None, reading: Reading = Reading(), features: Path | None = None
) -> Prediction:
    """Run the classifier on the rows of a split; a run with a frozen backbone uses the feature cache.

    Args:
        run: a finished run.
        manifest: the manifest with the photos.
        split: the split; None for all rows.
        reading: how the photos are read.
        features: a file of embeddings, for a run that was trained on such.

    Raises:
        InputError: too many photos cannot be used, or all of them; or the run reads something else.
    """
    classifier = load_classifier(run)
    skips = SkipList(reading.max_skipped)
    bags = read_bags(manifest, manifest.in_split(split), reading, skips, run.config.num_frames, features)
    batches = feature_batches(run, classifier, bags, reading, skips.total)
    logits: list[Tensor] = []
    pooled: list[Tensor] = []
    rows: list[int] = []
    with torch.inference_mode(), Progress("predicting", len(bags)) as progress:
        for batch in batches:
            if batch.features is not None:
                batch_logits, h = classifier(batch.features, batch.mask)  # [B, K], [B, D]
                logits.append(batch_logits.cpu())
                pooled.append(h.cpu())
            rows += batch.indices
            skips.report_all(batch.skipped)
            progress.advance(batch.num_bags)
    if not rows:
        raise InputError(f"{manifest.path}: none of its {len(bags)} photos can be used")
    return Prediction(torch.cat(logits), torch.cat(pooled), rows, skips)


def feature_batches(
    run: Run, classifier: Classifier, bags: MediaBags, reading: Reading, total: int, start: int = 0
) -> Iterator[FeatureBatch]:
    """The features of all bags: from the cache if the backbone is frozen and they fit on the disk, else from photos.

    The features that the cache lacks are computed at once.

    Args:
        run: the run of the classifier.
        classifier: extracts and pools the features.
        bags: all bags.
        reading: where the cache is.
        total: how many photos a share of them that cannot be used refers to.
        start: the index of the first bag that is wanted.

    Raises:
        InputError: too many photos cannot be used.
    """
    backbone = run.config.backbone
    require_readable(bags.frames, backbone, classifier.num_features)
    if run.config.freeze_backbone:
        rest = bags.select(range(start, len(bags)))
        skips = SkipList(reading.max_skipped, total)
        try:
            cached = features_of(rest.frames, classifier, backbone, run.preprocessing, skips, reading.cache)
        except NoSpaceError as error:
            tell(f"features are not cached: {error}")
        else:
            return _cached_batches(cached, rest, skips, classifier.head.weight.device, start)
    return extract_batches(classifier, run.preprocessing, bags, start)


def extract_batches(
    classifier: Classifier, preprocessing: Preprocessing, bags: MediaBags, start: int = 0
) -> Iterator[FeatureBatch]:
    """Decode photos and extract their features, in groups of whole bags.

    Args:
        classifier: extracts and pools the features.
        preprocessing: what its backbone expects of a photo.
        bags: all bags.
        start: the index of the first bag to extract.
    """
    device = classifier.head.weight.device
    rest = bags.select(range(start, len(bags)))
    groups = group_bags(rest.lengths)
    frames_of_groups = [range(int(rest.starts[group.start]), int(rest.starts[group.stop])) for group in groups]
    batches = stream_photos(rest.frames, preprocessing, frames_of_groups)
    for group, frames, photos in zip(groups, frames_of_groups, batches, strict=True):
        skipped = [rest.frames.skip(frame, error) for frame, error in photos.broken.items()]
        is_decoded = np.array([frame not in photos.broken for frame in frames], dtype=bool)
        usable, indices_in_group = rest.select(group).keep_frames(is_decoded)
        indices = [start + group[index] for index in indices_in_group]
        if not indices:
            yield FeatureBatch(len(group), [], None, None, skipped)
            continue
        # `photos.pixels` and the frames of `usable` are the same photos in the same order
        regions = classifier.pool_features(classifier.extract(photos.pixels.to(device)))  # [F, R, D]
        frame_of, mask = frame_indices(usable.starts, range(len(usable)))  # [B, T]
        features = regions[torch.from_numpy(frame_of).to(device)]  # [B, T, R, D]
        yield FeatureBatch(len(group), indices, features, None if mask is None else mask.to(device), skipped)


def group_bags(lengths: Int64[np.ndarray, "N"]) -> list[range]:
    """The indices of all bags, in groups of at most `BATCH_SIZE` frames; a longer bag is a group of its own.

    >>> group_bags(np.array([30, 2, 1, 40, 0]))
    [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    """
    groups: list[range] = []
    first = num_frames = 0
    for index, length in enumerate(lengths.tolist()):
        if index > first and num_frames + length > BATCH_SIZE:
            groups.append(range(first, index))
            first, num_frames = index, 0
        num_frames += length
    if first < len(lengths):
        groups.append(range(first, len(lengths)))
    return groups


def _cached_batches(
    cached: CachedFeatures, bags: MediaBags, skips: SkipList, device: torch.device, start: int
) -> Iterator[FeatureBatch]:
    """The features of all bags from the cache.

    Args:
        cached: the features of their frames.
        bags: all bags from the index `start` on.
        skips: the frames that cannot be used.
        device: where the features go.
        start: added to the indices of the bags.
    """
    entries = {(entry.id, entry.path): entry for entry in skips}
    for batch in even_batches(len(bags), BATCH_SIZE):
        part = bags.select(batch)
        rows = cached.rows[int(bags.starts[batch.start]) : int(bags.starts[batch.stop])]  # F
        broken = np.flatnonzero(rows < 0).tolist()
        skipped = [entries[part.frames.ids[frame], part.frames.paths[frame]] for frame in broken]
        usable, kept = part.keep_frames(rows >= 0)
        if not kept:
            yield FeatureBatch(len(batch), [], None, None, skipped)
            continue
        frames, mask = frame_indices(usable.starts, range(len(usable)))  # [B, T]
        features = torch.from_numpy(cached.array[rows[rows >= 0][frames]]).float().to(device)  # [B, T, R, D]
        indices = [start + batch[index] for index in kept]
        yield FeatureBatch(len(batch), indices, features, None if mask is None else mask.to(device), skipped)
