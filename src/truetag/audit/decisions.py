"""What is to change in a manifest, and why: issues that an audit lists, and decisions of a person on its page."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from truetag.errors import InputError
from truetag.io.text import counted, one_line, parse_line, require_file, shown, text_lines

Action = Literal["add", "remove", "soften", "keep", "leave out", "remove record"]
PERSON, TOOL = "person", "truetag"
ACTIONS: dict[str, Action] = {"missing": "add", "incorrect": "remove", "record": "remove record"}
"""What accepting an issue of each kind does."""
OPPOSITE: dict[str, Action] = {"missing": "leave out", "incorrect": "keep"}
"""What rejecting it does."""
PHOTO_KINDS = ("near_duplicate", "outlier")
"""Issues of whole photos, which no change of a tag settles."""


@dataclass(frozen=True)
class Change:
    """One change of a row: what, by whom, when, and how probable it was."""

    action: Action
    """"add" or "remove" a tag, or "soften" it: state its probability; "keep" a given one or "leave out" an absent one,
    as a person wants; or "remove record"."""
    tag: str | None
    source: str
    when: str
    probability: float | None = None
    """That what is given is wrong; of "soften", that the tag is true."""
    record: str | None = None
    before: dict[str, Any] = field(default_factory=dict)
    """The fields of the row that changed, as they were; in the first of the changes that were made together."""


@dataclass(frozen=True)
class Suggestion:
    """A change of one row."""

    row: str
    change: Change


@dataclass(frozen=True)
class Wanted:
    """The changes that a file asks for, and in words what of the file was left out."""

    suggestions: list[Suggestion]
    notes: list[str] = field(default_factory=list)


def read_issues(path: Path) -> Wanted:
    """The issues of an audit, the surest first; those of whole photos are left out.

    Raises:
        InputError: the file is no list of issues.
    """
    when = now()
    found = []
    table = read_issue_table(path).sort_values("probability", ascending=False, kind="stable")
    is_of_photo = table["kind"].isin(PHOTO_KINDS)
    for issue in table[~is_of_photo].to_dict("records"):
        kind, probability = issue["kind"], float(issue["probability"])
        if kind not in ACTIONS or not 0 <= probability <= 1:
            raise InputError(f"{path}: expected issues of a known kind and a probability, got {shown(issue)}")
        is_record = kind == "record"
        tag, record = (None, str(issue["record"])) if is_record else (str(issue["label"]), None)
        found.append(Suggestion(str(issue["id"]), Change(ACTIONS[kind], tag, TOOL, when, probability, record)))
    return Wanted(found, left_to_a_person(int(is_of_photo.sum())))


def read_issue_table(path: Path) -> Any:
    """The issues of an audit as a DataFrame, in the order of the file.

    Raises:
        InputError: the file is no list of issues.
    """
    import pandas as pd

    require_file(path, "list of issues")
    try:
        types: Any = {"id": str, "label": str, "record": str}
        table = (
            pq.read_table(path).to_pandas()
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=types, keep_default_na=False, na_values={"probability": [""]})
        )
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable list of issues ({one_line(error)})") from None
    if missing := [name for name in ("id", "label", "kind", "probability") if name not in table]:
        raise InputError(f"{path}: expected the issues of `truetag audit`, got a table without {', '.join(missing)}")
    return table


def read_decisions(path: Path) -> Wanted:
    """What a person accepted and rejected on the page; what they skipped is left out.

    Raises:
        InputError: a line is no decision.
    """
    require_file(path, "file of decisions")
    found = []
    num_of_photos = 0
    for line, text in text_lines(path):
        entry = parse_line(f"{path}, line {line}", text)
        if entry is None:
            continue
        kind, decision, row = str(entry.get("kind")), entry.get("decision"), entry.get("id")
        named = entry.get("label" if kind in OPPOSITE else "record")
        known = (kind in ACTIONS or kind in PHOTO_KINDS) and decision in ("accept", "reject", "skip")
        if not known or not isinstance(row, str) or not isinstance(named, str):
            expected = "a decision of the review page, or an export of Label Studio or FiftyOne"
            raise InputError(f"{path}, line {line}: expected {expected}, got {shown(entry)}")
        if kind in PHOTO_KINDS:
            num_of_photos += 1
            continue
        if decision == "skip" or (decision == "reject" and kind == "record"):
            continue
        action = ACTIONS[kind] if decision == "accept" else OPPOSITE[kind]
        tag, record = (None, named) if kind == "record" else (named, None)
        change = Change(action, tag, PERSON, str(entry.get("when") or now()), entry.get("probability"), record)
        found.append(Suggestion(row, change))
    return Wanted(found, left_to_a_person(num_of_photos))


def surest(suggestions: Sequence[Suggestion], precision: float | None, count: int | None) -> list[Suggestion]:
    """The first of the suggestions, which are sorted: as many as asked for; all where nothing is.

    Args:
        suggestions: the surest first.
        precision: as many as this share of them is expected to be right of.
        count: so many.
    """
    if count is not None:
        return list(suggestions[:count])
    if precision is None:
        return list(suggestions)
    chosen, right = [], 0.0
    for number, suggestion in enumerate(suggestions, start=1):
        right += suggestion.change.probability or 0
        if right / number < precision:  # the probabilities fall, and so does their mean
            break
        chosen.append(suggestion)
    return chosen


def soften(suggestions: Sequence[Suggestion]) -> Wanted:
    """The same suggestions with the probability that the tag is true, instead of a change of the tag."""
    softened = []
    for suggestion in suggestions:
        change = suggestion.change
        if change.action in ("add", "remove"):
            wrong = change.probability or 0.0
            is_true = round(wrong if change.action == "add" else 1 - wrong, 6)
            softened.append(Suggestion(suggestion.row, replace(change, action="soften", probability=is_true)))
    left = len(suggestions) - len(softened)
    notes = [f"{counted(left, 'record')} left alone: only tags have probabilities"] if left else []
    return Wanted(softened, notes)


def left_to_a_person(count: int) -> list[str]:
    """A note on issues of whole photos, if there are any."""
    return [f"{counted(count, 'issue')} of whole photos left alone: no change of a tag settles them"] if count else []


def now() -> str:
    """The time as changes keep it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
