"""Cleaning: what is asked for changes and nothing else; a person's decisions are for good; everything can be undone."""

import json

import pandas as pd
import pytest

from truetag.audit.clean import clean
from truetag.data.labels import decided_labels, observed_labels, soft_tags
from truetag.data.manifest import iterate_rows, read_header, write_manifest
from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError

WORDS = Vocabulary(("dog", "cat", "sky"), ("NN",) * 3, (3, 2, 1))
ROWS = [
    {"id": "a", "image": "a.jpg", "tags": ["dog", "Sky"], "tag_sources": ["import", "import"]},
    {"id": "b", "image": "b.jpg", "captions": ["a dog", "a cat under the sky"]},
    {"id": "c", "image": "c.jpg", "tags": [], "unknown_tags": ["cat"]},
    {"id": "d", "image": "d.jpg", "tags": ["cat"], "verified_tags": ["cat"], "rejected_tags": ["dog"]},
]
ISSUES = [
    ("a", "cat", "missing", 0.99, None),
    ("a", "sky", "incorrect", 0.95, None),
    ("b", "dog", "incorrect", 0.9, None),
    ("c", "dog", "missing", 0.8, None),
    ("d", "cat", "incorrect", 0.75, None),
    ("d", "dog", "missing", 0.7, None),
    ("b", None, "record", 0.6, "a cat under the sky"),
]


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path / "m.jsonl", ROWS, {"media_root": "photos"})
    table = pd.DataFrame(ISSUES, columns=["id", "label", "kind", "probability", "record"])
    table.to_csv(tmp_path / "issues.csv", index=False)
    table.to_parquet(tmp_path / "issues.parquet", index=False)
    return tmp_path


