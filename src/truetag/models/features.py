"""The cache of frozen-backbone features: computed once for each photo, memory-mapped, resumable, never stale.

A cache folder belongs to one `FeatureSpec` (its name is the spec's fingerprint) and holds

    spec.json      what the features depend on: backbone, weights, preprocessing, regions
    features.bin   rows of [R, D] numbers, appended
    batches.jsonl  one line a batch: the content digests of its rows, and of the photos in it that are broken, and why
    files.txt      what each path held when last seen (size, times, digest), so that unchanged files are not read again

A batch counts once its line is complete, and lines are written after their rows are on disk: a killed run loses at
most one flush, and goes on with the very batches that an undisturbed one would have made, so that every feature comes
out the same to the last bit. A photo is known by its content: changed, it is computed again; moved or copied, not.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import __version__ as PILLOW
from torch import Tensor

from truetag.data.batches import even_batches, stream_photos
from truetag.errors import InputError
from truetag.io.files import locked, naming, write_json
from truetag.io.signals import stoppable
from truetag.io.terminal import Progress
from truetag.io.text import file_size
from truetag.media.digests import Lookup, default_cache_folder, look_up
from truetag.media.files import Photos, Skipped
from truetag.media.photos import Preprocessing, UnreadableError
from truetag.models.classifier import Classifier

BATCH_SIZE = 32
_FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class FeatureSpec:
    """All that a photo's features depend on besides the photo."""

    backbone: str
    weights_digest: str
    preprocessing: Preprocessing
    num_regions: int
    num_features: int
    dtype: Literal["float32", "float16"]

    def fingerprint(self) -> str:
        """A short name that changes with any of it."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.backbone}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    def bytes_per_photo(self) -> int:
        """Disk bytes of one photo's features."""
        return self.num_regions * self.num_features * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class CachedFeatures:
    """The features of a list of photos: `array[rows[i]]` are those of photo i; rows is -1 for a skipped photo."""

    array: np.ndarray
    rows: np.ndarray
    skipped: list[Skipped]


def cached_features(
    photos: Photos,
    classifier: Classifier,
    spec: FeatureSpec,
    folder: Path | None = None,
    max_skipped: float = 1.0,
) -> CachedFeatures:
    """Features of all photos, computing those that the cache lacks.

    Raises:
        InputError: the features will not fit on the disk, or more than the share `max_skipped` of the photos is broken.
    """
    cache = (folder or default_cache_folder()) / "features" / spec.fingerprint()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        write_json(cache / "spec.json", dataclasses.asdict(spec))
        known, broken = _read_batches(cache, spec)
        lookup = look_up(photos, cache / "files.txt", broken, known.__contains__, max_skipped)
        if lookup.missing:
            _extract(lookup, known, classifier, spec, cache)
    shape = (len(known), spec.num_regions, spec.num_features)
    array = np.memmap(cache / "features.bin", spec.dtype, "r", shape=shape) if known else np.zeros(shape, spec.dtype)
    rows = np.array([known.get(digest, -1) if digest else -1 for digest in lookup.digests], dtype=np.int64)
    return CachedFeatures(array, rows, lookup.skipped)


def feature_spec(
    classifier: Classifier, backbone: str, weights_digest: str, preprocessing: Preprocessing
) -> FeatureSpec:
    """The spec of a classifier's features; its shape is found by one black photo."""
    side = preprocessing.resolution
    device = classifier.head.weight.device
    with torch.inference_mode():
        classifier.eval()
        regions = classifier.pool_features(classifier.extract(torch.zeros(1, 3, side, side, device=device)))
    # region maps are large: half precision costs them 3 digits of 7
    dtype = "float32" if regions.shape[1] == 1 else "float16"
    return FeatureSpec(backbone, weights_digest, preprocessing, regions.shape[1], regions.shape[2], dtype)


