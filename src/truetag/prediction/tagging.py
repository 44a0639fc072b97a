"""`truetag predict`: tag photos, folders or manifests with the classifier alone; no noise model is ever loaded."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import torch
from jaxtyping import Float
from torch import Tensor

from truetag.data import vocabulary
from truetag.data.bags import MediaBags, bags_of_files, join_bags, read_bags
from truetag.data.manifest import read_manifest
from truetag.errors import InputError
from truetag.evaluation.decisions import DEFAULT_THRESHOLD
from truetag.io.files import readable, refuse_overwriting
from truetag.io.fingerprints import fingerprint
from truetag.io.paths import takes_paths
from truetag.io.signals import stoppable
from truetag.io.terminal import Progress, tell
from truetag.io.text import counted, one_line
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.files import Reading, SkipList
from truetag.media.names import list_files
from truetag.media.photos import PHOTO_SUFFIXES
from truetag.models.building import load_classifier
from truetag.prediction.inference import BATCH_SIZE, feature_batches
from truetag.prediction.region_maps import draw_region_maps
from truetag.prediction.table import OUTPUT_SUFFIXES, PartialTable, Tagged, write_table
from truetag.runs.folder import Run, open_run

MANIFEST_SUFFIXES = (".jsonl", ".parquet")
_FLUSH_SECONDS = 10.0
_NAMED_WORDS = 5


@dataclass(frozen=True)
class _Choice:
    """Which tags of a photo are written: of the `labels` the `top_k` likeliest whose probability is high enough."""

    threshold: float
    top_k: int
    labels: list[int]
    """The indices of the words that may be written at all."""


@takes_paths
def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    top_k: int | None = None,
    function_words: bool = False,
    split: str | None = None,
    heatmaps: Path | None = None,
    reading: Reading = Reading(),
) -> int:
    """Tag photos and write one row for each: id, path, tags and their probabilities, the likeliest first.

    A command that was stopped continues where it was when it is given again.

    Args:
        run: the run folder.
        inputs: photos, folders of photos, or manifests.
        out: the table to write: .parquet, .csv, .json or .jsonl.
        threshold: write the tags with at least this probability; by default the one that training chose on noisy
            validation tags, or 0.5 where it chose none, and 0 if top_k is given.
        top_k: write at most this many tags per photo.
        function_words: write articles, pronouns, prepositions, forms of be, have and do, numbers and single letters as
            tags, too.
        split: tag only the rows of this split of a manifest.
        heatmaps: a folder for pictures that show where in each photo its tags are seen.
        reading: how photos and clips are read.

    Returns:
        The number of tagged photos; those that cannot be used are listed in OUT.skipped.jsonl.

    Raises:
        InputError: an option or an input is wrong, or too many photos cannot be used.
    """
    if out.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"out: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, got {out.name!r}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold: expected a probability between 0 and 1, got {threshold:g}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k: expected at least 1, got {top_k}")
    if out.is_dir():
        raise InputError(f"out: expected the name of a table to write, got the folder {out}")
    refuse_overwriting(out, *inputs)
    if not inputs:
        raise InputError("inputs: expected photos, clips, folders or manifests, got none")
    opened = open_run(run)
    opened.require_finished()
    skips = SkipList(reading.max_skipped)
    bags = list_bags(opened, inputs, split, reading, skips)
    choice = _make_choice(opened, threshold, top_k, function_words)
    with PartialTable(out, _fingerprint(opened, bags, choice), skips) as table:
        _tag(opened, bags, choice, table, reading)
        count = write_table(out, table.rows())
        num_clips = sum(PurePath(row["path"]).suffix.lower() in CLIP_SUFFIXES for row in table.rows())
        kinds = [(count - num_clips, "photo"), (num_clips, "clip")]
        tell(" and ".join(counted(number, noun) for number, noun in kinds if number) + " tagged")
        skips.write(out.with_name(f"{out.name}.skipped.jsonl"))
        if heatmaps is not None:
            classifier = load_classifier(opened)
            draw_region_maps(classifier, opened.preprocessing, opened.vocabulary, bags, table.rows(), heatmaps)
        table.remove()
    return count


def _make_choice(run: Run, threshold: float | None, top_k: int | None, function_words: bool) -> _Choice:
    """Which tags are written; what a person did not decide is said.

    Args:
        run: its threshold and vocabulary.
        threshold: as it was given.
        top_k: as it was given.
        function_words: whether they may be written.

    Raises:
        InputError: the run's threshold.json is broken.
    """
    if threshold is None and top_k:
        threshold = 0.0
    elif threshold is None:
        chosen = run.threshold()
        threshold = DEFAULT_THRESHOLD if chosen is None else chosen
        reason = "the run has chosen none itself" if chosen is None else "which training chose on the validation tags"
        tell(f"threshold: {threshold:.3f}, {reason}; --threshold sets another")
    words = run.vocabulary.words
    left_out = [] if function_words else vocabulary.function_words(run.vocabulary)
    if left_out:
        some = ", ".join(left_out[:_NAMED_WORDS]) + (", .." if len(left_out) > _NAMED_WORDS else "")
        what = "function words, numbers and letters are not written as tags"
        tell(f"{len(left_out)} {what} ({some}); --function-words writes them, too")
    labels = sorted(set(range(len(words))) - {run.vocabulary.index[word] for word in left_out})
    return _Choice(threshold, min(top_k or len(labels), len(labels)), labels)


def list_bags(run: Run, inputs: Sequence[Path], split: str | None, reading: Reading, skips: SkipList) -> MediaBags:
    """The bags of all inputs; a clip that cannot be used is an empty bag.

    Args:
        run: decides the number of frames per clip.
        inputs: photos, clips, folders or manifests.
        split: the split of manifests; None for all rows.
        reading: how photos and clips are read.
        skips: gets the clips that cannot be used.

    Raises:
        InputError: an input does not exist, there are no photos, or too many clips cannot be used.
    """
    num_frames = run.config.num_frames
    parts: list[MediaBags] = []
    for item in inputs:
        if item.is_dir():
            names = _list_folder(item)
            parts.append(bags_of_files(names, [item / name for name in names], reading, skips, num_frames))
        elif item.suffix in MANIFEST_SUFFIXES:
            manifest = read_manifest(item)
            parts.append(read_bags(manifest, manifest.in_split(split), reading, skips, num_frames))
        elif item.exists():
            parts.append(bags_of_files([item.name], [item], reading, skips, num_frames))
        else:
            raise InputError(f"inputs: no such photo, clip, folder or manifest: {item}")
    bags = join_bags(parts)
    if not len(bags):
        raise InputError(f"inputs: no photos or clips in {', '.join(map(str, inputs))}")
    return replace(bags, ids=[readable(name) for name in bags.ids])


def _list_folder(folder: Path) -> list[str]:
    """The photos and clips below a folder; how many other files are passed over is said."""
    suffixes = {name: PurePath(name).suffix.lower() for name in list_files(folder)}
    known = PHOTO_SUFFIXES | {*CLIP_SUFFIXES}
    if others := Counter(suffix or "no suffix" for suffix in suffixes.values() if suffix not in known):
        kinds = ", ".join(
            f"{count} x {suffix}" for suffix, count in sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
        )
        tell(f"{folder}: {counted(others.total(), 'file')} passed over ({one_line(kinds)})")
    return [name for name, suffix in suffixes.items() if suffix in known]


def _fingerprint(run: Run, bags: MediaBags, choice: _Choice) -> str:
    """A fingerprint of all that the table depends on: the run, the photos' names, sizes and times, the options."""

    def parts() -> Iterator[str | bytes]:
        yield json.dumps([choice.threshold, choice.top_k, choice.labels, BATCH_SIZE, bags.ids])
        yield bags.starts.tobytes()
        yield run.digest
        yield from bags.frames.signatures()

    return fingerprint(parts())