def write_decisions(folder, *decisions):
    lines = [
        json.dumps({"id": row, "kind": kind, "label": label, "decision": decision, "when": "2026-01-01T00:00:00Z"})
        for row, kind, label, decision in decisions
    ]
    (folder / "decisions.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "decisions.jsonl"


def labels_of(path):
    return observed_labels(list(iterate_rows(path)), WORDS).tolist()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_suggestions_are_applied(folder, suffix):
    changes = clean(folder / "m.jsonl", issues=folder / f"issues.{suffix}", out=folder / "clean.jsonl")
    assert labels_of(folder / "m.jsonl") == [[1, 0, 1], [1, 1, 1], [0, -1, 0], [0, 1, 0]]
    assert labels_of(folder / "clean.jsonl") == [[1, 1, 0], [0, 0, 0], [1, -1, 0], [0, 1, 0]]
    assert changes.num_decided == 2
    assert "2 suggestions left alone: a person has decided" in changes.describe()
    rows = {row["id"]: row for row in iterate_rows(folder / "clean.jsonl")}
    assert rows["a"]["tags"] == ["dog", "cat"]
    assert rows["a"]["tag_sources"] == ["import", "truetag"]
    assert rows["b"]["captions"] == ["a dog"]
    assert rows["b"]["rejected_tags"] == ["dog"]  # the caption would bring it back
    assert read_header(folder / "clean.jsonl") == {"media_root": "photos"}
    made = [json.loads(text) for text in rows["a"]["changes"]]
    assert [(change["action"], change["tag"], change["source"]) for change in made] == [
        ("add", "cat", "truetag"),
        ("remove", "sky", "truetag"),
    ]
    assert all(change["when"] and change["probability"] for change in made)


def test_every_change_can_be_undone(folder):
    decisions = write_decisions(folder, ("c", "missing", "dog", "reject"), ("a", "incorrect", "sky", "accept"))
    clean(folder / "m.jsonl", issues=folder / "issues.csv", count=2, out=folder / "1.jsonl")
    clean(folder / "1.jsonl", issues=folder / "issues.csv", decisions=decisions, out=folder / "2.jsonl")
    assert labels_of(folder / "2.jsonl") != labels_of(folder / "1.jsonl")
    clean(folder / "2.jsonl", undo=True, out=folder / "3.jsonl")
    assert list(iterate_rows(folder / "3.jsonl")) == list(iterate_rows(folder / "m.jsonl"))


def test_a_dry_run_writes_nothing_and_shows_the_same(folder):
    before = sorted(path.name for path in folder.iterdir())
    shown = clean(folder / "m.jsonl", issues=folder / "issues.csv", dry_run=True)
    assert sorted(path.name for path in folder.iterdir()) == before
    text = shown.describe()
    assert "a: +cat, -sky" in text
    assert "3 rows changed; add: 2, remove: 2, remove record: 1" in text
    assert "dry run: nothing is written" in text


def test_a_person_decides(folder):
    decisions = write_decisions(
        folder,
        ("a", "missing", "cat", "reject"),
        ("a", "incorrect", "sky", "reject"),
        ("b", "incorrect", "dog", "accept"),
        ("c", "missing", "dog", "accept"),
        ("d", "missing", "dog", "skip"),
    )
    clean(folder / "m.jsonl", decisions=decisions, out=folder / "clean.jsonl")
    rows = {row["id"]: row for row in iterate_rows(folder / "clean.jsonl")}
    assert (rows["a"]["verified_tags"], rows["a"]["rejected_tags"]) == (["sky"], ["cat"])
    assert rows["a"]["tags"] == ["dog", "Sky"]
    assert rows["b"]["rejected_tags"] == ["dog"]
    assert (rows["c"]["tags"], rows["c"]["verified_tags"], rows["c"]["tag_sources"]) == (["dog"], ["dog"], None)
    assert rows["d"] == ROWS[3] | {name: None for name in rows["d"] if name not in ROWS[3]}
    decided = decided_labels(list(iterate_rows(folder / "clean.jsonl")), WORDS)
    assert decided.tolist()[:3] == [[False, True, True], [True, False, False], [True, False, False]]
    again = clean(folder / "clean.jsonl", issues=folder / "issues.csv", out=folder / "again.jsonl")
    assert again.num_decided == 6  # all but the caption, which is no tag
    assert labels_of(folder / "again.jsonl")[0] == labels_of(folder / "clean.jsonl")[0]


def test_a_person_overrules_the_tool(folder):
    decisions = write_decisions(folder, ("a", "missing", "cat", "reject"))
    clean(folder / "m.jsonl", issues=folder / "issues.csv", decisions=decisions, out=folder / "clean.jsonl")
    assert labels_of(folder / "clean.jsonl")[0] == [1, 0, 0]


@pytest.mark.parametrize(("precision", "number"), [(0.99, 1), (0.97, 2), (0.9, 4), (0.01, 5)])
def test_as_many_as_are_right_in_the_given_share(folder, precision, number):
    changes = clean(folder / "m.jsonl", issues=folder / "issues.csv", precision=precision, dry_run=True)
    made = [change for of_row in changes.by_row.values() for change in of_row]
    assert len(made) == number if number < 5 else len(made) == 5
    assert sum(change.probability for change in made) / len(made) >= min(precision, 0.8)


def test_a_list_of_tags_from_elsewhere_leaves_nothing_known(folder):
    table = pd.DataFrame(
        [("a", None, "record", 0.9, "dog, Sky")], columns=["id", "label", "kind", "probability", "record"]
    )
    table.to_csv(folder / "records.csv", index=False)
    clean(folder / "m.jsonl", issues=folder / "records.csv", out=folder / "clean.jsonl")
    assert labels_of(folder / "clean.jsonl")[0] == [-1, -1, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected --issues or --decisions"),
        ({"issues": "issues.csv", "undo": True}, "expected --issues or --decisions"),
        ({"issues": "issues.csv", "precision": 0.0}, "precision: expected a share above 0"),
        ({"issues": "issues.csv", "precision": 0.5, "count": 3}, "expected one of them, got both"),
        ({"decisions": "m.jsonl"}, "expected a decision of the review page"),
        ({"issues": "m.jsonl"}, "expected the issues of `truetag audit`|not a readable list"),
        ({"issues": "nowhere.csv"}, "no such"),
        ({"issues": "other.csv"}, "has no row with the id 'stranger'"),
        ({"issues": "issues.csv", "out": "m.jsonl"}, "is an input"),
        ({"issues": "issues.csv", "out": "issues.parquet"}, "exists; add --overwrite"),
    ],
)
def test_mistakes_are_told(folder, arguments, message):
    (folder / "other.csv").write_text("id,label,kind,probability,record\nstranger,dog,missing,0.9,\n")
    paths = {name: folder / value if isinstance(value, str) else value for name, value in arguments.items()}
    with pytest.raises(InputError, match=message):
        clean(folder / "m.jsonl", **({"out": folder / "new.jsonl"} | paths))


