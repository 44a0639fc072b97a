"""Issues of whole photos: copies with other tags and photos like no other are found, and nothing else changes."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist

from truetag.audit.clean import clean
from truetag.audit.find import audit
from truetag.audit.found import format_audit
from truetag.audit.photos import find_photo_issues, nearest_neighbours
from truetag.data.manifest import write_manifest

NAMES = ("cat", "dog", "sky")


def test_neighbours_are_those_of_all_distances(monkeypatch):
    monkeypatch.setattr("truetag.audit.photos._ROWS_AT_A_TIME", 7)
    monkeypatch.setattr("truetag.audit.photos._COLUMNS_AT_A_TIME", 11)
    features = np.random.default_rng(0).normal(3, 5, size=(50, 6))
    distances, nearest = nearest_neighbours(torch.from_numpy(features), 4)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = cdist(directions, directions)
    np.fill_diagonal(expected, np.inf)
    assert distances == pytest.approx(np.sort(expected)[:, :4], rel=1e-4)
    assert (nearest == np.argsort(expected)[:, :4]).all()


@pytest.fixture
def photos():
    """Features of 300 photos: one is there twice, one almost twice, one twice with the same tags; one is far away."""
    rng = np.random.default_rng(0)
    features = 3 + rng.normal(size=(300, 16))
    features[10], features[20], features[30] = features[11], features[21] + 1e-4, features[31]
    features[40] *= -1
    labels = torch.zeros(300, 3)
    labels[10], labels[11] = torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 1])
    labels[20, 0] = 1
    labels[30], labels[31] = torch.tensor([1.0, 1, 0]), torch.tensor([1.0, -1, 0])  # unknown differs from nothing
    return torch.from_numpy(features), labels


def test_copies_with_other_tags_and_outliers_are_found_and_no_others(photos):
    found = find_photo_issues(*photos, NAMES, [f"p{row}" for row in range(300)])
    assert [(issue.kind, issue.row, issue.other) for issue in found] == [
        ("near_duplicate", 10, 11),
        ("near_duplicate", 11, 10),
        ("near_duplicate", 20, 21),
        ("near_duplicate", 21, 20),
        ("outlier", 40, None),
    ]
    assert found[0].text == "copy of p11; only here: cat; only there: dog"
    assert found[2].text == "nearly the same as p21; only here: cat"


def test_the_scale_of_the_features_does_not_matter(photos):
    features, labels = photos
    rows = [(issue.kind, issue.row) for issue in find_photo_issues(features, labels, NAMES, [""] * 300)]
    other = features * 1000
    assert [(issue.kind, issue.row) for issue in find_photo_issues(other, labels, NAMES, [""] * 300)] == rows


def test_few_or_equal_photos_have_no_scale():
    labels = torch.tensor([[1.0], [0.0], [0.0]])
    assert find_photo_issues(torch.zeros(1, 4), labels[:1], ("a",), ["p"]) == []
    assert len(find_photo_issues(torch.zeros(3, 4), labels, ("a",), list("pqr"))) == 3
    spread = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    assert find_photo_issues(spread, labels, ("a",), list("pqr")) == []


def test_the_audit_lists_them_apart_and_cleaning_leaves_them_alone(photos, tmp_path):
    features, labels = photos
    rng = np.random.default_rng(1)
    given = (features[:, :3].numpy() > 3.5) & (rng.random((300, 3)) < 0.8)
    given[10], given[11] = labels[10].numpy() == 1, labels[11].numpy() == 1
    np.save(tmp_path / "X.npy", features.numpy())
    rows = [
        {"id": f"p{row}", "image": f"{row}.jpg", "tags": list(np.array(NAMES)[tags])} for row, tags in enumerate(given)
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    found = audit(features=tmp_path / "X.npy", tags=tmp_path / "m.jsonl", out=tmp_path / "audit")
    assert {"near_duplicate", "outlier"}.isdisjoint(found.summary["expected"])
    assert found.summary["listed"]["outlier"] == 1
    number = found.summary["listed"]["near_duplicate"]
    assert number >= 2
    table = pd.read_csv(tmp_path / "audit" / "issues.csv")
    photo_issues = table[table["kind"].isin(["near_duplicate", "outlier"])]
    assert photo_issues["probability"].isna().all()
    assert photo_issues.index.tolist() == list(range(len(table) - number - 1, len(table)))
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    assert set(zip(photo_issues["id"], photo_issues["other"], strict=True)) >= {("p10", "p11"), ("p11", "p10")}
    assert f"{number} near-duplicate photos with different tags, 1 photo that looks like no other" in format_audit(
        found
    )
    for suffix in ("csv", "parquet"):
        changes = clean(tmp_path / "m.jsonl", issues=tmp_path / "audit" / f"issues.{suffix}", dry_run=True)
        assert f"{number + 1} issues of whole photos left alone" in changes.describe()
        assert {change.action for of_row in changes.by_row.values() for change in of_row} <= {"add", "remove"}
    only = '{"id": "p10", "kind": "near_duplicate", "label": null, "record": "same photo", "decision": "accept"}\n'
    (tmp_path / "d.jsonl").write_text(only)
    changes = clean(tmp_path / "m.jsonl", decisions=tmp_path / "d.jsonl", dry_run=True)
    assert changes.by_row == {}
    assert "1 issue of whole photos left alone" in changes.describe()
