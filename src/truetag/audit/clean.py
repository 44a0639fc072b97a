"""`truetag clean`: a manifest with the tags that an audit suggests, or that a person decided on its page.

What a person decided becomes `verified_tags` and `rejected_tags`: certain for training, never listed again, never
changed by cleaning. Every row keeps its `changes`, so that `--undo` brings the manifest back.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from truetag.audit.annotations import read_annotations
from truetag.audit.decisions import PERSON, Change, Suggestion, Wanted, read_issues, soften, surest
from truetag.data.manifest import iterate_rows, read_header, relative_root, write_manifest
from truetag.data.rows import ANY_TAG, PROBABILITIES, Row
from truetag.data.words import normalise, word_matcher
from truetag.errors import InputError
from truetag.io.files import refuse_existing, refuse_overwriting
from truetag.io.paths import takes_paths
from truetag.io.text import counted, one_line, parse_json, shown

_MOST_SHOWN = 10


@dataclass(frozen=True)
class Changes:
    """What was changed, or would be."""

    by_row: dict[str, list[Change]]
    out: Path | None
    """None for a dry run."""
    num_decided: int = 0
    """Suggestions that were left alone, as a person has decided about the tag."""
    notes: list[str] = field(default_factory=list)
    """What else was left alone or left out, in words."""

    def describe(self) -> str:
        """What changes, in lines."""
        total = Counter(change.action for changes in self.by_row.values() for change in changes)
        lines = []
        for name, changes in list(self.by_row.items())[:_MOST_SHOWN]:
            parts = [f"{_SIGNS[change.action]}{one_line(str(change.tag or change.record), 60)}" for change in changes]
            lines.append(f"  {one_line(name)}: {', '.join(parts)}")
        if len(self.by_row) > _MOST_SHOWN:
            lines.append(f"  and {counted(len(self.by_row) - _MOST_SHOWN, 'more row')}")
        actions = ", ".join(f"{action}: {count}" for action, count in total.items()) or "nothing"
        lines.append(f"{counted(len(self.by_row), 'row')} changed; {actions}")
        if self.num_decided:
            lines.append(f"{counted(self.num_decided, 'suggestion')} left alone: a person has decided about the tag")
        lines += self.notes
        lines.append(f"written: {self.out}" if self.out else "dry run: nothing is written")
        return "\n".join(lines)


_SIGNS: dict[str, str] = {
    "add": "+",
    "remove": "-",
    "soften": "~",
    "keep": "=",
    "leave out": "≠",
    "remove record": "- record ",
}


@takes_paths
def clean(
    manifest: Path,
    *,
    out: Path | None = None,
    issues: Path | None = None,
    decisions: Path | None = None,
    precision: float | None = None,
    count: int | None = None,
    soft: bool = False,
    undo: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Changes:
    """Apply an audit to a manifest; without `--precision` or `--count`, all issues that the audit lists.

    With `--decisions` alone, only what a person accepted is changed, and what they rejected is kept for good.

    Args:
        manifest: the manifest that was audited.
        out: the cleaned manifest.
        issues: issues.parquet or issues.csv of the audit.
        decisions: decisions.jsonl of its page; or what Label Studio (JSON, JSON_MIN) or FiftyOne
            (FiftyOneImageClassificationDataset) exports of what `truetag export-issues` wrote for it.
        precision: change as many tags as this share of them is expected to be right of: from the surest on.
        count: change the so many surest.
        soft: with `--issues`: change no tag, but state the probability of each suspected one, which training aims at.
        undo: take all changes of earlier cleaning back.
        dry_run: show what would change.
        overwrite: replace `out` if it exists.

    Raises:
        InputError: the arguments do not go together, a file is not what it should be, or an issue is about a row that
            the manifest has not.
    """
    if out is None and not dry_run:
        raise InputError("out: expected the name of the cleaned manifest, or --dry-run")
    if undo == (issues is not None or decisions is not None):
        raise InputError("clean: expected --issues or --decisions (or both), or --undo alone")
    if issues is None and (precision is not None or count is not None):
        raise InputError("precision, count: expected with --issues")
    if issues is None and soft:
        raise InputError("soft: expected with --issues")
    if precision is not None and count is not None:
        raise InputError("precision, count: expected one of them, got both")
    if precision is not None and not 0 < precision <= 1:
        raise InputError(f"precision: expected a share above 0, up to 1, got {precision}")
    if out is not None:
        refuse_overwriting(out, manifest, issues, decisions)
        refuse_existing(out, overwrite)
    rows = list(iterate_rows(manifest))
    if undo:
        by_row = {row["id"]: [_read_change(text) for text in row["changes"]] for row in rows if row.get("changes")}
        cleaned = [_restore(row) for row in rows]
        num_decided, notes = 0, []
    else:
        wanted, notes = _wanted(issues, decisions, rows, precision, count, soft)
        if strangers := sorted(wanted.keys() - {row["id"] for row in rows}):
            raise InputError(f"{manifest}: has no row with the id {shown(strangers[0])}, which an issue is about")
        by_row, cleaned, num_decided = {}, [], 0
        for row in rows:
            changed, made, left = _apply(row, wanted.get(row["id"], ()))
            num_decided += left
            cleaned.append(changed)
            if made:
                by_row[row["id"]] = made
    if not dry_run:
        assert out is not None
        header = read_header(manifest)
        header["media_root"] = relative_root(manifest.parent / header.get("media_root", "."), out)
        write_manifest(out, cleaned, header)
    return Changes(by_row, None if dry_run else out, num_decided, notes)


def _wanted(
    issues: Path | None,
    decisions: Path | None,
    rows: Sequence[Row],
    precision: float | None,
    count: int | None,
    soft: bool,
) -> tuple[dict[str, list[Change]], list[str]]:
    """The changes of each row, and what was left out, in words."""
    of_issues = Wanted([]) if issues is None else read_issues(issues)
    # beside the export of another program, all issues are needed: what a person did not follow they rejected
    decided = Wanted([]) if decisions is None else read_annotations(decisions, rows, of_issues.suggestions)
    suggested = surest(of_issues.suggestions, precision, count)
    softened = soften(suggested) if soft else Wanted(suggested)
    notes = [*decided.notes, *of_issues.notes, *softened.notes]
    return _by_row([*decided.suggestions, *softened.suggestions]), notes


def _by_row(suggestions: Iterable[Suggestion]) -> dict[str, list[Change]]:
    """Of each row its changes, one of each tag: a person's before the tool's."""
    by_row: defaultdict[str, dict[tuple[str | None, str | None], Change]] = defaultdict(dict)
    for suggestion in suggestions:
        change = suggestion.change
        key = (None if change.tag is None else normalise(change.tag), change.record)
        before = by_row[suggestion.row].setdefault(key, change)
        if before.source == change.source == PERSON and before.action != change.action:
            raise InputError(
                f"decisions: row {shown(suggestion.row)}: expected one decision about {shown(change.tag)}, got both "
                f"{before.action!r} and {change.action!r}"
            )
    return {row: list(changes.values()) for row, changes in by_row.items()}


def _apply(row: Row, changes: Sequence[Change]) -> tuple[Row, list[Change], int]:
    """The row after the changes, those that were made, and how many a person's decision forbids."""
    decided = {normalise(tag) for name in ("verified_tags", "rejected_tags") for tag in row.get(name) or ()}
    after = dict(row)
    made: list[Change] = []
    num_decided = 0
    for change in changes:
        if change.source != PERSON and change.tag is not None and normalise(change.tag) in decided:
            num_decided += 1
            continue
        changed = _change(after, change)
        if changed != after:
            after = changed
            made.append(change)
        if change.source == PERSON and change.tag is not None:
            decided.add(normalise(change.tag))
    if made:
        before = {name: row.get(name) for name in after if after[name] != row.get(name)}
        first = replace(made[0], before=before)
        texts = [json.dumps(_compact(change), ensure_ascii=False) for change in (first, *made[1:])]
        after["changes"] = [*(row.get("changes") or ()), *texts]
    return after, made, num_decided


