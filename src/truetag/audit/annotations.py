"""What a person decided about an audit, from whichever program they looked at it in.

It reads decisions.jsonl of the review page, and what Label Studio (JSON, JSON_MIN) and FiftyOne export of files that
`audit.exchange` wrote for them; the content of a file shows which of these it is. The other programs say which tags a
photo has. Decisions are what differs from the given tags, and what became of each suggestion; anything that cannot be
made into a decision is counted and listed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from truetag.audit.decisions import PERSON, Action, Change, Suggestion, Wanted, now, read_decisions
from truetag.data.rows import Row, media_name
from truetag.data.vocabulary import Vocabulary
from truetag.data.words import normalise, word_matcher
from truetag.errors import InputError
from truetag.io.text import counted, one_line, read_json, require_file, shown, text_lines

CONTROL = "tags"
"""The name of the choices in Label Studio's labelling configuration."""
TASK = "truetag"
"""The key of a task's `data` that holds the row's id, the given tags and the suggestions."""
_MOST_LISTED = 5


def read_annotations(path: Path, rows: Sequence[Row], suggested: Sequence[Suggestion] = ()) -> Wanted:
    """What a person decided.

    Args:
        path: decisions.jsonl, or an export of Label Studio or FiftyOne.
        rows: of the manifest that was audited.
        suggested: the issues of the audit. FiftyOne exports none: a suggestion here that it did not follow is rejected.

    Raises:
        InputError: the file is none of these, or does not come from an audit.
    """
    require_file(path, "file of decisions")
    content = _json_of(path)
    if content is None:
        return read_decisions(path)
    if isinstance(content, list):
        return _decide(_of_label_studio(path, content), rows)
    if "samples" in content:
        raise InputError(
            f"{path}: expected an export of type FiftyOneImageClassificationDataset, got one of type FiftyOneDataset; "
            "export one label field"
        )
    return _decide(_of_fiftyone(path, content, rows, suggested), rows)


def media_key(name: str) -> str:
    """The name of a photo in FiftyOne's labels: its path without the ending.

    >>> media_key("kites/a.photo.jpg")
    'kites/a.photo'
    """
    return PurePosixPath(name).with_suffix("").as_posix()


@dataclass(frozen=True)
class _Answer:
    """The tags that a person left on one photo, with those that were given and suggested; all normalised."""

    row: str
    tags: frozenset[str]
    given: frozenset[str]
    suggested: frozenset[str]
    when: str


@dataclass(frozen=True)
class _Answers:
    """All answers of a file, and the names of what has none, by the reason."""

    answers: list[_Answer]
    left: Mapping[str, list[str]]


def _json_of(path: Path) -> Any:
    """The content of a JSON file; None for JSON Lines of decisions, or for what is no JSON."""
    first = next((text for _, text in text_lines(path) if text.strip()), "")
    try:
        entry = json.loads(first)
    except ValueError:
        entry = None
    if isinstance(entry, dict) and not {"labels", "samples"} & entry.keys():
        return None
    if entry is None and first.strip() not in ("[", "{") and not first.lstrip().startswith("["):
        return None
    content = read_json(path)
    is_export = isinstance(content, list) or (isinstance(content, dict) and {"labels", "samples"} & content.keys())
    if not is_export:
        raise InputError(
            f"{path}: expected decisions.jsonl, or an export of Label Studio (JSON, JSON_MIN) or FiftyOne "
            f"(FiftyOneImageClassificationDataset), got {shown(content)}"
        )
    return content


