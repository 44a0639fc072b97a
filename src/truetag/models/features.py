"""The cache of frozen-backbone features: computed once per photo, memory-mapped, resumable, never stale.

A cache folder belongs to one `FeatureSpec` (its name is the spec's fingerprint) and holds

    spec.json      what the features depend on: backbone, weights, preprocessing, regions
    features.bin   rows of [R, D] numbers, appended
    batches.jsonl  one line per batch: the content digests of its rows, and the digests and reasons of broken photos
    files.txt      what each path held when it was last seen (size, times, digest): unchanged files are not read again

A batch counts once its line is complete, and lines are written after their rows are on disk. A killed run therefore
loses at most what it had not flushed, and the next one continues with the very batches of an undisturbed run, so that
every feature is the same to the last bit. Photos are identified by their content: a changed photo is computed again, a
moved or copied one is not.
"""

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from PIL import __version__ as PILLOW
from torch import Tensor

from truetag.data.batches import even_batches, stream_photos
from truetag.data.embeddings import Embeddings, open_embeddings
from truetag.errors import InputError
from truetag.io.files import locked, naming, write_json
from truetag.io.fingerprints import fingerprint
from truetag.io.signals import stoppable
from truetag.io.terminal import Progress
from truetag.io.text import file_size
from truetag.media.digests import Lookup, default_cache_folder, look_up
from truetag.media.files import MediaFiles, SkipList
from truetag.media.photos import UnreadableError
from truetag.media.preprocessing import Preprocessing
from truetag.models.backbones import digest_weights
from truetag.models.classifier import Classifier
from truetag.runs.config import EMBEDDINGS

BATCH_SIZE = 32
_FLUSH_SECONDS = 10.0


class NoSpaceError(InputError):
    """The features do not fit on the disk."""


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that a photo's features depend on besides the photo."""

    backbone: str
    weights_digest: str
    preprocessing: Preprocessing
    num_regions: int
    num_features: int
    dtype: Literal["float32", "float16"]

    def fingerprint(self) -> str:
        """A short name that changes with any of the fields."""
        return f"{self.backbone}-{fingerprint([json.dumps(dataclasses.asdict(self), sort_keys=True)], num_bytes=8)}"

    def bytes_per_photo(self) -> int:
        """The size of one photo's features on disk."""
        return self.num_regions * self.num_features * np.dtype(self.dtype).itemsize


class CachedFeatures(NamedTuple):
    """The features of a list of photos."""

    array: Shaped[np.ndarray, "M R D"]
    """All features of the cache or of a file of embeddings, memory-mapped."""
    rows: Int64[np.ndarray, "F"]
    """The row of each photo in `array`; -1 for a photo that cannot be used."""
    name: str
    """What they come from: changes whenever the features may."""


def features_of(
    frames: MediaFiles,
    classifier: Classifier,
    backbone: str,
    preprocessing: Preprocessing,
    skips: SkipList,
    cache: Path | None = None,
) -> CachedFeatures:
    """The features of photos, from the cache or computed; those of embeddings, from their file.

    Args:
        frames: the photos or embeddings.
        classifier: extracts and pools the features of photos.
        backbone: the name of its backbone, `embeddings` where it reads these.
        preprocessing: what the backbone expects of a photo.
        skips: gets the photos that cannot be used.
        cache: the folder of all caches; by default the user's.

    Raises:
        NoSpaceError: the features do not fit on the disk.
        InputError: too many photos cannot be used; or the classifier reads photos and these are embeddings, or the
            other way round, or their width differs.
    """
    require_readable(frames, backbone, classifier.num_features)
    if frames.rows is None:
        spec = feature_spec(classifier, backbone, digest_weights(classifier.backbone), preprocessing)
        return cached_features(frames, classifier, spec, skips, cache)
    rows = np.array(frames.rows, dtype=np.int64)
    if not len(rows):
        return CachedFeatures(np.zeros((0, 1, classifier.num_features), np.float32), rows, "")
    embeddings = _embeddings_of(frames)
    embeddings.require_finite(rows)
    return CachedFeatures(embeddings.array[:, None], rows, embeddings.path.name)


