"""Prediction: the classifier alone, on photos, folders or manifests. The noise model is never loaded, nor can be."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from truetag.data.bags import MediaBags, bags_of_files, join_bags, read_bags
from truetag.data.batches import even_batches, frame_places, stream_photos
from truetag.data.manifest import Manifest, read_manifest
from truetag.errors import InputError
from truetag.io.files import readable, refuse_overwriting
from truetag.io.signals import stoppable
from truetag.io.terminal import Progress
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.files import (
    MAX_SKIPPED,
    Skipped,
    check_share,
    check_skipped,
    write_skipped,
)
from truetag.media.photos import PHOTO_SUFFIXES, Preprocessing
from truetag.models.backbones import digest_weights, load_backbone
from truetag.models.classifier import Classifier
from truetag.models.features import cached_features, feature_spec
from truetag.prediction.region_maps import draw_region_maps
from truetag.prediction.table import OUTPUT_SUFFIXES, PartialTable, write_table
from truetag.runs.folder import Run, open_run

BATCH_SIZE = 32
MANIFEST_SUFFIXES = (".jsonl", ".parquet")
_FLUSH_SECONDS = 10.0


def load_classifier(run: Run) -> Classifier:
    """The trained classifier of a run, in evaluation mode, on the GPU if there is one."""
    backbone, _ = load_backbone(run.config.backbone, "none", run.config.resolution)
    state = run.load_state("classifier")
    try:
        num_labels, num_features = len(state["head.bias"]), len(state["feature_mean"])
        max_over_frames = run.config.level == "frame"
        classifier = Classifier(backbone, num_features, num_labels, run.config.pooling, max_over_frames=max_over_frames)
        classifier.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{run.folder / 'classifier.safetensors'}: does not hold a {run.config.backbone} ({reason})"
        ) from None
    if num_labels != len(run.vocabulary):
        raise InputError(f"{run.folder}: the classifier has {num_labels} labels, vocabulary.tsv {len(run.vocabulary)}")
    return classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    top_k: int | None = None,
    split: str | None = None,
    max_skipped: float = MAX_SKIPPED,
    allow_outside: bool = False,
    cache: Path | None = None,
    heatmaps: Path | None = None,
) -> int:
    """Tag photos and write one row each: id, path, tags and their probabilities, the likeliest first.

    A command that was stopped goes on where it was when it is given again.

    Args:
        run: the run folder.
        inputs: photos, folders of photos, or manifests.
        out: the table to write: .parquet, .csv, .json or .jsonl.
        threshold: write tags of at least this probability; 0.5 unless top_k is given.
        top_k: write at most this many tags a photo.
        split: of a manifest, only the rows of this split.
        max_skipped: stop if more than this share of the photos cannot be used.
        allow_outside: read photos that lie outside a manifest's media root.
        cache: where the frames of clips are cached; by default in the user's cache folder.
        heatmaps: a folder for pictures of where in each photo its tags are seen.

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
    check_share(max_skipped)
    if out.is_dir():
        raise InputError(f"out: {out} is a folder; expected the name of a table to write")
    refuse_overwriting(out, *inputs)
    opened = open_run(run)
    bags, lost = _list_bags(opened, inputs, split, cache, max_skipped, allow_outside)
    top_k = min(top_k or len(opened.vocabulary), len(opened.vocabulary))
    with PartialTable(out, _plan(opened, bags, threshold, top_k)) as table:
        _tag(opened, bags, threshold, top_k, max_skipped, table)
        count = write_table(out, table.rows())
        write_skipped(out.with_name(f"{out.name}.skipped.jsonl"), lost + table.skipped, len(bags))
        if heatmaps is not None:
            classifier = load_classifier(opened)
            draw_region_maps(classifier, opened.preprocessing, opened.vocabulary, bags, table.rows(), heatmaps)
        table.path.unlink()
    return count