def _tag(run: Run, bags: MediaBags, choice: _Choice, table: PartialTable, reading: Reading) -> None:
    """Add the bags that the table lacks.

    Args:
        run: the run whose classifier tags.
        bags: all bags.
        choice: which tags are written.
        table: the table of the bags that are tagged already.
        reading: where features are cached.

    Raises:
        InputError: too many photos cannot be used.
        KeyboardInterrupt: after Ctrl-C (SystemExit after SIGTERM), once all tagged bags are on disk.
    """
    classifier = load_classifier(run)
    flushed = time.monotonic()
    batches = feature_batches(run, classifier, bags, reading, table.skips.total, table.num_done)
    with torch.inference_mode(), Progress("tagging", len(bags)) as progress, stoppable() as stop:
        progress.advance(table.num_done)
        for batch in batches:
            rows = []
            if batch.features is not None:
                logits, _ = classifier(batch.features, batch.mask)
                rows = _choose_tags(bags, batch.indices, logits.sigmoid().cpu(), run.vocabulary.words, choice)
            table.add(batch.num_bags, rows, batch.skipped)
            progress.advance(batch.num_bags)
            if stop.requested or time.monotonic() - flushed > _FLUSH_SECONDS:
                table.flush()
                flushed = time.monotonic()
            if stop.requested:
                progress.say(f"stopped after {table.num_done} of {len(bags)}: the same command goes on from there")
            stop.check()
    table.flush()


def _without_dots(path: Path) -> Path:
    """A path of a manifest's media folder leads over `..`: where it ends is clearer."""
    return path.resolve() if ".." in path.parts else path


def _choose_tags(
    bags: MediaBags,
    indices: Sequence[int],
    probabilities: Float[Tensor, "B K"],
    words: Sequence[str],
    choice: _Choice,
) -> list[Tagged]:
    """The rows of the table for some bags.

    Args:
        bags: all bags.
        indices: the indices of B bags.
        probabilities: their probabilities.
        words: the labels.
        choice: which tags are written.
    """
    rows = []
    words = [words[label] for label in choice.labels]
    values, labels = probabilities[:, choice.labels].topk(choice.top_k, dim=1)  # [B, top_k]: the likeliest first
    for index, bag_values, bag_labels in zip(indices, values, labels, strict=True):
        count = int((bag_values >= choice.threshold).sum())
        rows.append(
            {
                "id": bags.ids[index],
                "path": readable(str(_without_dots(bags.paths[index]))),
                "tags": [words[label] for label in bag_labels[:count].tolist()],
                "probabilities": [round(value, 6) for value in bag_values[:count].tolist()],
            }
        )
    return rows
