"""What a captioner reads: the features of each clip's frames, from a run (its concepts) or from a person's own files.

Such files are either a folder with ID.npy of shape [T, D] for each row of the manifest, or one .npz file with `ids` [F]
and `features` [F, D], the frames of a clip one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from truetag.data.bags import MediaBags, read_bags
from truetag.data.batches import frame_indices
from truetag.data.manifest import Manifest
from truetag.errors import InputError
from truetag.io.fingerprints import fingerprint
from truetag.io.tensors import read_tensors, write_tensors
from truetag.io.terminal import Progress
from truetag.io.text import one_line, shown
from truetag.media.digests import default_cache_folder
from truetag.media.files import Reading, SkipList, Skipped
from truetag.models.building import load_classifier
from truetag.prediction.inference import feature_batches
from truetag.runs.folder import Run, open_run

_NO_FRAMES = "no frames"


@dataclass(frozen=True)
class FrameFeatures:
    """The features of the frames of N clips, one clip after another."""

    rows: list[int]
    """The index of each clip among those that were asked for; clips without a usable frame are absent."""
    array: Shaped[np.ndarray, "F D"]
    starts: Int64[np.ndarray, "S"]
    """Clip i has the frames `starts[i]` to `starts[i + 1]`, at least one."""

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    @property
    def num_features(self) -> int:
        """D."""
        return self.array.shape[1]

    def batch(self, clips: Sequence[int]) -> tuple[Float[Tensor, "B T D"], Int64[Tensor, "B"]]:
        """The features of some clips, padded at the end, and how many frames of each are real."""
        frames, _ = frame_indices(self.starts, clips)
        lengths = np.diff(self.starts)[np.asarray(clips, dtype=np.int64)]
        return torch.from_numpy(np.asarray(self.array[frames], dtype=np.float32)), torch.from_numpy(lengths)

    def fingerprint(self) -> str:
        """Of all numbers."""
        return fingerprint([str(self.array.dtype), np.ascontiguousarray(self.array).data, self.starts.tobytes()])


@dataclass(frozen=True)
class Source:
    """Where features come from: a finished run, whose concepts they are, or files."""

    run: Path | None
    features: Path | None

    def __post_init__(self) -> None:
        if (self.run is None) == (self.features is None):
            both = "both" if self.run is not None else "neither"
            raise InputError(f"run, features: expected one of them to read frames from, got {both}")

    @cached_property
    def opened(self) -> Run | None:
        """The run; None for files.

        Raises:
            InputError: it is not finished, or a file of it is broken.
        """
        if self.run is None:
            return None
        opened = open_run(self.run)
        opened.require_finished()
        return opened

    @property
    def digest(self) -> str | None:
        """A fingerprint of what computes the features; None for files."""
        return None if self.opened is None else self.opened.digest

    def read(self, manifest: Manifest, rows: Dataset, reading: Reading, skips: SkipList) -> FrameFeatures:
        """The features of some rows of a manifest.

        Args:
            manifest: the manifest that the rows belong to.
            rows: some of its rows.
            reading: how photos and clips are read, and where concepts are cached.
            skips: expects the rows and gets what cannot be used.

        Raises:
            InputError: a file is not what it should be, or too many clips cannot be used.
        """
        if self.opened is not None:
            bags = read_bags(manifest, rows, reading, skips, self.opened.config.num_frames)
            return read_concepts(self.opened, bags, reading, skips)
        assert self.features is not None
        return read_features(self.features, rows["id"][:], skips)


def read_concepts(run: Run, bags: MediaBags, reading: Reading, skips: SkipList) -> FrameFeatures:
    """The probability of each concept in each frame; computed once, then cached.

    Args:
        run: a finished run, whose vocabulary are the K concepts.
        bags: the clips.
        reading: where the cache is.
        skips: gets what cannot be used.

    Raises:
        InputError: too many photos or clips cannot be used.
    """
    name = fingerprint([run.digest, bags.starts.tobytes(), *bags.frames.signatures()])
    path = (reading.cache or default_cache_folder()) / "concepts" / f"{name}.safetensors"
    if path.is_file():
        state, note = read_tensors(path)
        skips.restore(note["skipped"])
    else:
        state, skipped = _compute_concepts(run, bags, reading, skips)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, state, {"skipped": skipped})
    usable = np.zeros(len(bags.frames), dtype=bool)
    usable[state["frames"].numpy()] = True
    kept, indices = bags.keep_frames(usable)
    return FrameFeatures(indices, state["probabilities"].numpy(), kept.starts)


def _compute_concepts(
    run: Run, bags: MediaBags, reading: Reading, skips: SkipList
) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Run the classifier on each frame alone.

    Returns:
        The "probabilities" [F, K] of the usable frames and their indices, "frames"; and the photos that cannot be used.
    """
    classifier = load_classifier(run)
    frames = bags.each_frame()
    found = SkipList(reading.max_skipped, skips.total)
    probabilities, indices = [torch.zeros(0, len(run.vocabulary), dtype=torch.float16)], []
    with torch.inference_mode(), Progress("concepts of frames", len(frames)) as progress:
        for batch in feature_batches(run, classifier, frames, reading, skips.total):
            if batch.features is not None:
                probabilities.append(classifier(batch.features, batch.mask)[0].sigmoid().half().cpu())
            indices += batch.indices
            found.report_all(batch.skipped)
            progress.advance(batch.num_bags)
    skips.report_all(found)
    return {"probabilities": torch.cat(probabilities), "frames": torch.tensor(indices)}, found.to_json()


