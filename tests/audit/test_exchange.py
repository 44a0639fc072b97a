"""What an audit found goes to other programs, and what a person decides there comes back as their decisions."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from truetag.audit.clean import clean
from truetag.audit.exchange import FILES, export_issues
from truetag.audit.find import audit
from truetag.cli import main
from truetag.data.manifest import iterate_rows, write_manifest
from truetag.errors import InputError

N, NAMES = 400, ("boat", "car", 'cat "a"', "dog & co", "sky")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A manifest of embedded photos with wrong tags, and its audit."""
    folder = tmp_path_factory.mktemp("exchange")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 8)).astype(np.float32)
    X[1] = X[0]  # a photo that is there twice, with other tags
    truth = X[:, :5] + 0.2 * rng.normal(size=(N, 5)) > 0.6
    given = np.where(truth, rng.random((N, 5)) > 0.3, rng.random((N, 5)) < 0.03)
    given[:2] = [[True, False, False, False, True], [False, True, False, False, True]]
    np.save(folder / "X.npy", X)
    rows = [
        {"id": f"photo {row}", "image": f"part {row % 2}/{row}.jpg", "tags": list(np.array(NAMES)[tags])}
        for row, tags in enumerate(given)
    ]
    write_manifest(folder / "m.jsonl", rows)
    found = audit(features=folder / "X.npy", tags=folder / "m.jsonl", out=folder / "audit")
    export_issues(folder / "audit", formats=("coco", "fiftyone", "label-studio", "cleanlab"), out=folder / "out")
    return folder, found.issues[found.issues["label"].notna()]


def exported(folder, name):
    return json.loads((folder / "out" / name).read_text())


def keys(issues):
    return set(zip(issues["id"], issues["label"], issues["kind"], strict=True))


def test_coco_holds_every_suspected_tag(audited):
    folder, issues = audited
    content = exported(folder, "coco.json")
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(images) == N
    assert images[1]["file_name"] == "part 0/0.jpg"
    found = {
        (images[entry["image_id"]]["truetag_id"], names[entry["category_id"]], entry["kind"]): entry["score"]
        for entry in content["annotations"]
    }
    assert found.keys() == keys(issues)
    assert list(found.values()) == pytest.approx(issues["probability"].tolist(), abs=1e-6)
    assert {(e["kind"], e["suggestion"]) for e in content["annotations"]} == {
        ("missing", "add"),
        ("incorrect", "remove"),
    }


def test_coco_is_opened_by_its_own_tools(audited):
    coco = pytest.importorskip("pycocotools.coco")
    folder, issues = audited
    data = coco.COCO(folder / "out" / "coco.json")
    assert len(data.getAnnIds()) == len(issues)
    assert data.loadCats(data.getCatIds(catNms=["sky"]))[0]["name"] == "sky"


def test_cleanlab_gets_the_arrays_that_it_returns(audited):
    folder, issues = audited
    with np.load(folder / "out" / "cleanlab.npz", allow_pickle=False) as arrays:
        ids, classes = arrays["ids"], arrays["classes"].tolist()
        assert arrays["label_issues"].sum() == issues["id"].nunique()
        assert ids[arrays["ranked_indices"]].tolist() == list(dict.fromkeys(issues["id"]))
        assert set(ids[arrays["label_issues"]]) == set(issues["id"])
        for index, label in enumerate(classes):
            assert ids[arrays[f"class_{index}"]].tolist() == issues[issues["label"] == label]["id"].tolist()


def test_cleanlab_itself_returns_such_arrays(audited):
    """The same shapes and types, and mostly the same examples, from cleanlab on the same posterior."""
    module = pytest.importorskip("cleanlab.multilabel_classification.filter")
    folder, _ = audited
    with np.load(folder / "out" / "cleanlab.npz") as arrays:
        ours = {name: arrays[name] for name in arrays.files}
    rng = np.random.default_rng(0)
    labels = [[0], [1], [0, 1]] * 20
    probabilities = rng.random((60, 2))
    mask = module.find_label_issues(labels, probabilities, n_jobs=1)
    ranked = module.find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    assert (ours["label_issues"].dtype, ours["label_issues"].ndim) == (mask.dtype, mask.ndim)
    assert (ours["ranked_indices"].dtype, ours["ranked_indices"].ndim) == (ranked.dtype, ranked.ndim)


