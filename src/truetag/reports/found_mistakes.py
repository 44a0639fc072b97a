"""What an audit found in the tags of a few photos, and how often it finds each tag to be wrong."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from markupsafe import Markup

from truetag.audit.decisions import read_issues
from truetag.data.manifest import read_manifest
from truetag.errors import InputError
from truetag.io.text import shown
from truetag.media.files import Reading
from truetag.reports.charts import Interval
from truetag.reports.pictures import pictured_rows
from truetag.reports.seed_groups import SeedGroup
from truetag.runs.folder import read_json_object

_DEVIATIONS = 1.96  # 95 % of a normal distribution


@dataclass(frozen=True)
class FoundAudit:
    """The list of issues of an audit, and what lies beside it."""

    name: str
    """Of the runs that it is of, or of the file that was named."""
    issues: Path
    manifest: Path | None
    """What was audited; None where the audit does not say, or the file is not there any more."""


@dataclass(frozen=True)
class SuspectPhoto:
    """A photo and what was found wrong of it; probabilities that this is a mistake stand beside tags."""

    id: str
    picture: Markup | None
    given: list[str] = field(default_factory=list)
    """The given tags that are not suspected."""
    incorrect: list[tuple[str, float]] = field(default_factory=list)
    missing: list[tuple[str, float]] = field(default_factory=list)
    records: list[tuple[str, float]] = field(default_factory=list)
    """Captions and lists of tags that probably belong to other photos."""


def find_audits(groups: Sequence[SeedGroup], issues: Path | None, data: Path | None) -> list[FoundAudit]:
    """The audits to show: the one that is named, or one of each group that lies in a run's folder or beside it.

    Args:
        groups: the runs.
        issues: a list of issues; None to look for lists.
        data: the manifest with the photos; None for the one that the audit names.

    Raises:
        InputError: the summary of an audit is broken.
    """
    if issues is not None:
        names = [g.name for g in groups if any(_is_of(issues.parent, record.run.folder) for record in g.records)]
        return [FoundAudit([*names, str(issues)][0], issues, data or _named(issues.parent, "manifest"))]
    found = []
    for group in groups:
        runs = [record.run.folder for record in group.records]
        folders = [(run, folder) for run in runs for folder in (run / "audit", run.parent / "audit")]
        folder = next((folder for run, folder in folders if _is_of(folder, run)), None)
        if folder is not None:
            found.append(FoundAudit(group.name, folder / "issues.parquet", data or _named(folder, "manifest")))
    return found


def _is_of(folder: Path, run: Path) -> bool:
    """Whether the folder holds an audit of this run."""
    of_run = _named(folder, "run")
    return (folder / "issues.parquet").is_file() and of_run is not None and of_run.resolve() == run.resolve()


def _named(folder: Path, name: str) -> Path | None:
    """A path that the summary of an audit names, if it is there."""
    summary = folder / "summary.json"
    value = read_json_object(summary).get(name) if summary.is_file() else None
    if value is not None and not isinstance(value, str):
        raise InputError(f"{summary}: {name}: expected a path, got {shown(value)}")
    return path if value is not None and (path := folder / value).exists() else None


def suspect_photos(audit: FoundAudit, count: int, reading: Reading) -> list[SuspectPhoto]:
    """The photos with the surest issues, at most `count`.

    Raises:
        InputError: the list of issues is broken.
    """
    suspected: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for suggestion in read_issues(audit.issues).suggestions:
        change = suggestion.change
        if suggestion.row not in suspected and len(suspected) == count:
            continue
        kinds = suspected.setdefault(suggestion.row, {"add": [], "remove": [], "remove record": []})
        kinds[change.action].append((change.tag or change.record or "", change.probability or 0.0))
    pictured = {}
    if audit.manifest is not None:
        pictured = pictured_rows(read_manifest(audit.manifest), list(suspected), ("id",), reading)
    given = _given_tags(audit.issues.parent, suspected)
    photos = []
    for name, kinds in suspected.items():
        incorrect = {tag for tag, _ in kinds["remove"]}
        kept = [tag for tag in given.get(name, []) if tag not in incorrect]
        picture = pictured[name].picture if name in pictured else None
        photos.append(SuspectPhoto(name, picture, kept, kinds["remove"], kinds["add"], kinds["remove record"]))
    return photos


def _given_tags(folder: Path, names: Mapping[str, Any]) -> dict[str, list[str]]:
    path = folder / "examples.parquet"
    if not path.is_file():
        return {}
    table = pq.read_table(path, columns=["id", "given"])
    columns = (table[name].to_pylist() for name in ("id", "given"))
    return {name: given for name, given in zip(*columns, strict=True) if name in names}


def audited_rates(audit: FoundAudit) -> dict[str, dict[str, Interval]]:
    """`missing` and `incorrect` rates of each tag with intervals of 95 %; empty where there is no labels.csv.

    Raises:
        InputError: a line of it is broken.
    """
    path = audit.issues.parent / "labels.csv"
    rates: dict[str, dict[str, Interval]] = {"missing": {}, "incorrect": {}}
    if not path.is_file():
        return rates
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for kind, of_kind in rates.items():
                try:
                    values = [row[f"{kind}_rate{end}"] for end in ("", "_std")]
                    if "" in values:  # nothing is known of this tag
                        continue
                    rate, deviation = map(float, values)
                except (KeyError, TypeError, ValueError):
                    raise InputError(f"{path}: expected rates with deviations, got {shown(row)}") from None
                half = _DEVIATIONS * deviation
                of_kind[row["label"]] = Interval(rate, max(rate - half, 0.0), min(rate + half, 1.0))
    return rates