def read_features(path: Path, ids: Sequence[str], skips: SkipList) -> FrameFeatures:
    """The features of a person's own.

    Args:
        path: a folder of .npy files, or an .npz file.
        ids: of the rows whose features are wanted.
        skips: gets the rows without features.

    Raises:
        InputError: the file is not what it should be, or too many rows have no features.
    """
    skips.expect(len(ids))
    of_id = _from_folder(path, ids) if path.is_dir() else _from_archive(path)
    rows: list[int] = []
    parts: list[np.ndarray] = []
    for row, (name, features) in enumerate(zip(ids, map(of_id.get, ids), strict=True)):
        if features is None or not len(features):
            reason = _NO_FRAMES if features is not None else "no features of this id"
            skips.report(Skipped(name, path, reason))
            continue
        if parts and features.shape[1] != parts[0].shape[1]:
            expected, got = parts[0].shape[1], features.shape[1]
            raise InputError(
                f"{path}: expected {expected} features per frame, as in the first clip, got {got} in {shown(name)}"
            )
        if not np.isfinite(features).all():
            raise InputError(f"{path}: expected finite features, got NaN or infinity in {shown(name)}")
        rows.append(row)
        parts.append(features)
    if not rows:
        raise InputError(f"{path}: expected features of {len(ids)} rows by their ids, got none of them")
    return FrameFeatures(rows, np.concatenate(parts), np.cumsum([0, *map(len, parts)]))


def _from_folder(folder: Path, ids: Sequence[str]) -> dict[str, np.ndarray]:
    paths = {name: folder / f"{name}.npy" for name in ids}
    return {name: _as_features(path, _load(path)) for name, path in paths.items() if path.is_file()}


def _from_archive(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder of features")
    arrays = _load(path)
    if not isinstance(arrays, dict) or arrays.keys() != {"ids", "features"}:
        raise InputError(
            f"{path}: expected an .npz file with `ids` and `features`, or a folder with ID.npy for each row"
        )
    ids, features = arrays["ids"].astype(str), _as_features(path, arrays["features"])
    if ids.shape != features.shape[:1]:
        raise InputError(f"{path}: expected an id for each of {len(features)} frames, got ids of shape {ids.shape}")
    bounds = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
    found: dict[str, np.ndarray] = {}
    for start, end in pairwise(bounds if len(ids) else []):
        name = str(ids[start])
        if name in found:
            raise InputError(
                f"{path}: expected the frames of a clip one after another, got {shown(name)} in two places"
            )
        found[name] = features[start:end]
    return found


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, or the wanted ones of an .npz file."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            return {name: content[name] for name in ("ids", "features") if name in content.files}
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not a readable numpy file ({one_line(error)})") from None


def _as_features(path: Path, value: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
    """An array [T, D]; a single vector is one frame."""
    if not isinstance(value, np.ndarray) or value.ndim not in (1, 2) or value.dtype.kind not in "fiu":
        got = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else "several arrays"
        raise InputError(f"{path}: expected numbers of shape [frames, features], got {got}")
    return np.atleast_2d(value).astype(np.float32, copy=False)