def test_fiftyone_gets_given_and_suggested_tags(audited):
    folder, issues = audited
    given, suggested = (exported(folder, name) for name in FILES["fiftyone"])
    assert given["classes"] == suggested["classes"] == sorted(NAMES)
    assert given["labels"].keys() == suggested["labels"].keys()
    assert len(given["labels"]) == N
    file_of = {f"photo {row}": f"part {row % 2}/{row}" for row in range(N)}
    for issue in issues.to_dict("records"):
        key = file_of[issue["id"]]
        labels = [{entry["label"]: entry for entry in content["labels"][key]} for content in (given, suggested)]
        has, lacks = labels if issue["kind"] == "incorrect" else reversed(labels)
        assert issue["label"] not in lacks
        assert has[issue["label"]]["confidence"] == pytest.approx(issue["posterior"], abs=1e-6)
        assert has[issue["label"]]["attributes"]["kind"] == issue["kind"]


def test_label_studio_gets_tasks_with_predictions_and_its_configuration(audited):
    folder, issues = audited
    made = exported(folder, "label-studio.json")
    assert [task["data"]["truetag"]["id"] for task in made] == list(dict.fromkeys(issues["id"]))
    scores = [task["predictions"][0]["score"] for task in made]
    assert scores == sorted(scores, reverse=True)
    row = int(made[0]["data"]["truetag"]["id"].split()[1])
    assert made[0]["data"]["photo"] == f"/data/local-files/?d=part {row % 2}/{row}.jpg"
    config = ElementTree.parse(folder / "out" / "label-studio.xml").getroot()
    choices = [choice.get("value") for choice in config.iter("Choice")]
    assert choices == sorted(NAMES)
    for task in made:
        about = task["data"]["truetag"]
        (result,) = task["predictions"][0]["result"] or [{"value": {"choices": []}}]
        kept = set(about["given"]) - set(about["incorrect"]) | set(about["missing"])
        assert set(result["value"]["choices"]) == kept <= set(choices)
        if kept:
            control = config.find(f".//*[@name='{result['from_name']}']")
            assert (control.tag, control.get("toName")) == ("Choices", result["to_name"])


def test_issues_of_photos_are_counted_as_left_out(audited, tmp_path):
    folder, _ = audited
    exported = export_issues(folder / "audit", formats=("coco",), out=tmp_path)
    table = pd.read_parquet(folder / "audit" / "issues.parquet")
    assert exported.num_left == table["label"].isna().sum() >= 2
    assert "not about a tag left out" in exported.describe()


def annotate(tasks, answer):
    """Tasks as Label Studio exports them (JSON), each with the choices that `answer` makes of its `truetag` data."""
    annotated = []
    for number, task in enumerate(tasks, start=1):
        tags = answer(task["data"]["truetag"])
        value = {"choices": tags}
        result = [{"value": value, "from_name": "tags", "to_name": "photo", "type": "choices", "origin": "manual"}]
        entry = {"id": 70 + number, "result": result if tags else [], "was_cancelled": False, "completed_by": 1}
        annotated.append(task | {"id": number, "annotations": [entry | {"updated_at": "2026-01-02T03:04:05Z"}]})
    return annotated


def minimal(annotated):
    """The same as JSON_MIN: one choice as text, several as an object, none not at all."""
    entries = []
    for task in annotated:
        for annotation in task["annotations"]:
            choices = [result["value"]["choices"] for result in annotation["result"]]
            entry = task["data"] | {"id": task["id"], "annotator": 1, "annotation_id": annotation["id"]}
            if choices:
                entry["tags"] = choices[0][0] if len(choices[0]) == 1 else {"choices": choices[0]}
            entries.append(entry | {"updated_at": annotation["updated_at"]})
    return entries


def follow(about):
    return sorted(set(about["given"]) - set(about["incorrect"]) | set(about["missing"]))


def cleaned(folder, decisions, tmp_path, **options):
    changes = clean(folder / "m.jsonl", decisions=decisions, out=tmp_path / "clean.jsonl", overwrite=True, **options)
    return changes, {row["id"]: row for row in iterate_rows(tmp_path / "clean.jsonl")}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("form", [lambda tasks: tasks, minimal], ids=["JSON", "JSON_MIN"])
