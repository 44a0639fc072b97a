"""The cache of frozen-backbone features: computed once for each photo, memory-mapped, resumable, never stale.

A cache folder belongs to one `FeatureSpec` (its name is the spec's fingerprint) and holds

    spec.json      what the features depend on: backbone, weights, preprocessing, regions
    features.bin   rows of [R, D] numbers, appended
    rows.txt       one line a row: the digest of the photo's content
    files.txt      what each path held when last seen (size, times, digest), so that unchanged files are not read again

A row counts once its line is complete, and lines are written after their rows are on disk: a killed run loses at most
one flush. A photo is known by its content: changed, it is computed again; moved or copied, it is not.
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from truetag.classifier import Classifier
from truetag.data.bags import Skipped, stream_photos
from truetag.data.media import Preprocessing
from truetag.errors import InputError
from truetag.progress import Progress

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


def default_cache_folder() -> Path:
    """`$TRUETAG_CACHE`, or `truetag` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TRUETAG_CACHE") or Path(home) / "truetag")


def cached_features(
    paths: Sequence[Path],
    classifier: Classifier,
    spec: FeatureSpec,
    folder: Path | None = None,
) -> CachedFeatures:
    """Features of all photos, computing those that the cache lacks.

    Raises:
        InputError: the features will not fit on the disk.
    """
    cache = (folder or default_cache_folder()) / "features" / spec.fingerprint()
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "spec.json").write_text(json.dumps(dataclasses.asdict(spec), indent=1))
    with _locked(cache):
        known = _read_rows(cache, spec)
        digests, unreadable = _digest_files(paths, cache / "files.txt")
        wanted = {digest: path for path, digest in zip(paths, digests, strict=True) if digest and digest not in known}
        broken = _extract(wanted, known, classifier, spec, cache) if wanted else {}
    shape = (len(known), spec.num_regions, spec.num_features)
    array = np.memmap(cache / "features.bin", spec.dtype, "r", shape=shape) if known else np.zeros(shape, spec.dtype)
    rows = np.array([known.get(digest, -1) if digest else -1 for digest in digests], dtype=np.int64)
    skipped = [
        Skipped(path, broken[digest] if digest else unreadable[path])
        for path, digest, row in zip(paths, digests, rows, strict=True)
        if row < 0
    ]
    return CachedFeatures(array, rows, skipped)


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


def _extract(
    wanted: dict[str, Path],
    known: dict[str, int],
    classifier: Classifier,
    spec: FeatureSpec,
    cache: Path,
) -> dict[str, str]:
    """Append the features of `wanted` (content digest -> path) to the cache and `known`; return the broken, and why."""
    size, free = len(wanted) * spec.bytes_per_photo(), shutil.disk_usage(cache).free
    if size > free:
        raise InputError(f"features of {len(wanted)} photos need {_mb(size)}, but {cache} has {_mb(free)} free")
    digests, paths = list(wanted), list(wanted.values())
    broken: dict[str, str] = {}
    digest_of = {path: digest for digest, path in wanted.items()}
    classifier.eval()
    with (
        (cache / "features.bin").open("ab") as features_file,
        (cache / "rows.txt").open("a") as rows_file,
        Progress("features", len(paths)) as progress,
        torch.inference_mode(),
    ):
        flushed, pending = time.monotonic(), []

        def flush() -> None:
            for file in (features_file, rows_file):
                if file is rows_file:
                    rows_file.writelines(f"{digest}\n" for digest in pending)
                file.flush()
                os.fsync(file.fileno())
            pending.clear()

        try:
            for batch in stream_photos(paths, spec.preprocessing, BATCH_SIZE):
                if batch.positions:
                    photos = batch.photos.to(classifier.head.weight.device)
                    regions = classifier.pool_features(classifier.extract(photos)).cpu()
                    features_file.write(_to_bytes(regions, spec))
                for position in batch.positions:
                    known[digests[position]] = len(known)
                    pending.append(digests[position])
                broken |= {digest_of[path]: reason for path, reason in batch.skipped}
                progress.advance(len(batch.positions) + len(batch.skipped))
                if progress.done <= BATCH_SIZE < len(paths):  # one batch tells how long the rest will take
                    estimate = (time.monotonic() - flushed) / progress.done * len(paths)
                    progress.say(f"features of {len(paths)} photos: {_mb(size)} on disk, about {estimate:.0f} s")
                if time.monotonic() - flushed > _FLUSH_SECONDS:
                    flush()
                    flushed = time.monotonic()
        finally:
            flush()
    return broken


def _to_bytes(regions: Tensor, spec: FeatureSpec) -> bytes:
    return np.ascontiguousarray(regions.numpy(), dtype=spec.dtype).tobytes()


def _read_rows(cache: Path, spec: FeatureSpec) -> dict[str, int]:
    """Digest -> row of every complete row; what a killed run left behind half-written is cut off."""
    features_path, rows_path = cache / "features.bin", cache / "rows.txt"
    features_path.touch()
    rows_path.touch()
    *lines, _ = rows_path.read_text().split("\n")
    complete = lines[: features_path.stat().st_size // spec.bytes_per_photo()]
    os.truncate(features_path, len(complete) * spec.bytes_per_photo())
    os.truncate(rows_path, sum(len(line) + 1 for line in complete))
    return {digest: row for row, digest in enumerate(complete)}


def _digest_files(paths: Sequence[Path], memo_path: Path) -> tuple[list[str | None], dict[Path, str]]:
    """Content digests, None for files that cannot be read (with the reasons); unchanged files come from the memo."""
    memo: dict[str, tuple[str, str]] = {}
    memo_path.touch()
    for line in memo_path.read_text().split("\n"):
        with suppress(ValueError):  # a line torn by a crash: its file is read again
            path, signature, digest = json.loads(line)
            memo[path] = (signature, digest)
    digests: list[str | None] = []
    unreadable: dict[Path, str] = {}
    with memo_path.open("a") as file:
        file.write("\n")  # ends a torn line
        for path in paths:
            name = str(path.resolve())
            try:
                # the change time cannot be set by a program: a rewritten file never looks unchanged
                status = path.stat()
                signature = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                if memo.get(name, ("", ""))[0] != signature:
                    with path.open("rb") as photo:
                        digest = hashlib.file_digest(photo, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
                    memo[name] = (signature, digest)
                    file.write(json.dumps([name, signature, digest]) + "\n")
                digests.append(memo[name][1])
            except OSError as error:
                digests.append(None)
                unreadable[path] = f"cannot be read ({error.strerror})"
    return digests, unreadable


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mb(size: int) -> str:
    return f"{math.ceil(size / 1e5) / 10:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
