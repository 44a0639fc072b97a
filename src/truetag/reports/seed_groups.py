"""Runs as a report reads them: what each has left behind so far, and which of them differ in their seed alone."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from truetag.errors import InputError
from truetag.io.text import counted, shown
from truetag.runs.config import MACHINE_SETTINGS
from truetag.runs.folder import Run, open_run, read_json_object, requested_config
from truetag.runs.metrics import read_label_counts, read_metrics
from truetag.runs.paths import distinct_names, runs_in
from truetag.runs.settings_file import CHOICES
from truetag.truth import Metrics


@dataclass(frozen=True)
class Record:
    """A run, finished or not, and what it has left behind."""

    run: Run
    history: list[dict[str, Any]]
    metrics: dict[str, Metrics]
    """By the names of their files."""
    label_counts: dict[str, tuple[int, int, int]]
    """How often each tag is present, absent and unknown in training."""
    reason: str
    """Why the settings that were left open are as they are; empty where none were, or nothing is chosen yet."""


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone, and count as one."""

    name: str
    records: list[Record]

    @property
    def run(self) -> Run:
        """The first one."""
        return self.records[0].run


class Spread(NamedTuple):
    """A mean over seeds, with the standard deviation where there are several."""

    mean: float
    deviation: float | None


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and deviation of the values that are there; None where there are none.

    >>> spread([0.25, None, 0.75]).mean, spread([0.5]), spread([None])
    (0.5, Spread(mean=0.5, deviation=None), None)
    """
    known = [value for value in values if value is not None]
    return Spread(fmean(known), stdev(known) if len(known) > 1 else None) if known else None


def group_runs(folders: Sequence[Path]) -> list[SeedGroup]:
    """Read runs, and put together those that differ in their seed alone.

    These are runs with the same settings and words but different seeds, if they lie in one folder of seeds or have
    learnt from the same tags (their labels.tsv are alike).

    Args:
        folders: of runs, or of runs seed-0, seed-1, .. of one recipe.

    Raises:
        InputError: a folder holds no run, a run is named twice, or a file of it is broken.
    """
    names = distinct_names(folders)
    groups: dict[str, list[SeedGroup]] = {}
    for name, folder in zip(names, folders, strict=True):
        paths = runs_in(folder)
        for path in paths:
            record = read_record(path)
            alike = groups.setdefault(_key(record, folder if path != folder else None), [])
            for group in alike:
                if all(other.run.config.seed != record.run.config.seed for other in group.records):
                    group.records.append(record)
                    break
            else:
                alike.append(SeedGroup(name, [record]))
    found = sorted((group for alike in groups.values() for group in alike), key=lambda group: names.index(group.name))
    distinct_names([record.run.folder for group in found for record in group.records])  # refuses a run named twice
    return _named_apart(found)


def _named_apart(groups: list[SeedGroup]) -> list[SeedGroup]:
    """A folder of seeds with different settings makes several groups: these get the names of their first runs."""
    names = [group.name for group in groups]
    return [
        dataclasses.replace(group, name=f"{group.name}/{group.run.folder.name}")
        if names.count(group.name) > 1
        else group
        for group in groups
    ]


def _key(record: Record, folder_of_seeds: Path | None) -> str:
    settings = dataclasses.asdict(requested_config(record.run))
    settings = {name: value for name, value in settings.items() if name not in ("seed", *MACHINE_SETTINGS)}
    data = str(folder_of_seeds.resolve()) if folder_of_seeds else record.label_counts or str(record.run.folder)
    return json.dumps([settings, record.run.vocabulary.words, data])


def read_record(folder: Path) -> Record:
    """A run and what it has left behind.

    Raises:
        InputError: a file of it is broken.
    """
    run = open_run(folder)
    history = run.history() if (folder / "history.jsonl").is_file() else []
    for row in history:
        for name in ("loss", "validation_ap"):
            if type(row.get(name)) not in (int, float):
                raise InputError(f"{folder / 'history.jsonl'}: {name}: expected a number, got {shown(row.get(name))}")
    chosen = folder / CHOICES
    reason = read_json_object(chosen).get("reason", "") if chosen.is_file() else ""
    return Record(run, history, dict(read_metrics(folder)), read_label_counts(folder), str(reason))


def describe_state(record: Record) -> str:
    """How far a run has come."""
    if record.run.is_finished:
        return "finished"
    config = record.run.config
    return f"not finished: {len(record.history)} of {counted(config.stage1_epochs + config.stage2_epochs, 'epoch')}"
