"""Prediction: the classifier alone, on photos, folders or manifests. The noise model is never loaded, nor can be."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from truetag.backbones import digest_weights, load_backbone
from truetag.classifier import Classifier
from truetag.data.bags import Skipped, stream_photos
from truetag.data.manifest import Manifest, read_manifest
from truetag.data.media import PHOTO_SUFFIXES
from truetag.errors import InputError
from truetag.features import CachedFeatures, cached_features, feature_spec
from truetag.files import replacing
from truetag.progress import Progress
from truetag.runs import Run, open_run, write_skipped

BATCH_SIZE = 32
ROWS_PER_WRITE = 1000
MANIFEST_SUFFIXES = (".jsonl", ".parquet")
OUTPUT_SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")
Tagged = dict[str, Any]

_SCHEMA = pa.schema(
    {"id": pa.string(), "path": pa.string(), "tags": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32())}
)


def load_classifier(run: Run) -> Classifier:
    """The trained classifier of a run, in evaluation mode, on the GPU if there is one."""
    backbone, _ = load_backbone(run.config.backbone, "none", run.config.resolution)
    state = run.load_state("classifier")
    num_labels, num_features = state["head.weight"].shape
    classifier = Classifier(backbone, num_features, num_labels, run.config.pooling)
    classifier.load_state_dict(state)
    return classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    top_k: int | None = None,
    split: str | None = None,
) -> int:
    """Tag photos and write one row each: id, path, tags and their probabilities, the likeliest first.

    Args:
        run: the run folder.
        inputs: photos, folders of photos, or manifests.
        out: the table to write: .parquet, .csv, .json or .jsonl.
        threshold: write tags of at least this probability; 0.5 unless top_k is given.
        top_k: write at most this many tags a photo.
        split: of a manifest, only the rows of this split.

    Returns:
        How many photos were tagged; those that could not be used are listed in OUT.skipped.jsonl.
    """
    if out.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"out: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, got {out.name!r}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must be between 0 and 1, got {threshold}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}")
    if threshold is None:
        threshold = 0.0 if top_k else 0.5
    opened = open_run(run)
    ids, paths = _list_photos(inputs, split)
    skipped: list[Skipped] = []
    with replacing(out) as temporary:
        rows = _tag(opened, ids, paths, threshold, top_k, skipped)
        count = _write(temporary, rows)
    beside = out.with_name(f"{out.stem}.skipped.jsonl")
    beside.unlink(missing_ok=True)
    if skipped:
        write_skipped(beside, skipped)
        print(f"{len(skipped)} of {len(paths)} files could not be used; they are listed in {beside}", file=sys.stderr)
    return count


def predict_manifest(
    run: Run, manifest: Manifest, split: str | None, cache: Path | None = None
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N D"], list[int], list[Skipped]]:
    """True logits and pooled features h(I) of the rows of a split, the rows they belong to, and the skipped files.

    A run with a frozen backbone uses the feature cache.
    """
    classifier = load_classifier(run)
    device = classifier.head.weight.device
    paths = manifest.photo_paths(split)
    logits: list[Tensor] = []
    pooled: list[Tensor] = []
    kept: list[int] = []
    skipped: list[Skipped] = []
    with torch.inference_mode(), Progress("predicting", len(paths)) as progress:
        for positions, inputs, bad in _bags(run, classifier, paths, cache):
            o, h = classifier(inputs.to(device))
            logits.append(o.cpu())
            pooled.append(h.cpu())
            kept += positions
            skipped += bad
            progress.advance(len(positions) + len(bad))
    if not kept:
        raise InputError(f"{manifest.path}: none of its {len(paths)} photos can be used")
    return torch.cat(logits), torch.cat(pooled), kept, skipped


def _bags(
    run: Run, classifier: Classifier, paths: Sequence[Path], cache: Path | None
) -> Iterator[tuple[list[int], Tensor, list[Skipped]]]:
    """Batches of bags: the positions of their paths, photos or cached features, and what was skipped."""
    if not run.config.freeze_backbone:
        for batch in stream_photos(paths, run.preprocessing, BATCH_SIZE):
            yield batch.positions, batch.photos, batch.skipped
        return
    spec = feature_spec(classifier, run.config.backbone, digest_weights(classifier.backbone), run.preprocessing)
    features: CachedFeatures = cached_features(paths, classifier, spec, cache)
    good = [position for position, row in enumerate(features.rows) if row >= 0]
    for start in range(0, len(good), BATCH_SIZE):
        positions = good[start : start + BATCH_SIZE]
        yield positions, torch.from_numpy(features.array[features.rows[positions]]).float(), []
    yield [], torch.zeros(0, spec.num_regions, spec.num_features), features.skipped


def _list_photos(inputs: Sequence[Path], split: str | None) -> tuple[list[str], list[Path]]:
    ids: list[str] = []
    paths: list[Path] = []
    for item in inputs:
        if item.is_dir():
            found = sorted(path for path in item.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
            ids += [path.relative_to(item).as_posix() for path in found]
            paths += found
        elif item.suffix in MANIFEST_SUFFIXES:
            manifest = read_manifest(item)
            ids += manifest.in_split(split)["id"][:]
            paths += manifest.photo_paths(split)
        elif item.exists():
            ids.append(item.name)
            paths.append(item)
        else:
            raise InputError(f"inputs: no such photo, folder or manifest: {item}")
    if not paths:
        raise InputError(f"inputs: no photos in {', '.join(map(str, inputs))}")
    return ids, paths


def _tag(
    run: Run, ids: list[str], paths: list[Path], threshold: float, top_k: int | None, skipped: list[Skipped]
) -> Iterator[Tagged]:
    classifier = load_classifier(run)
    device, words = classifier.head.weight.device, run.vocabulary.words
    top_k = min(top_k or len(words), len(words))
    with torch.inference_mode(), Progress("tagging", len(paths)) as progress:
        for batch in stream_photos(paths, run.preprocessing, BATCH_SIZE):
            skipped += batch.skipped
            progress.advance(len(batch.positions) + len(batch.skipped))
            if not batch.positions:
                continue
            logits, _ = classifier(batch.photos.to(device))
            probabilities, order = logits.sigmoid().cpu().topk(top_k, dim=1)
            for position, values, places in zip(batch.positions, probabilities, order, strict=True):
                count = int((values >= threshold).sum())
                yield {
                    "id": ids[position],
                    "path": str(paths[position]),
                    "tags": [words[place] for place in places[:count].tolist()],
                    "probabilities": [round(value, 6) for value in values[:count].tolist()],
                }


def _write(path: Path, rows: Iterator[Tagged]) -> int:
    """Stream rows into a table, whose kind the suffix of `path` names; returns how many there were."""
    count = 0

    def counted() -> Iterator[Tagged]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, _SCHEMA) as writer:
            stream = counted()
            while chunk := list(islice(stream, ROWS_PER_WRITE)):
                writer.write_table(pa.Table.from_pylist(chunk, _SCHEMA))
        return count
    with path.open("w", encoding="utf-8", newline="") as file:
        match path.suffix:
            case ".csv":
                table = csv.writer(file)
                table.writerow(_SCHEMA.names)
                for row in counted():
                    lists = (";".join(row["tags"]), ";".join(map(str, row["probabilities"])))
                    table.writerow([row["id"], row["path"], *lists])
            case ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in counted())
            case _:
                file.write("[")
                for row in counted():
                    file.write((",\n " if count > 1 else "\n ") + json.dumps(row, ensure_ascii=False))
                file.write("\n]\n")
    return count