def predict_manifest(
    run: Run,
    manifest: Manifest,
    split: str | None,
    cache: Path | None = None,
    max_skipped: float = MAX_SKIPPED,
    allow_outside: bool = False,
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N D"], list[int], list[Skipped]]:
    """True logits and pooled features h(I) of the rows of a split, the rows they belong to, and the skipped photos.

    A run with a frozen backbone uses the feature cache.
    """
    check_share(max_skipped)
    classifier = load_classifier(run)
    bags, skipped = _read_split(run, manifest, split, cache, max_skipped, allow_outside)
    logits: list[Tensor] = []
    pooled: list[Tensor] = []
    kept: list[int] = []
    with torch.inference_mode(), Progress("predicting", len(bags)) as progress:
        for batch in _feature_batches(run, classifier, bags, cache, max_skipped):
            if batch.frames is not None:
                o, h = classifier(batch.frames, batch.mask)
                logits.append(o.cpu())
                pooled.append(h.cpu())
            kept += batch.positions
            skipped += batch.skipped
            check_skipped(skipped, len(bags.frames), max_skipped)
            progress.advance(batch.num_bags)
    if not kept:
        raise InputError(f"{manifest.path}: none of its {len(bags)} photos can be used")
    return torch.cat(logits), torch.cat(pooled), kept, skipped


class _Features(NamedTuple):
    """A batch of consecutive bags: which of them can be used, the features of their frames, and what was skipped."""

    num_bags: int
    positions: list[int]
    frames: Float[Tensor, "B T R D"] | None
    """None where no bag could be used."""
    mask: Bool[Tensor, "B T"] | None
    skipped: list[Skipped]


def _read_split(
    run: Run, manifest: Manifest, split: str | None, cache: Path | None, max_skipped: float, allow_outside: bool
) -> tuple[MediaBags, list[Skipped]]:
    rows, num_frames = manifest.in_split(split), run.config.num_frames
    return read_bags(
        manifest, rows, allow_outside=allow_outside, num_frames=num_frames, cache=cache, max_skipped=max_skipped
    )


def _feature_batches(
    run: Run, classifier: Classifier, bags: MediaBags, cache: Path | None, max_skipped: float
) -> Iterator[_Features]:
    """The features of all bags, from the cache where the backbone is frozen."""
    if not run.config.freeze_backbone:
        yield from _extract(classifier, run.preprocessing, bags)
        return
    spec = feature_spec(classifier, run.config.backbone, digest_weights(classifier.backbone), run.preprocessing)
    features = cached_features(bags.frames, classifier, spec, cache, max_skipped)
    usable, positions = bags.keep_frames(features.rows >= 0)
    rows, device = features.rows[features.rows >= 0], classifier.head.weight.device
    for batch in even_batches(len(usable), BATCH_SIZE):
        places, mask = frame_places(usable.starts, batch)
        frames = torch.from_numpy(features.array[rows[places]]).float().to(device)
        mask = None if mask is None else mask.to(device)
        yield _Features(len(batch), [positions[i] for i in batch], frames, mask, [])
    yield _Features(len(bags) - len(usable), [], None, None, features.skipped)


def _extract(
    classifier: Classifier, preprocessing: Preprocessing, bags: MediaBags, start: int = 0
) -> Iterator[_Features]:
    """The same from the photos, for the bags from `start` on: as many whole bags at a time as make a batch."""
    groups = _group(bags.lengths, start)
    frames_of = [range(bags.starts[group.start], bags.starts[group.stop]) for group in groups]
    offset = int(bags.starts[start])
    shifted = [range(frames.start - offset, frames.stop - offset) for frames in frames_of]
    rest = bags.frames.select(range(offset, len(bags.frames)))
    device = classifier.head.weight.device
    for group, frames, batch in zip(groups, frames_of, stream_photos(rest, preprocessing, shifted), strict=True):
        skipped = [rest.skip(*entry) for entry in batch.broken.items()]
        usable = np.isin(frames, np.array(batch.positions, dtype=np.int64) + offset)
        found, positions = bags.select(group).keep_frames(usable)
        if not positions:
            yield _Features(len(group), [], None, None, skipped)
            continue
        regions = classifier.pool_features(classifier.extract(batch.pixels.to(device)))
        places, mask = frame_places(found.starts, range(len(found)))
        mask = None if mask is None else mask.to(device)
        inputs = regions[torch.from_numpy(places).to(device)]
        yield _Features(len(group), [group[i] for i in positions], inputs, mask, skipped)


def _group(lengths: Int64[np.ndarray, "N"], start: int) -> list[range]:
    """Positions of consecutive bags, as many together as have at most a batch of frames (or one longer bag)."""
    groups: list[range] = []
    frames = 0
    for position in range(start, len(lengths)):
        frames += lengths[position]
        if groups and frames <= BATCH_SIZE:
            groups[-1] = range(groups[-1].start, position + 1)
        else:
            groups.append(range(position, position + 1))
            frames = lengths[position]
    return groups


def _list_bags(
    run: Run, inputs: Sequence[Path], split: str | None, cache: Path | None, max_skipped: float, allow_outside: bool
) -> tuple[MediaBags, list[Skipped]]:
    """The bags of all inputs, and clips that cannot be used (which are bags without frames)."""
    parts: list[MediaBags] = []
    lost: list[Skipped] = []
    for item in inputs:
        if item.is_dir():
            suffixes = PHOTO_SUFFIXES | {*CLIP_SUFFIXES}
            files = sorted(path for path in item.rglob("*") if path.suffix.lower() in suffixes)
            names = [path.relative_to(item).as_posix() for path in files]
            bags, bad = bags_of_files(names, files, run.config.num_frames, cache, max_skipped)
        elif item.suffix in MANIFEST_SUFFIXES:
            bags, bad = _read_split(run, read_manifest(item), split, cache, max_skipped, allow_outside)
        elif item.exists():
            bags, bad = bags_of_files([item.name], [item], run.config.num_frames, cache, max_skipped)
        else:
            raise InputError(f"inputs: no such photo, clip, folder or manifest: {item}")
        parts.append(bags)
        lost += bad
    bags = join_bags(parts)
    if not len(bags):
        raise InputError(f"inputs: no photos or clips in {', '.join(map(str, inputs))}")
    return dataclasses.replace(bags, ids=[readable(name) for name in bags.ids]), lost


def _plan(run: Run, bags: MediaBags, threshold: float, top_k: int) -> str:
    """A fingerprint of all that the table depends on: the weights, the photos' names, sizes and times, the options."""
    digest = hashlib.blake2b(json.dumps([threshold, top_k, BATCH_SIZE, bags.ids]).encode(), digest_size=16)
    digest.update(bags.starts.tobytes())
    for name in ("config.json", "classifier.safetensors", "preprocessing.json", "vocabulary.tsv"):
        digest.update((run.folder / name).read_bytes())
    for path in bags.frames.paths:
        try:
            status = path.stat()
            signature = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            signature = "none"
        digest.update(json.dumps([str(path), signature]).encode())
    return digest.hexdigest()


def _tag(run: Run, bags: MediaBags, threshold: float, top_k: int, max_skipped: float, table: PartialTable) -> None:
    """Add the bags that the table lacks."""
    classifier = load_classifier(run)
    words = run.vocabulary.words
    flushed = time.monotonic()
    with torch.inference_mode(), Progress("tagging", len(bags)) as progress, stoppable() as stop:
        progress.advance(table.num_done)
        for batch in _extract(classifier, run.preprocessing, bags, table.num_done):
            lines = []
            if batch.frames is not None:
                logits, _ = classifier(batch.frames, batch.mask)
                probabilities, order = logits.sigmoid().cpu().topk(top_k, dim=1)
                for position, values, places in zip(batch.positions, probabilities, order, strict=True):
                    count = int((values >= threshold).sum())
                    lines.append(
                        {
                            "id": bags.ids[position],
                            "path": readable(str(bags.sources[position])),
                            "tags": [words[place] for place in places[:count].tolist()],
                            "probabilities": [round(value, 6) for value in values[:count].tolist()],
                        }
                    )
            table.add(batch.num_bags, lines, batch.skipped)
            check_skipped(table.skipped, len(bags.frames), max_skipped)
            progress.advance(batch.num_bags)
            if stop.requested or time.monotonic() - flushed > _FLUSH_SECONDS:
                table.flush()
                flushed = time.monotonic()
            if stop.requested:
                progress.say(f"stopped after {table.num_done} of {len(bags)}: the same command goes on from there")
            stop.check()
    table.flush()
