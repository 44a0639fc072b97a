"""Copies of a photo are told where they lie in different splits, and kept together on request."""

import pytest
from PIL import Image

from truetag.data.copies import copies_across, groups_with_copies
from truetag.data.manifest import iterate_rows, write_manifest
from truetag.data.splits import split


@pytest.mark.parametrize(
    ("groups", "digests", "expected"),
    [
        ([None] * 3, ["x", "y", "x"], ["copies of row 1", None, "copies of row 1"]),
        (["g", "g", None], [None, "x", "x"], ["g", "g", "g"]),
        (["g", "h", "i"], ["x", "x", "y"], ["g", "g", "i"]),
        ([None, None, "g", "g"], ["x", "x", "x", "y"], ["g"] * 4),
        ([None, None], [None, None], [None, None]),
    ],
)
def test_groups(groups, digests, expected):
    assert groups_with_copies(groups, digests) == expected


def test_pairs_across_splits():
    assert list(copies_across(["train", "test", "train", "test"], ["x", "x", "x", None])) == [(0, 1)]


@pytest.fixture
def manifest(tmp_path):
    for number in range(12):
        Image.new("RGB", (4, 4), (20 * (number // 2), 0, 0)).save(tmp_path / f"{number}.png")  # each of them twice
    rows = [{"id": str(number), "image": f"{number}.png", "tags": ["dog"]} for number in range(12)]
    write_manifest(tmp_path / "m.jsonl", [*rows, {"id": "none", "image": "none.png", "tags": []}])
    return tmp_path / "m.jsonl"


def test_copies_in_two_splits_are_told(manifest, capsys):
    split(manifest, manifest.with_name("s.jsonl"), test_fraction=0.4)
    assert "of a photo in another split" in (said := capsys.readouterr().err)
    assert "--group-copies keeps copies together" in said


def test_copies_stay_together_on_request(manifest, capsys):
    split(manifest, manifest.with_name("s.jsonl"), test_fraction=0.4, group_copies=True)
    assert "in another split" not in capsys.readouterr().err
    rows = list(iterate_rows(manifest.with_name("s.jsonl")))
    assert {row["split"] for row in rows} == {"train", "test"}
    for first, second in zip(rows[0:12:2], rows[1:12:2], strict=True):
        assert (first["split"], first["group"]) == (second["split"], second["group"])
    assert rows[12]["group"] is None