def _of_label_studio(path: Path, tasks: list[Any]) -> _Answers:
    """The answers of tasks: JSON has their `annotations`, JSON_MIN an entry for each annotation."""
    answers: list[_Answer] = []
    left: defaultdict[str, list[str]] = defaultdict(list)
    for number, task in enumerate(tasks, start=1):
        where = f"{path}, task {number}"
        if not isinstance(task, dict):
            raise InputError(f"{where}: expected a task of Label Studio, got {shown(task)}")
        is_minimal = "data" not in task
        data = task if is_minimal else task["data"]
        about = data.get(TASK) if isinstance(data, dict) else None
        if not isinstance(about, dict) or not isinstance(about.get("id"), str):
            expected = f"a task that `truetag export-issues` wrote, with {TASK!r} in its data"
            raise InputError(f"{where}: expected {expected}, got {shown(data)}")
        given, missing = (_names(where, about.get(name, [])) for name in ("given", "missing"))
        incorrect = _names(where, about.get("incorrect", []))
        annotations = [{"result": task.get(CONTROL, []), **task}] if is_minimal else task.get("annotations", [])
        if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
            raise InputError(f"{where}: expected a list of annotations, got {shown(annotations)}")
        found = []
        for entry in annotations:
            if entry.get("was_cancelled"):
                continue
            tags = _choices(where, entry["result"] if is_minimal else _values(where, entry.get("result", [])))
            if tags:
                when = str(entry.get("updated_at") or entry.get("created_at") or now())
                found.append(_Answer(about["id"], tags, given, missing | incorrect, when))
        if not found:
            reason = "an empty annotation" if any(not entry.get("was_cancelled") for entry in annotations) else ""
            left[reason or "no annotation"].append(about["id"])
        answers += found
    return _Answers(answers, left)


def _values(where: str, results: Any) -> list[Any]:
    """The values of the choices among the results of an annotation."""
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise InputError(f"{where}: expected a list of results, got {shown(results)}")
    return [result.get("value") for result in results if result.get("from_name") == CONTROL]


def _choices(where: str, value: Any) -> frozenset[str]:
    """The choices in a value: one as text, several as an object, or a list of both."""
    if isinstance(value, list):
        return frozenset[str]().union(*(_choices(where, part) for part in value))
    if isinstance(value, dict) and "choices" in value:
        return _names(where, value["choices"])
    return _names(where, [value])


def _names(where: str, names: Any) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: expected a list of tags, got {shown(names)}")
    return frozenset(map(normalise, names))


def _of_fiftyone(path: Path, content: dict[str, Any], rows: Sequence[Row], suggested: Sequence[Suggestion]) -> _Answers:
    """The answers of FiftyOneImageClassificationDataset: `labels` of each photo, by its path without the ending."""
    labels, classes = content.get("labels"), content.get("classes")
    if not isinstance(labels, dict) or not (classes is None or isinstance(classes, list)):
        raise InputError(f"{path}: expected FiftyOne's objects of classes and labels, got {shown(content)}")
    row_of = _rows_by_file(rows)
    left: defaultdict[str, list[str]] = defaultdict(list)
    tags_of: dict[str, frozenset[str]] = {}
    for key, target in labels.items():
        row = row_of.get(key)
        tags = _names(f"{path}, {shown(key)}", _labels_of(f"{path}, {shown(key)}", target, classes))
        if row is None:
            left["a name that no row, or more than one row, has"].append(key)
        elif not tags:
            left["no label"].append(key)
        elif row in tags_of:
            raise InputError(f"{path}: expected each photo once, got {shown(row)} twice")
        else:
            tags_of[row] = tags
    # what is not among the classes was not there to be taken away
    seen = sorted(_names(str(path), classes or []).union(*tags_of.values()))
    answered = [row | {"tags": row.get("tags") or []} for row in rows if row["id"] in tags_of]
    from truetag.data.labels import observed_labels  # here, as it imports torch

    present = observed_labels(answered, Vocabulary(tuple(seen), ("-",) * len(seen), (0,) * len(seen))) == 1
    suggested_of: defaultdict[str, set[str]] = defaultdict(set)
    for suggestion in suggested:
        if suggestion.change.tag is not None:
            suggested_of[suggestion.row].add(normalise(suggestion.change.tag))
    answers, when = [], now()
    for entry, cells in zip(answered, present, strict=True):
        name = str(entry["id"])
        given = frozenset(seen[index] for index in cells.nonzero().flatten().tolist())
        answers.append(_Answer(name, tags_of[name], given, frozenset(suggested_of[name]), when))
    return _Answers(answers, left)