def require_readable(frames: MediaFiles, backbone: str, num_features: int) -> None:
    """Refuse what a classifier cannot read.

    Args:
        frames: photos or embeddings.
        backbone: the name of its backbone, `embeddings` where it reads these.
        num_features: D.

    Raises:
        InputError: it reads photos and these are embeddings, or the other way round; or their width differs.
    """
    if not len(frames):
        return
    path = frames.paths[0]
    if backbone != EMBEDDINGS:
        if frames.rows is not None:
            raise InputError(f"{path}: expected photos or clips, which a run on {backbone} reads, got embeddings")
    elif frames.rows is None:
        raise InputError(
            f"{path}: expected embeddings of {num_features} numbers, as the run was trained on, got photos or clips; "
            "give the file of their embeddings with --features"
        )
    elif (width := _embeddings_of(frames).array.shape[1]) != num_features:
        raise InputError(
            f"{path}: expected embeddings of {num_features} numbers, as the run was trained on, got {width}"
        )


def _embeddings_of(frames: MediaFiles) -> Embeddings:
    return open_embeddings(frames.paths[0])


def cached_features(
    photos: MediaFiles, classifier: Classifier, spec: FeatureSpec, skips: SkipList, cache: Path | None = None
) -> CachedFeatures:
    """The features of all photos; those that the cache lacks are computed.

    Args:
        photos: the files to read.
        classifier: extracts and pools the features.
        spec: what the features depend on.
        skips: gets the photos that cannot be used.
        cache: the folder of all caches; by default the user's.

    Raises:
        NoSpaceError: the features do not fit on the disk.
        InputError: too many photos cannot be used.
    """
    folder = (cache or default_cache_folder()) / "features" / spec.fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        write_json(folder / "spec.json", dataclasses.asdict(spec))
        rows_of_digests, broken = _read_batches(folder, spec)
        lookup = look_up(photos, folder / "files.txt", broken, rows_of_digests.__contains__, skips)
        if lookup.missing:
            _compute_missing(lookup, rows_of_digests, classifier, spec, folder)
    shape = (len(rows_of_digests), spec.num_regions, spec.num_features)
    array = (
        np.memmap(folder / "features.bin", spec.dtype, "r", shape=shape)
        if rows_of_digests
        else np.zeros(shape, spec.dtype)
    )
    rows = [-1 if digest is None else rows_of_digests[digest] for digest in lookup.digests]
    return CachedFeatures(array, np.array(rows, dtype=np.int64), spec.fingerprint())


def feature_spec(
    classifier: Classifier, backbone: str, weights_digest: str, preprocessing: Preprocessing
) -> FeatureSpec:
    """The spec of a classifier's features; a black photo shows their shape.

    Args:
        classifier: extracts and pools the features.
        backbone: the name of its backbone.
        weights_digest: a fingerprint of the backbone's weights.
        preprocessing: what the backbone expects of a photo.
    """
    side = preprocessing.resolution
    device = classifier.head.weight.device
    with torch.inference_mode():
        classifier.eval()
        photo = torch.zeros(1, 3, side, side, device=device)
        regions = classifier.pool_features(classifier.extract(photo))  # [1, R, D]
    # region maps are large: half precision costs them 3 digits of 7
    dtype = "float32" if regions.shape[1] == 1 else "float16"
    return FeatureSpec(backbone, weights_digest, preprocessing, regions.shape[1], regions.shape[2], dtype)


