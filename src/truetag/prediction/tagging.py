"""`truetag predict`: tag photos, folders or manifests with the classifier alone; no noise model is ever loaded."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor

from truetag.data.bags import MediaBags, bags_of_files, join_bags, read_bags
from truetag.data.manifest import Manifest, read_manifest
from truetag.errors import InputError
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
from truetag.prediction.choice import Choice, check_choice, make_choice
from truetag.prediction.inference import BATCH_SIZE, feature_batches
from truetag.prediction.region_maps import draw_region_maps
from truetag.prediction.shard import Shard, parse_shard
from truetag.prediction.table import OUTPUT_SUFFIXES, PartialTable, Tagged, write_table
from truetag.runs.folder import Run, open_run

MANIFEST_SUFFIXES = (".jsonl", ".parquet")
_FLUSH_SECONDS = 10.0


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
    shard: str | None = None,
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
        shard: tag one part of the rows only, such as 3/64 for the third of 64; parts count from 1. OUT.parquet becomes
            OUT-00003-of-00064.parquet, and all parts joined in order are the whole table.
        reading: how photos and clips are read.

    Returns:
        The number of tagged photos; those that cannot be used are listed in OUT.skipped.jsonl.

    Raises:
        InputError: an option or an input is wrong, or too many photos cannot be used.
    """
    if out.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"out: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, got {out.name!r}")
    check_choice(threshold, top_k)
    part = None if shard is None else parse_shard(shard)
    if part is not None:
        out = part.path(out)
    if out.is_dir():
        raise InputError(f"out: expected the name of a table to write, got the folder {out}")
    refuse_overwriting(out, *inputs)
    if not inputs:
        raise InputError("inputs: expected photos, clips, folders or manifests, got none")
    opened = open_run(run)
    opened.require_finished()
    skips = SkipList(reading.max_skipped)
    bags = list_bags(opened, inputs, split, reading, skips, part)
    choice = make_choice(opened, threshold, top_k, function_words)
    choice.tell()
    with PartialTable(out, _fingerprint(opened, bags, choice), skips) as table:
        _tag(opened, bags, choice, table, reading)
        count = write_table(out, table.rows())
        num_clips = sum(PurePath(row["path"]).suffix.lower() in CLIP_SUFFIXES for row in table.rows())
        kinds = [(count - num_clips, "photo"), (num_clips, "clip")]
        tell((" and ".join(counted(number, noun) for number, noun in kinds if number) or "nothing") + " tagged")
        skips.write(out.with_name(f"{out.name}.skipped.jsonl"))
        if heatmaps is not None:
            classifier = load_classifier(opened)
            draw_region_maps(classifier, opened.preprocessing, opened.vocabulary, bags, table.rows(), heatmaps)
        table.remove()
    return count


def list_bags(
    run: Run,
    inputs: Sequence[Path],
    split: str | None,
    reading: Reading,
    skips: SkipList,
    shard: Shard | None = None,
) -> MediaBags:
    """The bags of all inputs; a clip that cannot be used is an empty bag.

    Args:
        run: decides the number of frames per clip.
        inputs: photos, clips, folders or manifests.
        split: the split of manifests; None for all rows.
        reading: how photos and clips are read.
        skips: gets the clips that cannot be used.
        shard: the part of all rows that is wanted, which may be empty; None for all.

    Raises:
        InputError: an input does not exist, there are no photos, or too many clips cannot be used.
    """
    listed: list[_Files | _Rows] = []
    for item in inputs:
        if item.is_dir():
            names = _list_folder(item)
            listed.append(_Files(names, [item / name for name in names]))
        elif item.suffix in MANIFEST_SUFFIXES:
            manifest = read_manifest(item)
            listed.append(_Rows(manifest, manifest.in_split(split)))
        elif item.exists():
            listed.append(_Files([item.name], [item]))
        else:
            raise InputError(f"inputs: no such photo, clip, folder or manifest: {item}")
    lengths = [len(part.ids if isinstance(part, _Files) else part.rows) for part in listed]
    num_rows = sum(lengths)
    if not num_rows:
        raise InputError(f"inputs: no photos or clips in {', '.join(map(str, inputs))}")
    wanted = range(num_rows) if shard is None else shard.rows(num_rows)
    bags: list[MediaBags] = []
    first = 0
    for part, length in zip(listed, lengths, strict=True):
        rows = range(max(wanted.start - first, 0), min(wanted.stop - first, length))  # of this input
        first += length
        if not rows:
            continue
        if isinstance(part, _Rows):
            some = part.rows if len(rows) == length else part.rows.select(rows)
            bags.append(read_bags(part.manifest, some, reading, skips, run.config.num_frames))
        else:
            some = slice(rows.start, rows.stop)
            bags.append(bags_of_files(part.ids[some], part.paths[some], reading, skips, run.config.num_frames))
    joined = join_bags(bags)
    return replace(joined, ids=[readable(name) for name in joined.ids])


class _Files(NamedTuple):
    """Photos and clips as they are listed, before any clip is decoded."""

    ids: list[str]
    paths: list[Path]


class _Rows(NamedTuple):
    """Rows of a manifest, likewise."""

    manifest: Manifest
    rows: Dataset


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


def _fingerprint(run: Run, bags: MediaBags, choice: Choice) -> str:
    """A fingerprint of all that the table depends on: the run, the photos' names, sizes and times, the options."""

    def parts() -> Iterator[str | bytes]:
        yield json.dumps([choice.threshold, choice.top_k, choice.labels, BATCH_SIZE, bags.ids])
        yield bags.starts.tobytes()
        yield run.digest
        yield from bags.frames.signatures()

    return fingerprint(parts())


def _tag(run: Run, bags: MediaBags, choice: Choice, table: PartialTable, reading: Reading) -> None:
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
    choice: Choice,
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
    for index, (labels, values) in zip(indices, choice.indices(probabilities), strict=True):
        rows.append(
            {
                "id": bags.ids[index],
                "path": readable(str(_without_dots(bags.paths[index]))),
                "tags": [words[label] for label in labels],
                "probabilities": [round(value, 6) for value in values],
            }
        )
    return rows
