"""The audit through each of its doors: what is wrong comes first, is counted right, and lies in plain files."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from truetag.audit.find import audit
from truetag.audit.found import format_audit
from truetag.cli import main
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import function_words
from truetag.errors import InputError

N, K, D = 800, 6, 12
NAMES = ("boat", "car", "cat", "dog", "sky", "tree")


@pytest.fixture(scope="module")
def embedded():
    """Embeddings that say much, and tags of which some are wrong."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)).astype(np.float32)
    truth = X[:, :K] + 0.2 * rng.normal(size=(N, K)) > 0.6
    given = np.where(truth, rng.random((N, K)) > 0.3, rng.random((N, K)) < 0.03)
    return X, truth, given


def write_table(path, given):
    rows = [f"{row:03}.jpg,{';'.join(np.array(NAMES)[tags])}" for row, tags in enumerate(given)]
    path.write_text("\n".join(["image,tags", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def found(embedded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    X, _, given = embedded
    np.save(folder / "X.npy", X)
    table = write_table(folder / "tags.csv", given)
    return audit(features=folder / "X.npy", tags=table, out=folder / "out"), folder


def test_the_surest_issues_are_right(found, embedded):
    result, _ = found
    _, truth, given = embedded
    top = result.issues[result.issues["kind"] != "record"].head(200)
    rows, columns = top["id"].str[:3].astype(int), [NAMES.index(label) for label in top["label"]]
    assert (truth != given)[rows, columns].mean() > 0.95


def test_the_numbers_are_near_the_truth_and_inside_their_intervals(found, embedded):
    result, _ = found
    _, truth, given = embedded
    for kind, number in (("missing", (truth & ~given).sum()), ("incorrect", (~truth & given).sum())):
        expected = result.summary["expected"][kind]
        assert expected["number"] == pytest.approx(number, rel=0.25)
        assert expected["low"] <= number <= expected["high"]
    assert result.summary["num_given"] == given.sum()


def test_the_files_hold_the_list(found):
    result, folder = found
    out = folder / "out"
    assert {path.name for path in out.iterdir()} >= {"issues.parquet", "issues.csv", "labels.csv", "examples.csv"}
    table = pd.read_parquet(out / "issues.parquet")
    for name in table:
        assert table[name].fillna("").tolist() == result.issues[name].fillna("").tolist()
    with (out / "issues.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table)
    assert [int(line["rank"]) for line in lines] == list(range(1, len(lines) + 1))
    assert set(table["kind"]) <= {"missing", "incorrect", "record"}
    labels = pd.read_csv(out / "labels.csv")
    assert tuple(labels["label"]) == NAMES
    assert (labels["missing_low"] <= labels["missing"]).all()
    assert (labels["missing"] <= labels["missing_high"]).all()
    assert labels["add"].sum() == (table["kind"] == "missing").sum()
    examples = pd.read_csv(out / "examples.csv")
    assert len(examples) == N
    assert examples["quality"].between(0, 1).all()
    assert json.loads((out / "summary.json").read_text())["num_examples"] == N
    text = format_audit(result)
    assert f"{N} examples, {K} tags" in text
    assert "missing tags: about" in text


def test_shuffled_lines_are_found_as_records(embedded, tmp_path):
    X, truth, _ = embedded
    rng = np.random.default_rng(1)
    given = truth.copy()
    rows = rng.permutation(N)[:160]
    given[rows] = truth[np.roll(rows, 1)]
    np.save(tmp_path / "X.npy", X)
    result = audit(features=tmp_path / "X.npy", tags=write_table(tmp_path / "t.csv", given), out=tmp_path / "out")
    shuffled = {f"{row:03}.jpg"[:3] for row in rows if (given[row] != truth[row]).any()}
    records = result.issues[result.issues["kind"] == "record"]
    assert len(records) > 20
    assert records["id"].str[:3].isin(shuffled).mean() > 0.8
    assert records["label"].isna().all()
    assert records["record"].str.len().min() > 0


def test_probabilities_of_others_will_do(embedded, tmp_path):
    X, truth, given = embedded
    noise = np.random.default_rng(2).normal(size=(N, K))
    np.save(tmp_path / "p.npy", 1 / (1 + np.exp(-(6 * (X[:, :K] - 0.6) + 0.3 * noise))))
    np.save(tmp_path / "z.npy", given.astype(np.int8))
    result = audit(probabilities=tmp_path / "p.npy", tags=tmp_path / "z.npy", out=tmp_path / "out")
    top = result.issues[result.issues["kind"] != "record"].head(200)
    is_wrong = (truth != given)[top["id"].astype(int), top["label"].astype(int)]
    assert is_wrong.mean() > 0.95
    assert result.summary["method"] == "the probabilities that were given"


def test_what_a_person_decided_is_never_listed(embedded, tmp_path):
    X, truth, given = embedded
    np.save(tmp_path / "X.npy", X)
    rows = []
    for row, tags in enumerate(given):
        names = np.array(NAMES)
        decided = {"verified_tags": list(names[truth[row]]), "rejected_tags": list(names[~truth[row]])}
        known = decided if row % 2 else {}
        rows.append({"id": f"{row}", "image": f"{row}.jpg", "tags": list(names[tags])} | known)
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = audit(features=tmp_path / "X.npy", tags=tmp_path / "m.jsonl", out=tmp_path / "out")
    of_tags = result.issues[result.issues["kind"] != "record"]
    assert len(of_tags) > 50
    assert (of_tags["id"].astype(int) % 2 == 0).all()
    assert result.summary["num_decided"] == N // 2 * K


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "audit: expected RUN MANIFEST, or --features F --tags T"),
        ({"features": "X.npy"}, "audit: expected RUN MANIFEST"),
        ({"features": "X.npy", "probabilities": "X.npy", "tags": "z.npy"}, "audit: expected RUN MANIFEST"),
        ({"features": "X.npy", "tags": "z.npy", "split": "train"}, "split: expected with RUN MANIFEST, got"),
        ({"features": "X.npy", "tags": "short.npy"}, "tags: expected 800 rows, one per example, got 3"),
        ({"features": "X.npy", "tags": "short.csv"}, "tags: expected 800 rows, as .*X.npy has, got 2"),
        ({"features": "nan.npy", "tags": "z.npy"}, "expected finite numbers"),
        ({"probabilities": "X.npy", "tags": "z.npy"}, "probabilities: expected 6 columns, one per tag, got 12"),
        ({"features": "flat.npy", "tags": "z.npy"}, r"expected numbers of shape \[examples, columns\]"),
        ({"features": "z.csv", "tags": "z.npy"}, "expected a numpy file"),
        ({"features": "no.npy", "tags": "z.npy"}, "no such numpy file"),
        ({"features": "broken.npy", "tags": "z.npy"}, "not a readable numpy file"),
        ({"features": "X.npy", "tags": "z.npy", "min_probability": 2.0}, "min_probability: expected a number"),
        ({"features": "X.npy", "tags": "z.npy", "out": "old"}, "holds issues.csv of an earlier audit; add --overwrite"),
    ],
)
def test_mistakes_are_told(embedded, tmp_path, arguments, message):
    X, _, given = embedded
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "z.npy", given.astype(np.int8))
    np.save(tmp_path / "short.npy", np.zeros((3, K)))
    np.save(tmp_path / "nan.npy", np.where(X > 2, np.nan, X))
    np.save(tmp_path / "flat.npy", X[:, 0])
    (tmp_path / "short.csv").write_text("image,tags\na.jpg,dog;cat\nb.jpg,dog\n")
    (tmp_path / "z.csv").write_text("image,tags\n")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY garbage")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "issues.csv").write_text("")
    is_path = {name: isinstance(value, str) and name != "split" for name, value in arguments.items()}
    paths = {name: tmp_path / value if is_path[name] else value for name, value in arguments.items()}
    with pytest.raises(InputError, match=message):
        audit(**({"out": tmp_path / "out"} | paths))


def test_a_run_and_its_manifest(tiny_run, tiny, tmp_path, capsys):
    manifest, out = tiny / "swapped.jsonl", tmp_path / "out"
    assert main(["audit", str(tiny_run.folder), str(manifest), "--out", str(out), "--min-probability", "0.2"]) == 0
    printed, told = capsys.readouterr()
    assert "warning: the run's backbone began from no weights" in told
    num_rows = read_manifest(manifest).rows.num_rows
    num_listed = len(tiny_run.vocabulary) - len(function_words(tiny_run.vocabulary))
    assert f"{num_rows} examples, {num_listed} tags" in printed
    assert "truetag clean --issues" in printed
    issues = pd.read_csv(out / "issues.csv")
    assert set(issues["label"].dropna()) <= set(tiny_run.vocabulary.words) - set(function_words(tiny_run.vocabulary))
    assert (out / "index.html").stat().st_size > 10_000
    assert main(["clean", str(manifest), "--issues", str(out / "issues.csv"), "--out", str(tmp_path / "c.jsonl")]) == 0
    assert read_manifest(tmp_path / "c.jsonl").rows.num_rows == num_rows