def _extract(lookup: Lookup, known: dict[str, int], classifier: Classifier, spec: FeatureSpec, cache: Path) -> None:
    """Append the features of the missing photos to the cache, and their digests to `known`."""
    wanted = lookup.wanted
    digests, batches = list(wanted), even_batches(len(wanted), BATCH_SIZE)
    size, free = len(wanted) * spec.bytes_per_photo(), shutil.disk_usage(cache).free
    if size > free:
        raise InputError(
            f"features of {len(wanted)} photos need {file_size(size)}, but {cache} has {file_size(free)} free"
        )
    classifier.eval()
    with (
        naming(cache / "features.bin"),
        (cache / "features.bin").open("ab") as features_file,
        (cache / "batches.jsonl").open("a") as batches_file,
        Progress("features", len(wanted)) as progress,
        stoppable() as stop,
        torch.inference_mode(),
    ):
        flushed, pending = time.monotonic(), []

        def flush() -> None:
            features_file.flush()
            os.fsync(features_file.fileno())
            batches_file.writelines(pending)
            pending.clear()
            batches_file.flush()
            os.fsync(batches_file.fileno())

        try:
            for batch in stream_photos(lookup.files.select(wanted.values()), spec.preprocessing, batches):
                if batch.positions:
                    pixels = batch.pixels.to(classifier.head.weight.device)
                    regions = classifier.pool_features(classifier.extract(pixels)).cpu()
                    features_file.write(_to_bytes(regions, spec))
                rows = [digests[position] for position in batch.positions]
                # what the system did not give today says nothing of the content
                lasting = {
                    digests[position]: str(error)
                    for position, error in batch.broken.items()
                    if not isinstance(error, UnreadableError)
                }
                pending.append(json.dumps({"rows": rows, "broken": lasting, "pillow": PILLOW}) + "\n")
                known.update(zip(rows, count(len(known))))
                for position, error in batch.broken.items():
                    lookup.note_broken(digests[position], str(error))
                progress.advance(len(rows) + len(batch.broken))
                if progress.done <= BATCH_SIZE < len(wanted):  # one batch tells how long the rest will take
                    estimate = (time.monotonic() - flushed) / progress.done * len(wanted)
                    progress.say(f"features of {len(wanted)} photos: {file_size(size)} on disk, about {estimate:.0f} s")
                if time.monotonic() - flushed > _FLUSH_SECONDS:
                    flush()
                    flushed = time.monotonic()
                if stop.requested:
                    progress.say(f"stopped after {progress.done} of {len(wanted)} photos; the same command goes on")
                stop.check()
        finally:
            flush()


def _to_bytes(regions: Tensor, spec: FeatureSpec) -> bytes:
    return np.ascontiguousarray(regions.numpy(), dtype=spec.dtype).tobytes()


def _read_batches(cache: Path, spec: FeatureSpec) -> tuple[dict[str, int], dict[str, str]]:
    """Digest -> row of all complete batches, and digest -> reason of their broken photos.

    What a killed run left behind half-written is cut off. Another Pillow may decode what this one cannot, so its
    verdicts count for itself alone.
    """
    features_path, batches_path = cache / "features.bin", cache / "batches.jsonl"
    features_path.touch()
    batches_path.touch()
    num_rows, num_characters = features_path.stat().st_size // spec.bytes_per_photo(), 0
    known: dict[str, int] = {}
    broken: dict[str, str] = {}
    for line in batches_path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True):
        try:
            batch = json.loads(line)
            rows, verdicts = list(batch["rows"]), dict(batch["broken"]) if batch["pillow"] == PILLOW else {}
        except (ValueError, TypeError, KeyError):  # torn, or not ours
            break
        if not line.endswith("\n") or len(known) + len(rows) > num_rows:
            break
        known.update(zip(rows, count(len(known))))
        broken |= verdicts
        num_characters += len(line)
    os.truncate(features_path, len(known) * spec.bytes_per_photo())
    os.truncate(batches_path, num_characters)
    return known, broken
