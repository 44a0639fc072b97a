from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truetag.data.corruption import corrupt, flip_labels, keep_single_positive, label_rates, swap_captions
from truetag.data.labels import label_matrix, observed_labels
from truetag.data.manifest import Row, iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import Vocabulary, write_vocabulary
from truetag.errors import InputError

WORDS = Vocabulary(("red", "dog", "cat", "teddy bear", "bear"), ("-",) * 5, (0,) * 5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    captions=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4), max_size=8),
    num_swapped=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_a_swap_is_a_permutation_without_own_captions(captions: list[list[str]], num_swapped: int, seed: int) -> None:
    before = [list(texts) for texts in captions]
    try:
        swapped, mask = swap_captions(captions, num_swapped, seeded(seed))
    except InputError:
        return  # impossible ones have a test of their own
    assert captions == before
    assert sorted(chain(*swapped)) == sorted(chain(*captions))
    for old, new, moved in zip(captions, swapped, mask, strict=True):
        assert sum(moved) == min(num_swapped, len(old))
        for old_text, new_text, is_moved in zip(old, new, moved, strict=True):
            assert new_text not in old if is_moved else new_text == old_text


def test_the_only_possible_swap_is_found() -> None:
    # two images exchange everything: a random permutation nearly never does
    captions = [[f"{image} {i}" for i in range(30)] for image in "ab"]
    swapped, _ = swap_captions(captions, 30, seeded())
    assert sorted(swapped[0]) == sorted(captions[1])
    assert swapped[0] != captions[1]


@pytest.mark.parametrize("captions", [[["a", "b"]], [["a"], ["a"]], [["a", "b"], ["c"]], [["a"], []]])
def test_an_impossible_swap_says_why(captions: list[list[str]]) -> None:
    with pytest.raises(InputError, match=r"found no way .* of image 0"):
        swap_captions(captions, 2, seeded())


def test_swaps_depend_on_the_generator_alone() -> None:
    captions = [[f"{image} {i}" for i in range(5)] for image in range(50)]
    assert swap_captions(captions, 2, seeded(1)) == swap_captions(captions, 2, seeded(1))
    assert swap_captions(captions, 2, seeded(1)) != swap_captions(captions, 2, seeded(2))
    assert swap_captions(captions, 0, seeded()) == (captions, [[False] * 5] * 50)
    with pytest.raises(InputError, match="0 or more captions an image, got -1"):
        swap_captions(captions, -1, seeded())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64, torch.bool])
def test_flips_come_at_the_rates_asked_for(dtype: torch.dtype) -> None:
    labels = (torch.rand(20000, 3, generator=seeded(5)) < 0.3).to(dtype)
    missing, incorrect = [0.0, 0.3, 1.0], torch.tensor([0.1, 0.0, 0.02])
    flipped = flip_labels(labels, missing, incorrect, seeded())
    assert flipped.dtype == dtype
    realised = label_rates(labels, flipped)
    torch.testing.assert_close(realised[0], torch.tensor(missing).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(realised[1], incorrect.double(), atol=0.02, rtol=0)
    assert torch.equal(flip_labels(labels, 0.3, 0.1, seeded(3)), flip_labels(labels, [0.3] * 3, 0.1, seeded(3)))


def test_unknown_labels_stay() -> None:
    labels = torch.tensor([[1.0, 0.0, float("nan"), -1.0]])
    flipped = flip_labels(labels, 1.0, 1.0, seeded())
    torch.testing.assert_close(flipped, torch.tensor([[0.0, 1.0, float("nan"), -1.0]]), equal_nan=True)
    assert labels[0, 0] == 1
    assert keep_single_positive(torch.tensor([[-1, 1, 0]]), seeded()).tolist() == [[-1, 1, 0]]


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), [0.1], [0.1, 0.2, 0.3, 2.0], torch.ones(1, 4)])
def test_wrong_rates(rate: float | list[float] | torch.Tensor) -> None:
    with pytest.raises(InputError, match="missing_rate: expected"):
        flip_labels(torch.zeros(2, 4), rate, 0.0, seeded())
    with pytest.raises(InputError, match="incorrect_rate: expected"):
        flip_labels(torch.zeros(2, 4), 0.0, rate, seeded())


def test_one_positive_is_kept_evenly() -> None:
    labels = torch.tensor([[1, 1, 0, 1]]).repeat(3000, 1)
    single = keep_single_positive(labels, seeded())
    assert (single.sum(1) == 1).all()
    torch.testing.assert_close(
        single.double().mean(0), torch.tensor([1, 1, 0, 1]) / 3.0, atol=0.03, rtol=0, check_dtype=False
    )
    assert keep_single_positive(torch.zeros(2, 3), seeded()).sum() == 0


