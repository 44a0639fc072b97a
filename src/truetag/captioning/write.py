"""`truetag caption write`: sentences for clips and photos, as COCO's results, CSV or Parquet."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator

from truetag.captioning.decode import Decoding, write_all
from truetag.captioning.folder import CaptionerFolder, open_captioner
from truetag.captioning.frames import FrameFeatures, Source, read_concepts
from truetag.data.manifest import read_manifest
from truetag.errors import InputError
from truetag.io.files import refuse_overwriting, replacing, write_json
from truetag.io.paths import takes_paths
from truetag.io.terminal import Progress, tell
from truetag.io.text import counted
from truetag.media.files import Reading, SkipList
from truetag.prediction.inputs import MANIFEST_SUFFIXES
from truetag.prediction.listing import list_bags

OUTPUT_SUFFIXES = (".json", ".csv", ".parquet")


class WrittenCaption(NamedTuple):
    """A sentence for a clip, and its log probability."""

    id: str
    caption: str
    log_probability: float


@takes_paths
def write_captions(
    captioner: Path,
    inputs: Sequence[Path],
    out: Path,
    run: Path | None = None,
    features: Path | None = None,
    split: str | None = None,
    decoding: Decoding = Decoding(),
    reading: Reading = Reading(),
) -> int:
    """Write a sentence for each photo or clip.

    Args:
        captioner: the folder of `truetag caption train`.
        inputs: photos, clips, folders or manifests; manifests alone where the captioner reads features from files.
        out: the file to write: .json (COCO's results: image_id and caption), .csv or .parquet.
        run: where the run is whose concepts the captioner reads, if not where it was.
        features: where the features of these inputs are, if not where those of training were.
        split: only the rows of this split of a manifest.
        decoding: greedy or beam, and how long sentences may be.
        reading: how photos and clips are read.

    Returns:
        The number of sentences; inputs that cannot be used are listed in OUT.skipped.jsonl.

    Raises:
        InputError: an option or an input is wrong, or too many photos or clips cannot be used.
    """
    if out.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"out: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, got {out.name!r}")
    refuse_overwriting(out, *inputs)
    if not inputs:
        raise InputError("inputs: expected photos, clips, folders or manifests, got none")
    opened = open_captioner(captioner)
    source = moved_source(opened, run, features)
    skips = SkipList(reading.max_skipped)
    ids, frames = _read_inputs(source, inputs, split, reading, skips)
    written = caption_frames(opened, source, ids, frames, decoding)
    _write(out, written)
    tell(f"{counted(len(written), 'caption')} written")
    skips.write(out.with_name(f"{out.name}.skipped.jsonl"))
    return len(written)


def moved_source(captioner: CaptionerFolder, run: Path | None, features: Path | None) -> Source:
    """Where the features are: as a person says, or else as they were in training.

    Raises:
        InputError: a run is given to a captioner of features, or the other way round.
    """
    source = captioner.source
    for name, given, known in (("run", run, source.run), ("features", features, source.features)):
        if given is not None and known is None:
            got = "features" if name == "run" else "the concepts of a run"
            raise InputError(f"{name}: expected what {captioner.folder} was trained on, which is {got}")
    return Source(run or source.run, features or source.features)


def caption_frames(
    captioner: CaptionerFolder, source: Source, ids: Sequence[str], frames: FrameFeatures, decoding: Decoding
) -> list[WrittenCaption]:
    """The sentence of each clip with frames.

    Args:
        captioner: a finished one.
        source: where the features come from.
        ids: of all clips that were asked for.
        frames: of those that can be used.
        decoding: greedy or beam, and how long sentences may be.

    Raises:
        InputError: the features are not those that the captioner was trained on.
    """
    captioner.require_fitting(frames, source)
    network = captioner.load().to(Accelerator().device)
    written = []
    with Progress("writing", len(frames)) as progress:
        for clips, sentences in write_all(network, frames, decoding):
            for clip, sentence in zip(clips, sentences, strict=True):
                text = " ".join(captioner.words.decode(sentence.words))
                written.append(WrittenCaption(ids[frames.rows[clip]], text, sentence.log_probability))
            progress.advance(len(clips))
    return written


def _read_inputs(
    source: Source, inputs: Sequence[Path], split: str | None, reading: Reading, skips: SkipList
) -> tuple[list[str], FrameFeatures]:
    """The ids of all clips, and the features of those that can be used."""
    if source.opened is not None:
        bags = list_bags(source.opened.config.num_frames, inputs, split, reading, skips)
        return list(bags.ids), read_concepts(source.opened, bags, reading, skips)
    if len(inputs) != 1 or inputs[0].suffix not in MANIFEST_SUFFIXES:
        got = ", ".join(map(str, inputs))
        raise InputError(f"inputs: expected one manifest, whose ids the features have, got {got}")
    manifest = read_manifest(inputs[0])
    rows = manifest.in_split(split)
    return rows["id"][:], source.read(manifest, rows, reading, skips)


def _write(out: Path, written: Sequence[WrittenCaption]) -> None:
    if out.suffix == ".json":
        # COCO's ids are numbers
        results = [
            {"image_id": int(row.id) if row.id.isdecimal() else row.id, "caption": row.caption} for row in written
        ]
        write_json(out, results)
    elif out.suffix == ".csv":
        with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(WrittenCaption._fields)
            table.writerows((row.id, row.caption, round(row.log_probability, 6)) for row in written)
    else:
        with replacing(out) as temporary:
            pq.write_table(pa.Table.from_pylist([row._asdict() for row in written]), temporary)