def _compute_missing(
    lookup: Lookup, rows_of_digests: dict[str, int], classifier: Classifier, spec: FeatureSpec, folder: Path
) -> None:
    """Append the features of the missing photos to the cache.

    Args:
        lookup: what is missing; gets the photos that turn out to be broken.
        rows_of_digests: gets the rows of the new features.
        classifier: extracts and pools the features.
        spec: what the features depend on.
        folder: the folder of this cache.

    Raises:
        NoSpaceError: the features do not fit on the disk.
        InputError: too many photos cannot be used.
    """
    digests, photos = list(lookup.missing), lookup.missing_files()
    batches = even_batches(len(photos), BATCH_SIZE)
    size, free = len(photos) * spec.bytes_per_photo(), shutil.disk_usage(folder).free
    if size > free:
        raise NoSpaceError(
            f"features of {len(photos)} photos need {file_size(size)}, but {folder} has {file_size(free)} free"
        )
    classifier.eval()
    with (
        naming(folder / "features.bin"),
        (folder / "features.bin").open("ab") as features_file,
        (folder / "batches.jsonl").open("a") as batches_file,
        Progress("features", len(photos)) as progress,
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
            for batch in stream_photos(photos, spec.preprocessing, batches):
                if batch.indices:
                    pixels = batch.pixels.to(classifier.head.weight.device)
                    regions = classifier.pool_features(classifier.extract(pixels)).cpu()  # [B, R, D]
                    features_file.write(_to_bytes(regions, spec))
                new_digests = [digests[index] for index in batch.indices]
                # an unreadable file says nothing about its content, so it is tried again next time
                lasting = {
                    digests[index]: str(error)
                    for index, error in batch.broken.items()
                    if not isinstance(error, UnreadableError)
                }
                pending.append(json.dumps({"rows": new_digests, "broken": lasting, "pillow": PILLOW}) + "\n")
                rows_of_digests.update(zip(new_digests, count(len(rows_of_digests))))
                for index, error in batch.broken.items():
                    lookup.report_broken(digests[index], str(error))
                progress.advance(len(batch.indices) + len(batch.broken))
                if progress.done <= BATCH_SIZE < len(photos):  # the first batch predicts the time of the rest
                    estimate = (time.monotonic() - flushed) / progress.done * len(photos)
                    progress.say(f"features of {len(photos)} photos: {file_size(size)} on disk, about {estimate:.0f} s")
                if time.monotonic() - flushed > _FLUSH_SECONDS:
                    flush()
                    flushed = time.monotonic()
                if stop.requested:
                    progress.say(f"stopped after {progress.done} of {len(photos)} photos; the same command goes on")
                stop.check()
        finally:
            flush()


def _to_bytes(regions: Float[Tensor, "B R D"], spec: FeatureSpec) -> bytes:
    return np.ascontiguousarray(regions.numpy(), dtype=spec.dtype).tobytes()


def _read_batches(folder: Path, spec: FeatureSpec) -> tuple[dict[str, int], dict[str, str]]:
    """Read which features the cache has, and cut off what a killed run left half-written.

    Returns:
        Digest -> row of all complete batches; and digest -> reason of their broken photos, as far as this version of
        Pillow has tried them: another may decode what this one cannot.
    """
    features_path, batches_path = folder / "features.bin", folder / "batches.jsonl"
    features_path.touch()
    batches_path.touch()
    num_rows, num_characters = features_path.stat().st_size // spec.bytes_per_photo(), 0
    rows_of_digests: dict[str, int] = {}
    broken: dict[str, str] = {}
    for line in batches_path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True):
        try:
            batch = json.loads(line)
            new_digests, reasons = list(batch["rows"]), dict(batch["broken"]) if batch["pillow"] == PILLOW else {}
        except (ValueError, TypeError, KeyError):  # torn, or not ours
            break
        if not line.endswith("\n") or len(rows_of_digests) + len(new_digests) > num_rows:
            break
        rows_of_digests.update(zip(new_digests, count(len(rows_of_digests))))
        broken |= reasons
        num_characters += len(line)
    os.truncate(features_path, len(rows_of_digests) * spec.bytes_per_photo())
    os.truncate(batches_path, num_characters)
    return rows_of_digests, broken