def test_who_follows_every_suggestion_in_label_studio_gets_them_all_verified(audited, tmp_path, form):
    folder, issues = audited
    tasks = exported(folder, "label-studio.json")
    changes, rows = cleaned(folder, write(tmp_path / "ls.json", form(annotate(tasks, follow))), tmp_path)
    empty = {task["data"]["truetag"]["id"] for task in tasks if not follow(task["data"]["truetag"])}
    for issue in issues[~issues["id"].isin(empty)].to_dict("records"):
        row = rows[issue["id"]]
        is_added = issue["kind"] == "missing"
        assert (issue["label"] in row["tags"]) == is_added
        assert issue["label"] in row["verified_tags" if is_added else "rejected_tags"]
    assert empty
    assert f"{len(empty)} photo" in "\n".join(changes.notes)
    assert all(rows[name].get("changes") is None for name in empty)
    change = json.loads(next(row for row in rows.values() if row["changes"])["changes"][0])
    assert (change["source"], change["when"][:4]) == ("person", "2026")


def test_who_follows_none_in_label_studio_rejects_them_all(audited, tmp_path):
    folder, issues = audited
    answers = annotate(exported(folder, "label-studio.json"), lambda about: about["given"])
    _, rows = cleaned(folder, write(tmp_path / "ls.json", answers), tmp_path)
    before = {row["id"]: row for row in iterate_rows(folder / "m.jsonl")}
    assert all(rows[name]["tags"] == before[name]["tags"] for name in rows)
    for issue in issues.to_dict("records"):
        if before[issue["id"]]["tags"]:
            kept = "rejected_tags" if issue["kind"] == "missing" else "verified_tags"
            assert issue["label"] in rows[issue["id"]][kept]
    # the audit does not change what they decided
    again, _ = cleaned(folder, tmp_path / "ls.json", tmp_path, issues=folder / "audit" / "issues.csv")
    decided = {name for name in rows if rows[name]["changes"]}
    tool = [c for name in decided for c in again.by_row[name] if c.source == "truetag" and c.tag is not None]
    assert tool == []


def test_fiftyone_comes_back_relative_to_what_was_given(audited, tmp_path):
    folder, issues = audited
    content = exported(folder, "fiftyone-suggested.json")
    first = issues[issues["kind"] == "missing"].iloc[0]
    row = int(first["id"].split()[1])
    # as FiftyOne exports it: labels as indices of the classes, nothing for an empty list, media flattened
    index = {name: number for number, name in enumerate(content["classes"])}
    labels = {
        key.split("/")[1]: [{"label": index[entry["label"]], "confidence": 0.5} for entry in entries] or None
        for key, entries in content["labels"].items()
    }
    labels[str(row)] = [index[name] for name in next(iter_tags(folder, first["id"]))] or None
    back = write(tmp_path / "labels.json", {"classes": content["classes"], "labels": labels})
    changes, rows = cleaned(folder, back, tmp_path)
    empty = {f"photo {key}" for key, entries in labels.items() if entries is None}
    for issue in issues[~issues["id"].isin(empty | {first["id"]})].to_dict("records"):
        assert (issue["label"] in rows[issue["id"]]["tags"]) == (issue["kind"] == "missing")
    assert rows[first["id"]]["changes"] is None  # as it was given; nobody said that a suggestion is wrong
    assert any("no label" in note for note in changes.notes)
    if labels[str(row)]:
        _, rows = cleaned(folder, back, tmp_path, issues=folder / "audit" / "issues.csv")
        assert first["label"] in rows[first["id"]]["rejected_tags"]


def iter_tags(folder, name):
    return (row["tags"] for row in iterate_rows(folder / "m.jsonl") if row["id"] == name)


