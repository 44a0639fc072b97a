from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truetag.data.manifest import Row, iterate_rows, read_manifest, write_manifest
from truetag.data.splits import assign_by_list, split
from truetag.data.stratify import stratified_split
from truetag.errors import InputError

ROWS: list[Row] = [
    {"id": "a", "image": "x/1.jpg", "split": "train"},
    {"id": "b", "image": "y/1.jpg"},
    {"id": "c", "video": "2.mp4", "split": "old"},
    {"id": "d", "frames": ["3.jpg"]},
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lists_name_ids_paths_or_file_names() -> None:
    assert assign_by_list(ROWS, {"test": {"x/1.jpg", "2.mp4"}, "dev": {"d"}}) == ["test", None, "test", "dev"]
    assert assign_by_list(ROWS, {}) == ["train", None, "old", None]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"test": {"a", "e", "f", "g", "h"}},
            r"'test': no row has the id or file name of 4 entries: 'e', 'f', 'g', \.\.",
        ),
        ({"test": {"1.jpg"}}, "several rows have .* of 1 entries: '1.jpg'"),
        ({"test": {"a"}, "dev": {"x/1.jpg"}}, "row 'a': is in the lists of both 'test' and 'dev'"),
    ],
)
def test_lists_that_do_not_fit(lists: dict[str, set[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assign_by_list(ROWS, lists)


def test_every_label_keeps_its_share() -> None:
    probabilities = torch.linspace(0.01, 0.6, 30)
    labels = (torch.rand(1000, 30, generator=seeded(1)) < probabilities).to(torch.int8)
    fractions = {"train": 0.7, "validation": 0.1, "test": 0.2}
    splits = stratified_split(labels, fractions, seeded())
    assert Counter(splits) == {"train": 700, "validation": 100, "test": 200}
    for name, fraction in fractions.items():
        got = labels[torch.tensor([split == name for split in splits])].sum(0)
        assert (got - fraction * labels.sum(0)).abs().max() <= 5  # 15 by a plain draw
    assert splits == stratified_split(labels, fractions, seeded())
    assert splits != stratified_split(labels, fractions, seeded(1))


def test_a_rare_label_reaches_both_halves() -> None:
    labels = torch.zeros(100, 2)
    labels[:2, 0] = 1
    labels[:, 1] = torch.nan
    splits = stratified_split(labels, {"left": 0.5, "right": 0.5}, seeded())
    assert set(splits[:2]) == {"left", "right"}
    assert Counter(splits) == {"left": 50, "right": 50}


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30),
    fraction=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 99),
)
def test_groups_stay_together(groups: list[str | None], fraction: float, seed: int) -> None:
    labels = torch.randint(-1, 2, (len(groups), 4), generator=seeded(seed))
    splits = stratified_split(labels, {"train": 1 - fraction, "test": fraction}, seeded(seed), groups)
    assert len(splits) == len(groups)
    for group in "abc":
        assert len({split for split, other in zip(splits, groups, strict=True) if other == group}) <= 1
    if fraction == 0:
        assert "test" not in splits
    largest = max([*Counter(group for group in groups if group).values(), 1])
    assert abs(splits.count("test") - fraction * len(groups)) <= largest


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_add_up_to_one(fractions: dict[str, float]) -> None:
    with pytest.raises(InputError, match="add up to 1"):
        stratified_split(torch.zeros(4, 1), fractions, seeded())
    with pytest.raises(InputError, match="groups: expected 4, one per example, got 1"):
        stratified_split(torch.zeros(4, 1), {"a": 1.0}, seeded(), ["g"])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows: list[Row] = [
        {"id": str(i), "image": f"{i}.jpg", "captions": [f"a w{i % 5}"], "group": f"g{i // 2}"} for i in range(60)
    ]
    rows[59]["split"] = "old"
    (tmp_path / "photos").mkdir()
    write_manifest(tmp_path / "photos" / "m.jsonl", rows)
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbf0.jpg\r\n1\r\n\r\n")
    return tmp_path / "photos" / "m.jsonl"


def test_split_by_list_then_by_fraction(manifest: Path) -> None:
    out = manifest.parents[1] / "o.parquet"
    lists = {"test": manifest.parents[1] / "test.txt"}
    counts = split(manifest, out, lists=lists, validation_fraction=0.25)
    assert counts["test"] == 2
    assert counts["old"] == 1
    assert 12 <= counts["validation"] <= 16
    content = read_manifest(out)
    assert content.header["media_root"] == "photos"
    assert content.rows["split"][:2] == ["test", "test"]
    groups = {}
    for row in content.rows.select(range(58)):
        assert groups.setdefault(row["group"], row["split"]) == row["split"]
    with pytest.raises(InputError, match=r"out: .* exists; add --overwrite"):
        split(out, out, test_fraction=0.1)
    split(out, out, test_fraction=0.1, overwrite=True)
    assert read_manifest(out).rows["split"][:2] == ["test", "test"]


def test_rows_outside_the_lists_may_have_no_split(manifest: Path) -> None:
    out = manifest.with_name("o.jsonl")
    assert split(manifest, out, lists={"test": manifest.parents[1] / "test.txt"}) == {"": 57, "old": 1, "test": 2}
    assert {row["split"] for row in iterate_rows(out)} == {None, "old", "test"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got none of them"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave train rows"),
        ({"validation_fraction": -0.5}, "0 or more"),
        ({"validation_fraction": 0.001}, "too few .* none for validation"),
        ({"lists": {"test": Path("nowhere.txt")}}, "no such list"),
    ],
)
def test_split_refuses_what_makes_no_sense(manifest: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(manifest, manifest.with_name("o.jsonl"), **options)


def test_lists_that_cannot_be_read(manifest: Path) -> None:
    path = manifest.parents[1] / "test.txt"
    for content, message in ((b"\n", "names no row"), (b"\xff\xfe", "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            split(manifest, manifest.with_name("o.jsonl"), lists={"test": path})
    write_manifest(manifest, [{"id": "1", "image": "1", "split": "old", "captions": []}])
    with pytest.raises(InputError, match="expected train rows to draw from, got none"):
        split(manifest, manifest.with_name("o.jsonl"), test_fraction=0.5)


def test_rows_that_join_a_split_of_the_manifest_are_told(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = manifest.with_name("o.jsonl")
    split(manifest, out, lists={"test": manifest.parents[1] / "test.txt"})
    assert "moved" not in capsys.readouterr().err
    split(out, manifest.with_name("p.jsonl"), test_fraction=0.2)
    assert "train rows moved to the 2 test rows of the manifest" in capsys.readouterr().err