def _labels_of(where: str, target: Any, classes: list[Any] | None) -> list[Any]:
    """The labels of a photo: a list of them, or one; each its name, its index, or an object with either."""
    targets = target if isinstance(target, list) else [] if target is None else [target]
    labels = [entry.get("label") if isinstance(entry, dict) else entry for entry in targets]
    for index, label in enumerate(labels):
        if isinstance(label, int) and not isinstance(label, bool):
            if classes is None or not 0 <= label < len(classes):
                raise InputError(f"{where}: expected the name or index of a class, got {label}")
            labels[index] = classes[label]
    return labels


def _rows_by_file(rows: Sequence[Row]) -> dict[str, str]:
    """The row of each photo, by its path without the ending, and by its bare name where one row has it."""
    files = [(row["id"], media_key(name)) for row in rows if (name := media_name(row)) is not None]
    found: dict[str, str] = {}
    for keys in ([PurePosixPath(key).name for _, key in files], [key for _, key in files]):  # whole paths win
        counts = Counter(keys)
        found |= {key: row for (row, _), key in zip(files, keys, strict=True) if counts[key] == 1}
    return found


def _decide(answers: _Answers, rows: Sequence[Row]) -> Wanted:
    """The decisions of all answers: about each tag that was changed or suggested, and that all annotators agree on."""
    left = defaultdict(list, answers.left)
    ids = {row["id"] for row in rows}
    by_row: defaultdict[str, list[_Answer]] = defaultdict(list)
    for answer in answers.answers:
        if answer.row in ids:
            by_row[answer.row].append(answer)
        else:
            left["an id that no row has"].append(answer.row)
    new = frozenset[str]().union(*(answer.tags - answer.given - answer.suggested for answer in answers.answers))
    strange = new - _named_in(rows, new)
    found: list[Suggestion] = []
    disputed: list[str] = []
    for row, of_row in by_row.items():
        given, suggested = of_row[0].given, of_row[0].suggested
        chosen = frozenset[str]().union(*(answer.tags for answer in of_row))
        for tag in sorted((given | suggested | chosen) - strange):
            present = {tag in answer.tags for answer in of_row}
            if len(present) > 1:
                disputed.append(f"{row}: {tag}")
            elif tag in suggested or (True in present) != (tag in given):
                action = _ACTIONS[tag in given, True in present]
                found.append(Suggestion(row, Change(action, tag, PERSON, of_row[0].when)))
    notes = [_note("photo", names, f"left out: {reason}") for reason, names in left.items()]
    notes += [_note("tag", disputed, "left alone: annotators disagree")] if disputed else []
    if strange:
        notes.append(_note("label", sorted(strange), "left out: neither a tag nor in a caption of any row"))
    return Wanted(found, [f"{counted(len(found), 'decision')} about {counted(len(by_row), 'photo')}", *notes])


_ACTIONS: dict[tuple[bool, bool], Action] = {
    (False, True): "add",
    (True, False): "remove",
    (True, True): "keep",
    (False, False): "leave out",
}
"""By whether the tag was given, and whether the person wants it."""


def _named_in(rows: Sequence[Row], names: Iterable[str]) -> set[str]:
    """Those of the names that any row has as a tag or in a caption."""
    fields = ("tags", "unknown_tags", "verified_tags", "rejected_tags", "tag_probabilities")
    listed = {normalise(tag) for row in rows for field in fields for tag in row.get(field) or ()}
    rest = sorted(set(names) - listed)
    if rest:
        matches = word_matcher(rest)
        in_captions = {index for row in rows for caption in row.get("captions") or () for index in matches(caption)}
        listed |= {rest[index] for index in in_captions}
    return listed & set(names)


def _note(noun: str, names: Sequence[str], what: str) -> str:
    others = f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else ""
    listed = ", ".join(one_line(name, 60) for name in names[:_MOST_LISTED])
    return f"{counted(len(names), noun)} {what} ({listed}{others})"
