"""What an audit found, and how it is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from truetag.audit.decisions import PHOTO_KINDS
from truetag.io.text import counted

RECORD = "record"
_NUM_SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """What an audit found: tables, as `write_audit` writes them, and a summary."""

    issues: pd.DataFrame
    """The ranked list: rank, id, label, kind, probability, given, posterior, suggestion, rank_in_example, record,
    source, other. Issues of whole photos, which have no probability, stand at its end."""
    labels: pd.DataFrame
    """One label a row: given, expected numbers with intervals, rates with deviations, how many to add and remove."""
    examples: pd.DataFrame
    """One example a row: its quality in 0..1, the expected number of its wrong tags, its file, and its given tags."""
    summary: dict[str, Any]
    folder: Path = Path()


def format_audit(found: Audit) -> str:
    """What `truetag audit` prints."""
    summary, listed = found.summary, found.summary["listed"]
    lines = [
        f"{counted(summary['num_examples'], 'example')}, {counted(summary['num_labels'], 'tag')}, "
        f"{summary['num_given']} given; judged by {summary['method']}"
    ]
    words = {"missing": "missing tags", "incorrect": "incorrect tags", "record": "records of other examples"}
    for kind, numbers in summary["expected"].items():
        lines.append(
            f"  {words[kind]}: about {numbers['number']:.0f} expected ({numbers['low']:.0f} to {numbers['high']:.0f}), "
            f"{listed.get(kind, 0)} listed"
        )
    near_duplicates, outliers = (listed.get(kind, 0) for kind in PHOTO_KINDS)
    if near_duplicates or outliers:
        lines.append(
            f"  to look at: {counted(near_duplicates, 'near-duplicate photo')} with different tags, "
            f"{counted(outliers, 'photo')} that {'looks' if outliers == 1 else 'look'} like no other"
        )
    of_tags: Any = found.issues[~found.issues["kind"].isin(PHOTO_KINDS)]
    for issue in of_tags.head(_NUM_SHOWN).to_dict("records"):
        what = issue["record"] if issue["kind"] == RECORD else issue["label"]
        lines.append(f"  {issue['probability']:.3f}  {issue['kind']:9}  {issue['id']}  {what}")
    lines.append(
        f"review them: {found.folder / 'index.html'}; apply them: truetag clean --issues {found.folder}/issues.csv"
    )
    return "\n".join(lines)
