"""`truetag caption evaluate`: a captioner's sentences against the captions of people."""

from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from truetag.captioning.decode import Decoding
from truetag.captioning.folder import open_captioner
from truetag.captioning.scores import CaptionScores, score_captions
from truetag.captioning.write import caption_frames, moved_source
from truetag.data.manifest import read_manifest
from truetag.errors import InputError
from truetag.io.files import write_json
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import counted
from truetag.media.files import Reading, SkipList

Metrics = dict[str, Any]


@takes_paths
def evaluate_captions(
    captioner: Path,
    data: Path,
    split: str | None = "test",
    run: Path | None = None,
    features: Path | None = None,
    official: bool | Literal["auto"] = "auto",
    decoding: Decoding = Decoding(),
    reading: Reading = Reading(),
) -> Metrics:
    """Score a captioner and write CAPTIONER/metrics/MANIFEST-SPLIT.json, and its sentences beside it.

    Args:
        captioner: the folder of `truetag caption train`.
        data: the manifest with the clips and the captions of people; where it has `true_captions`, those.
        split: the rows to score; `all` for every row.
        run: where the run is whose concepts the captioner reads, if not where it was.
        features: where the features of these rows are, if not where those of training were.
        official: the official tokenizer and METEOR, which need Java; auto: where they are installed.
        decoding: greedy or beam, and how long sentences may be.
        reading: how photos and clips are read.

    Raises:
        InputError: an option or an input is wrong, or the official scores are asked for and not installed.
    """
    opened = open_captioner(captioner)
    source = moved_source(opened, run, features)
    manifest = read_manifest(data)
    rows = manifest.in_split(None if split == "all" else split)
    references, truth = _references(rows)
    kept = [row for row, captions in enumerate(references) if captions]
    if not kept:
        raise InputError(f"{data}: expected captions to score against in split {split}, got none in {len(rows)} rows")
    if silent := len(rows) - len(kept):
        tell(f"{counted(silent, 'row')} without captions left out")
    rows = rows.select(kept)
    skips = SkipList(reading.max_skipped)
    ids = rows["id"][:]
    written = caption_frames(opened, source, ids, source.read(manifest, rows, reading, skips), decoding)
    people = dict(zip(ids, (references[row] for row in kept), strict=True))
    scores = score_captions(
        {row.id: people[row.id] for row in written},
        {row.id: row.caption for row in written},
        official=official,
    )
    metrics = {"split": split, "truth": truth, "num_examples": len(written), "num_skipped": len(skips)}
    metrics |= describe_scores(scores) | {"decoding": vars(decoding)}
    path = opened.folder / "metrics" / f"{data.stem}-{split or 'all'}.json"
    write_json(path, metrics)
    results = [row._asdict() | scores.per_clip[row.id] for row in written]
    write_json(path.with_suffix(".captions.json"), results)
    skips.write(path.with_name(f"{path.name}.skipped.jsonl"))
    return metrics


def describe_scores(scores: CaptionScores) -> Metrics:
    """The scores by their names, in 0..1 (CIDEr: 0..10)."""
    bleu = {f"bleu_{n}": value for n, value in enumerate(scores.bleu, 1)}
    rest = {"rouge_l": scores.rouge_l, "cider": scores.cider, "meteor": scores.meteor}
    return bleu | rest | {"tokenizer": scores.tokenizer, "missing": scores.missing}


def format_scores(metrics: Metrics) -> str:
    """What `truetag caption evaluate` prints; scores times 100, as papers print them."""
    header = f"{metrics['num_examples']} examples of split {metrics['split']}, against {metrics['truth']}"
    names = {
        "cider": "CIDEr-D",
        **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
        "rouge_l": "ROUGE-L",
        "meteor": "METEOR",
    }
    values = [f"{100 * metrics[name]:.2f}" if metrics[name] is not None else "-" for name in names]
    widths = [max(len(title), len(value)) + 2 for title, value in zip(names.values(), values, strict=True)]
    lines = [header] + [
        "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for cells in (names.values(), values)
    ]
    if metrics["missing"]:
        lines.append(metrics["missing"])
    if metrics["num_skipped"]:
        lines.append(f"{metrics['num_skipped']} photos or clips could not be used")
    return "\n".join(lines)


def _references(rows: Dataset) -> tuple[list[list[str]], str]:
    """The captions of people, of each row; and what they are called."""
    true_captions = rows["true_captions"][:]
    if any(captions is not None for captions in true_captions):
        return [captions or [] for captions in true_captions], "true captions"
    return [captions or [] for captions in rows["captions"][:]], "captions"