def test_two_decisions_about_one_tag_are_a_conflict(folder):
    decisions = write_decisions(folder, ("a", "missing", "cat", "accept"), ("a", "missing", "Cat", "reject"))
    with pytest.raises(InputError, match="row 'a': expected one decision about 'Cat', got both 'add' and 'leave out'"):
        clean(folder / "m.jsonl", decisions=decisions, dry_run=True)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_soft_cleaning_states_probabilities_and_changes_no_tag(folder, suffix):
    out = folder / f"soft.{suffix}"
    changes = clean(folder / "m.jsonl", issues=folder / "issues.csv", soft=True, out=out)
    assert labels_of(out) == labels_of(folder / "m.jsonl")
    rows = {row["id"]: row for row in iterate_rows(out)}
    assert rows["a"]["tag_probabilities"] == {"cat": 0.99, "sky": 0.05}
    assert rows["b"]["tag_probabilities"] == {"dog": 0.1}
    assert rows["c"]["tag_probabilities"] == {"dog": 0.8}
    assert rows["d"]["tag_probabilities"] is None  # a person has decided
    assert "a: ~cat, ~sky" in changes.describe()
    assert "1 record left alone: only tags have probabilities" in changes.describe()
    assert soft_tags(list(iterate_rows(out)), WORDS)[1].tolist()[0] == pytest.approx(0.1)
    clean(out, undo=True, out=folder / "before.jsonl")
    assert list(iterate_rows(folder / "before.jsonl")) == list(iterate_rows(folder / "m.jsonl"))


def test_a_certain_tag_has_no_probability(folder):
    clean(folder / "m.jsonl", issues=folder / "issues.csv", soft=True, out=folder / "soft.jsonl")
    decisions = write_decisions(folder, ("a", "missing", "cat", "reject"), ("c", "missing", "dog", "accept"))
    clean(folder / "soft.jsonl", decisions=decisions, out=folder / "clean.jsonl")
    rows = {row["id"]: row for row in iterate_rows(folder / "clean.jsonl")}
    assert rows["a"]["tag_probabilities"] == {"sky": 0.05}
    assert rows["c"]["tag_probabilities"] is None
    again = clean(folder / "clean.jsonl", issues=folder / "issues.csv", soft=True, out=folder / "again.jsonl")
    assert "a" not in again.by_row
    assert "c" not in again.by_row
    with pytest.raises(InputError, match="soft: expected with --issues"):
        clean(folder / "m.jsonl", decisions=decisions, soft=True, dry_run=True)


def test_a_persons_decision_is_no_probability(folder):
    decisions = write_decisions(folder, ("a", "missing", "cat", "accept"))
    clean(folder / "m.jsonl", issues=folder / "issues.csv", decisions=decisions, soft=True, out=folder / "clean.jsonl")
    row = next(iterate_rows(folder / "clean.jsonl"))
    assert (row["verified_tags"], row["tag_probabilities"]) == (["cat"], {"sky": 0.05})
