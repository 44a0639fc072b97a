"""The ranked list of wrong labels, their expected number, and the quality of examples."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import truetag
from truetag import count_label_issues, example_quality, find_label_issues, issues
from truetag.errors import InputError

N, K = 300, 5


@pytest.fixture(scope="module")
def judged():
    """A posterior that is right about itself, and labels drawn with it."""
    rng = np.random.default_rng(0)
    posterior = rng.beta(0.4, 0.6, (N, K))
    truth = rng.random((N, K)) < posterior
    given = np.where(rng.random((N, K)) < 0.5, truth, rng.random((N, K)) < 0.5).astype(float)
    return posterior, truth, given


def test_one_list_ranks_both_kinds_by_the_probability_that_the_label_is_wrong(judged):
    posterior, _, given = judged
    found = find_label_issues(posterior, given, min_probability=0.0)
    assert len(found) == N * K
    assert found["rank"].tolist() == list(range(1, N * K + 1))
    assert found["probability"].is_monotonic_decreasing
    rows, columns = found["example"].to_numpy(), found["label"].to_numpy()
    wrong = np.where(given == 1, 1 - posterior, posterior)
    assert np.allclose(found["probability"], wrong[rows, columns])
    assert (found["given"].to_numpy() == given[rows, columns]).all()
    assert np.allclose(found["posterior"], posterior[rows, columns])
    assert ((found["kind"] == "missing") == (found["given"] == 0)).all()
    assert ((found["suggestion"] == "add") == (found["given"] == 0)).all()
    first = found[found["rank_in_example"] == 1]
    assert len(first) == N
    assert np.allclose(first.set_index("example")["probability"].sort_index(), wrong.max(1))


def test_only_probable_ones_are_listed_and_unknown_ones_never(judged):
    posterior, _, given = judged
    unknown = given.copy()
    unknown[::2, 0] = np.nan
    unknown[1::2, 1] = -1
    found = find_label_issues(posterior, unknown, min_probability=0.7)
    assert found["probability"].min() >= 0.7
    pairs = set(zip(found["example"], found["label"], strict=True))
    assert not any((label == 0 and row % 2 == 0) or (label == 1 and row % 2 == 1) for row, label in pairs)
    expected = {
        (row, label)
        for row, label in zip(*np.nonzero(np.where(given == 1, 1 - posterior, posterior) >= 0.7), strict=True)
        if not ((label == 0 and row % 2 == 0) or (label == 1 and row % 2 == 1))
    }
    assert pairs == expected


def test_parts_give_what_the_whole_gives(judged, monkeypatch, tmp_path):
    posterior, _, given = judged
    whole = find_label_issues(posterior, given), count_label_issues(posterior, given), example_quality(posterior, given)
    np.save(tmp_path / "p.npy", posterior)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    monkeypatch.setattr(issues, "_CELLS_AT_A_TIME", 35)
    parts = find_label_issues(mapped, given), count_label_issues(mapped, given), example_quality(mapped, given)
    pd.testing.assert_frame_equal(whole[0], parts[0])
    pd.testing.assert_frame_equal(whole[1], parts[1])
    assert np.array_equal(whole[2], parts[2])
    few = find_label_issues(mapped, given, max_issues=7)
    pd.testing.assert_frame_equal(few, whole[0].head(7))
    assert find_label_issues(mapped, given, max_issues=0).empty


def test_every_form_of_labels_gives_the_same(judged):
    posterior, _, given = judged
    expected = find_label_issues(posterior, given, label_names=list("abcde"))
    tags = [{"abcde"[k] for k in np.flatnonzero(row)} for row in given]
    for labels in (
        given.astype(np.int8),
        given.astype(bool),
        torch.from_numpy(given),
        sparse.csr_matrix(given),
        pd.DataFrame(given, columns=list("abcde")),
        tags,
    ):
        pd.testing.assert_frame_equal(find_label_issues(posterior, labels, label_names=list("abcde")), expected)
    reordered = pd.DataFrame(given, columns=list("abcde"))[list("edcba")]
    pd.testing.assert_frame_equal(find_label_issues(posterior, reordered, label_names=list("abcde")), expected)


def test_expected_numbers_are_those_of_a_calibrated_posterior(judged):
    posterior, truth, given = judged
    counts = count_label_issues(posterior, given)
    for kind, is_wrong in (("missing", truth & (given == 0)), ("incorrect", ~truth & (given == 1))):
        error = counts[kind] - is_wrong.sum(0)
        assert (error.abs() < 4 * counts[f"{kind}_std"] + 6).all()
    assert np.allclose(counts["true"], counts["given"] - counts["incorrect"] + counts["missing"])
    assert (counts["known"] == N).all()


def test_quality_falls_with_every_wrong_label():
    sure = np.array([[1.0, 1.0, 0.0, 0.0]] * 4)
    given = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]])
    assert example_quality(sure, given).round(3).tolist() == [1.0, 0.5, 0.667, 0.0]
    assert example_quality(np.zeros((1, 2)), np.zeros((1, 2))).tolist() == [1.0]
    assert example_quality(np.zeros((1, 2)), np.full((1, 2), np.nan)).tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5]], [[1, 0]]), "Z: expected 1 labels, as the posterior has, got 2"),
        (([[0.5], [0.1]], [[1]]), "Z: expected"),
        (([[1.5]], [[1]]), "posterior: expected probabilities from 0 to 1, got 1.5"),
        (([[float("nan")]], [[1]]), "posterior: expected probabilities from 0 to 1, got nan"),
        (([0.5], [1]), r"posterior: expected shape \[examples, labels\]"),
        (([[0.5]] * 3, np.array([[1], [0], [2]])), "Z: expected labels 1, 0, and NaN or -1 .* got 2 at row 2"),
        ((np.full((4, 1), 0.5), np.array([[1], [-1], [-1], [1]])), "Z: .* looks like the convention -1/\\+1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        find_label_issues(*(np.asarray(argument) for argument in arguments))


def test_arguments_are_checked(judged):
    posterior, _, given = judged
    for arguments, message in (
        ({"example_ids": ["a"]}, "example_ids: expected 300, got 1"),
        ({"label_names": ["a"]}, "label_names: expected 5, one for each label, got 1"),
        ({"min_probability": 1.5}, "min_probability: expected a number from 0 to 1"),
        ({"max_issues": -1}, "max_issues: expected 0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            find_label_issues(posterior, given, **arguments)


def test_it_is_public():
    assert truetag.find_label_issues is find_label_issues
