"""Labels as people have them: the right matrix, or one clear line."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from truetag.errors import InputError
from truetag.label_noise.observed_labels import observed_labels

NAN = float("nan")
NA = pd.NA


def matrix(y, names=None):
    return observed_labels(y, len(y), names).matrix.numpy()


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        ([[True, None], [False, 1.0]], [[1, NAN], [0, 1]]),
        (np.array([[1, NA], [0, None]], dtype=object), [[1, NAN], [0, NAN]]),
        (np.ma.array([[1, 0], [1, 0]], mask=[[True, False], [False, False]]), [[NAN, 0], [1, 0]]),
        (pd.DataFrame({"b": [1, NA, 0], "a": [True, False, None]}, dtype="Int64"), [[1, 1], [NAN, 0], [0, NAN]]),
        (pd.DataFrame({"b": [True, NA]}, dtype="boolean"), [[1], [NAN]]),
        (pd.DataFrame({"b": [1, None]}, dtype=object), [[1], [NAN]]),
        (pd.Series([1, NA, 0], dtype="Int64", index=[7, 8, 9]), [[1], [NAN], [0]]),
        (np.array([True, False]), [[1], [0]]),
        ([1, 0, None], [[1], [0], [NAN]]),
        ([[1, -1], [0, 1], [1, 0]], [[1, NAN], [0, 1], [1, 0]]),
    ],
)
def test_matrices_and_columns(y, expected):
    assert np.array_equal(matrix(y), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("y", "names", "expected"),
    [
        ([["dog"], ["cat", "dog"], []], ["cat", "dog"], [[0, 1], [1, 1], [0, 0]]),
        ([("dog",), ("cat",)], ["cat", "dog"], [[0, 1], [1, 0]]),
        ([{"dog"}, None, frozenset()], ["dog"], [[1], [NAN], [0]]),
        (pd.Series([["b", "a"], NAN, ["b", "b"]]), ["a", "b"], [[1, 1], [NAN, NAN], [0, 1]]),
        ([np.array(["b"]), np.array(["a"])], ["a", "b"], [[0, 1], [1, 0]]),
        ([[0], [0, 1], []], [0, 1], [[1, 0], [1, 1], [0, 0]]),
        ([{10, 9}, {9}], [9, 10], [[1, 1], [1, 0]]),
        ([{0, 1}, {1, 0}], [0, 1], [[1, 1], [1, 1]]),
    ],
)
def test_lists_of_tags_and_of_label_numbers(y, names, expected):
    found = observed_labels(y, len(y))
    assert found.names == names
    assert np.array_equal(found.matrix, expected, equal_nan=True)


RNG = np.random.default_rng(0)
SIGNS = np.where(RNG.random((200, 3)) < 0.3, 1, -1)
VOC = np.where(RNG.random((200, 3)) < 0.05, 0, SIGNS)


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, sparse.csr_array, lambda y: y.tolist()])
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (SIGNS, r"-1 where no label has a 0, which looks like the convention -1/\+1: .*np.where\(y == -1, 0, y\)"),
        (VOC, r"which looks like PASCAL VOC's convention: .*np.select\(\[y == -1, y == 0\], \[0, np.nan\], y\)"),
        (np.column_stack([np.arange(200) % 2, SIGNS[:, 0]]), r"column 1 has no 0, .*np.where\(y == -1, np.nan, y\)"),
    ],
)
def test_other_conventions_are_refused_with_the_line_that_converts_them(kind, y, message):
    with pytest.raises(InputError, match=message):
        observed_labels(kind(y), 200)


def test_the_lines_convert():
    y = SIGNS
    assert np.array_equal(matrix(np.where(y == -1, 0, y)), SIGNS == 1)
    assert np.array_equal(matrix(np.where(y == -1, np.nan, y)), np.where(SIGNS == 1, 1, NAN), equal_nan=True)
    y = VOC
    expected = np.where(VOC == 0, NAN, VOC == 1)
    assert np.array_equal(matrix(np.select([y == -1, y == 0], [0, np.nan], y)), expected, equal_nan=True)


@pytest.mark.parametrize("unknown", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_minus_one_that_is_unknown_passes(unknown, density):
    rng = np.random.default_rng(1)
    y = np.where(rng.random((400, 5)) < unknown, -1, rng.random((400, 5)) < density)
    assert np.array_equal(np.isnan(matrix(y)), y == -1)


def test_a_few_rows_are_judged_together():
    assert matrix([[1, -1, 0]], ["a", "b", "c"]).shape == (1, 3)
    with pytest.raises(InputError, match="no label has a 0"):
        matrix([[1, -1, -1]], ["a", "b", "c"])
    assert observed_labels([[1, -1]], 1, ["a", "b"], minus_one_is_unknown=True).matrix[0, 1].isnan()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["dog", "cat"], r"got the text 'dog' at row 0: .* pass `\[\[tag\] for tag in y\]`"),
        ([["dog"], "cat"], r"got the text 'cat' at row 1"),
        ([["dog"], 3], r"expected a list of tags for each example, got 3 at row 1"),
        ([["dog"], [1]], r"expected lists of tags \(text\) or of label numbers, got 1"),
        ([["dog", ""]], r"got '' in one of them"),
        ([[], []], r"expected shape|expected at least one tag"),
        ([set(), set()], r"expected at least one tag, got none"),
        ([[1, 0, 1], [1, 0]], r"rows of equal length, or a list of tags .* got \[1, 0, 1\] at row 0"),
        ([[2, 0], [0, 3]], r"got 2 at row 0, column 0; if these are lists of label numbers, pass"),
        (pd.DataFrame([[1, 0]], columns=["a", "a"]), r"distinct names, got 'a' more than once"),
        (pd.DataFrame({"a": ["yes", "no"]}), r"expected labels 1, 0, .*yes"),
    ],
)
def test_mistakes_are_named(y, message):
    with pytest.raises(InputError, match=message):
        observed_labels(y, len(y))