def _change(row: Row, change: Change) -> Row:
    """The row after one change."""
    if change.action == "remove record":
        return _without_record(row, str(change.record))
    tag = str(change.tag)
    name = normalise(tag)
    after = dict(row)

    def without(field_name: str) -> None:
        if after.get(field_name) is not None:
            after[field_name] = [other for other in after[field_name] if normalise(other) != name]

    def with_tag(field_name: str) -> None:
        if name not in map(normalise, after.get(field_name) or ()):
            after[field_name] = [*(after.get(field_name) or ()), tag]

    probabilities = {other: p for other, p in (row.get(PROBABILITIES) or {}).items() if normalise(other) != name}
    if change.action == "soften":
        return row | {PROBABILITIES: probabilities | {tag: change.probability}}
    if row.get(PROBABILITIES) is not None:
        after[PROBABILITIES] = probabilities or None  # the tag is certain now
    is_present = change.action in ("add", "keep")
    without("unknown_tags")
    if change.source == PERSON:
        without("rejected_tags" if is_present else "verified_tags")
        with_tag("verified_tags" if is_present else "rejected_tags")
    if change.action == "add" and name not in map(normalise, row.get("tags") or ()):
        after["tags"] = [*(row.get("tags") or ()), tag]
        if row.get("tag_sources") is not None or row.get("tags") is None:
            after["tag_sources"] = [*(row.get("tag_sources") or ()), change.source]
    elif change.action == "remove":
        if row.get("tag_sources") is not None:
            pairs = zip(row["tags"], row["tag_sources"], strict=True)
            after["tag_sources"] = [source for other, source in pairs if normalise(other) != name]
        without("tags")
        if any(map(word_matcher([name]), row.get("captions") or ())):
            with_tag("rejected_tags")  # a caption would bring it back
    return after


def _without_record(row: Row, record: str) -> Row:
    """The row without a caption, or without its list of tags: nothing is known of the tags then."""
    captions = row.get("captions") or []
    if record in captions:
        index = captions.index(record)
        return row | {"captions": [*captions[:index], *captions[index + 1 :]]}
    if row.get("tags") and ", ".join(row["tags"]) == record:
        sources = None if row.get("tag_sources") is None else []
        return row | {"tags": [], "tag_sources": sources, "unknown_tags": [ANY_TAG]}
    return row


def _restore(row: Row) -> Row:
    """The row before all cleaning."""
    restored = dict(row)
    for change in map(_read_change, reversed(row.get("changes") or ())):
        restored |= change.before
    return restored | {"changes": None}


def _compact(change: Change) -> dict[str, Any]:
    return {name: value for name, value in asdict(change).items() if value is not None and value != {}}


def _read_change(text: str) -> Change:
    content = parse_json(text)
    try:
        return Change(**({"tag": None} | content))
    except TypeError:
        raise InputError(f"changes: expected changes of `truetag clean`, got {shown(text)}") from None