def test_what_cannot_be_a_decision_is_counted_and_listed(audited, tmp_path):
    folder, _ = audited
    tasks = [task for task in exported(folder, "label-studio.json") if follow(task["data"]["truetag"])][:6]
    answers = annotate(tasks, follow)
    one, two, three, four, five, six = answers
    stranger = json.loads(json.dumps(one))
    stranger["data"]["truetag"]["id"] = "nobody"
    two["annotations"][0]["was_cancelled"] = True
    three["annotations"] = []
    wanted = four["annotations"][0]["result"][0]["value"]["choices"]
    disputed = sorted(set(NAMES) - set(wanted))[0]
    other = json.loads(json.dumps(four["annotations"][0]))
    other["result"][0]["value"]["choices"] = [*wanted, disputed]
    four["annotations"].append(other)
    five["annotations"][0]["result"][0]["value"]["choices"].append("unicorn")
    six["annotations"][0]["result"][0]["from_name"] = "other"
    changes, rows = cleaned(folder, write(tmp_path / "ls.json", [*answers, stranger]), tmp_path)
    notes = "\n".join(changes.notes)
    assert re.search(r"\d+ decisions? about 3 photos", notes)  # those of one, four and five
    assert "2 photos left out: no annotation" in notes
    assert "1 photo left out: an empty annotation" in notes
    assert "1 photo left out: an id that no row has (nobody)" in notes
    assert f"1 tag left alone: annotators disagree ({four['data']['truetag']['id']}: {disputed})" in notes
    assert "1 label left out: neither a tag nor in a caption of any row (unicorn)" in notes
    for left in (two, three, six):
        assert rows[left["data"]["truetag"]["id"]]["changes"] is None
    of_four = rows[four["data"]["truetag"]["id"]]
    assert disputed not in [*(of_four["verified_tags"] or ()), *(of_four["rejected_tags"] or ())]
    assert rows[one["data"]["truetag"]["id"]]["changes"]
    assert rows[five["data"]["truetag"]["id"]]["changes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"data": {"image": "a.jpg"}, "annotations": []}],
            "task 1: expected a task that `truetag export-issues` wrote",
        ),
        ([{"image": "a.jpg", "tags": "dog"}], "task 1: expected a task that"),
        (["a"], "task 1: expected a task of Label Studio, got 'a'"),
        ([{"data": {"truetag": {"id": "photo 0"}}, "annotations": "no"}], "expected a list of annotations"),
        (
            [
                {
                    "data": {"truetag": {"id": "photo 0"}},
                    "annotations": [{"result": [{"from_name": "tags", "value": 3}]}],
                }
            ],
            "expected a list of tags, got",
        ),
        ({"samples": [], "info": {}}, "expected an export of type FiftyOneImageClassificationDataset"),
        ({"classes": ["a"], "labels": [1]}, "expected FiftyOne's objects of classes and labels"),
        ({"classes": ["a"], "labels": {"part 0/0": [7]}}, "expected the name or index of a class, got 7"),
        ({"classes": ["a"], "labels": {"part 0/0": "a", "0": "a"}}, "expected each photo once, got 'photo 0' twice"),
        ({"some": "thing"}, "expected a decision of the review page"),
        (7, "expected decisions.jsonl, or an export|not a JSON object"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_other_files_are_refused(audited, tmp_path, content, message, indent):
    (tmp_path / "other.json").write_text(json.dumps(content, indent=indent))
    with pytest.raises(InputError, match=f"{message}|expected decisions.jsonl, or an export" if indent else message):
        clean(audited[0] / "m.jsonl", decisions=tmp_path / "other.json", dry_run=True)


def test_the_command_and_its_mistakes(audited, tmp_path, capsys):
    folder, _ = audited
    arguments = ["export-issues", str(folder / "audit"), "--out", str(tmp_path / "o")]
    assert main([*arguments, "--formats", "coco", "cleanlab"]) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["cleanlab.npz", "coco.json"]
    assert "coco.json" in capsys.readouterr().out
    assert main([*arguments, "--formats", "coco"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["export-issues", str(tmp_path), "--formats", "coco", "--out", str(tmp_path / "p")]) == 2
    assert "no such file of `truetag audit`" in capsys.readouterr().err
    with pytest.raises(InputError, match="formats: expected some of coco"):
        export_issues(folder / "audit", formats=(), out=tmp_path / "q")


def test_two_photos_that_fiftyone_cannot_tell_apart_are_refused(audited, tmp_path):
    folder, _ = audited
    for name in ("issues.parquet", "labels.csv"):
        (tmp_path / name).write_bytes((folder / "audit" / name).read_bytes())
    examples = pd.read_parquet(folder / "audit" / "examples.parquet")
    examples.loc[:1, "file"] = ["a.jpg", "a.png"]
    examples.to_parquet(tmp_path / "examples.parquet")
    with pytest.raises(InputError, match="names differ without their endings, got 'a' twice"):
        export_issues(tmp_path, formats=("fiftyone",), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