def test_rates_leave_unknown_pairs_out() -> None:
    true = torch.tensor([[1, 0], [1, 0], [0, 0], [-1, 0]])
    observed = torch.tensor([[1.0, 1.0], [0.0, float("nan")], [-1.0, 0.0], [1.0, 0.0]])
    missing, incorrect = label_rates(true, observed)
    torch.testing.assert_close(missing, torch.tensor([0.5, float("nan")]).double(), equal_nan=True)
    torch.testing.assert_close(incorrect, torch.tensor([float("nan"), 1 / 3]).double(), equal_nan=True)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    kinds = ["a red dog", "a cat", "a teddy bear", "a bear"]
    rows: list[Row] = [
        {
            "id": str(i),
            "image": f"{i}.jpg",
            "captions": [f"{kinds[i % 4]} {i} {j}" for j in range(3)],
            "unknown_tags": ["dog"],
        }
        for i in range(40)
    ]
    for i, row in enumerate(rows):
        row["split"] = (None, "train", "validation", "test")[i // 10]
    (tmp_path / "photos").mkdir()
    write_manifest(tmp_path / "photos" / "m.jsonl", rows)
    write_vocabulary(tmp_path / "v.tsv", WORDS)
    return tmp_path / "photos" / "m.jsonl"


def test_corrupt_swaps_within_a_split_and_keeps_the_originals(manifest: Path) -> None:
    out = manifest.parents[1] / "deep" / "swapped.jsonl"
    realised = corrupt(manifest, out, swap_captions=2, vocabulary=manifest.parents[1] / "v.tsv", seed=4)
    before, after = read_manifest(manifest), read_manifest(out)
    assert after.header["media_root"] == "../photos"
    assert after.header["corruption"] == {
        "kind": "swap_captions",
        "parameters": {"vocabulary": "v.tsv", "swap_captions": 2},
        "seed": 4,
        "splits": ["train", "validation"],
        "realised": realised,
    }
    assert realised["captions_swapped"] == pytest.approx(2 / 3)
    assert realised["missing_rate"] is not None
    assert realised["incorrect_rate"] is not None
    for old, new in zip(before.rows, after.rows, strict=True):
        if old["split"] == "test":
            assert new == old
            continue
        assert new["true_captions"] == old["captions"]
        own = [text in old["captions"] for text in new["captions"]]
        assert sum(own) == 1
        homes = {range(0, 20) if int(text.split()[-2]) < 20 else range(20, 30) for text in new["captions"]}
        assert all(int(new["id"]) in home for home in homes)
    with pytest.raises(InputError, match="already corrupted"):
        corrupt(out, manifest.parent / "again.jsonl", swap_captions=1)
    with pytest.raises(InputError, match=r"out: .* exists; add --overwrite"):
        corrupt(manifest, out, swap_captions=0)
    assert corrupt(manifest, out, swap_captions=0, overwrite=True) == {"captions_swapped": 0.0}


def test_corrupt_is_reproducible(manifest: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        corrupt(manifest, manifest.with_name("o.jsonl"), swap_captions=1, seed=seed, overwrite=True)
        texts.append(manifest.with_name("o.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet"])
def test_corrupt_flips_write_tags_and_keep_the_truth(manifest: Path, name: str) -> None:
    out = manifest.with_name(name)
    vocabulary = manifest.parents[1] / "v.tsv"
    realised = corrupt(manifest, out, missing_rate=0.5, incorrect_rate=0.2, vocabulary=vocabulary)
    before, after = read_manifest(manifest), read_manifest(out)
    rates = label_rates(
        observed_labels(before.rows, WORDS)[:30].view(-1, 1), observed_labels(after.rows, WORDS)[:30].view(-1, 1)
    )
    assert list(realised.values()) == [float(rate) for rate in rates]
    assert 0.3 < rates[0] < 0.7
    assert 0.1 < rates[1] < 0.3
    old_truth, new_truth = (label_matrix(content.rows, WORDS, "true") for content in (before, after))
    assert torch.equal((old_truth == 1), (new_truth == 1))
    for old, new in zip(before.rows, after.rows, strict=True):
        if old["split"] == "test":
            assert new == old
        else:
            assert new["captions"] is None
            assert new["true_captions"] == old["captions"]


def test_a_removed_label_is_absent_and_not_unknown(manifest: Path) -> None:
    out, vocabulary = manifest.with_name("o.jsonl"), manifest.parents[1] / "v.tsv"
    corrupt(manifest, out, missing_rate=1.0, vocabulary=vocabulary, splits=("train",))
    rows = list(iterate_rows(out))
    # "dog" is among the unknown tags of every row, but the captions of row 0 name it
    assert (rows[0]["tags"], rows[0]["unknown_tags"], rows[0]["true_tags"]) == ([], None, ["red", "dog"])
    assert (rows[1]["tags"], rows[1]["unknown_tags"]) == ([], ["dog"])
    assert rows[20]["captions"] is not None


def test_corrupt_to_single_positives(manifest: Path) -> None:
    out = manifest.with_name("o.jsonl")
    realised = corrupt(manifest, out, single_positive=True, vocabulary=manifest.parents[1] / "v.tsv")
    assert realised["incorrect_rate"] == 0
    assert all(len(row["tags"]) == 1 for row in iterate_rows(out) if row["split"] != "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of .*; got none"),
        ({"swap_captions": 1, "missing_rate": 0.1}, "got swap_captions and flip_labels"),
        ({"missing_rate": 0.1}, "vocabulary: flip_labels works on the labels"),
        ({"single_positive": True}, "vocabulary: single_positive works"),
        ({"swap_captions": 1, "splits": ("dev",)}, "no row has a split of dev"),
        ({"swap_captions": 4, "vocabulary": Path("nowhere.tsv")}, "no such vocabulary"),
    ],
)
def test_corrupt_refuses_what_makes_no_sense(manifest: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(manifest, manifest.with_name("o.jsonl"), **options)
    assert not manifest.with_name("o.jsonl").exists()


def test_corrupt_needs_captions_that_are_not_yet_swapped(manifest: Path) -> None:
    for row, message in (
        ({"tags": []}, "has no captions"),
        ({"captions": ["a"], "true_captions": ["b"]}, "already has"),
    ):
        write_manifest(manifest, [{"id": "x", "image": "x"} | row])
        with pytest.raises(InputError, match=f"row 'x' {message}"):
            corrupt(manifest, manifest.with_name("o.jsonl"), swap_captions=1)
