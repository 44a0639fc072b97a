from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truetag.data import words as words_module
from truetag.data.labels import caption_counts, label_matrix, observed_labels
from truetag.data.manifest import Row, read_manifest, write_manifest
from truetag.data.vocabulary import Vocabulary
from truetag.data.words import tokenise
from truetag.errors import InputError


def vocabulary_of(*words: str) -> Vocabulary:
    return Vocabulary(words, ("-",) * len(words), (0,) * len(words))


VOCABULARY = vocabulary_of("dog", "cat", "teddy bear", "bear", "t-shirt")
ROWS: list[Row] = [
    {"id": "1", "captions": ["A Dog, a teddy bear"], "tags": ["CAT "], "true_tags": ["bear"], "true_captions": ["cat"]},
    {
        "id": "2",
        "captions": ["teddy the bear in a T-shirt."],
        "unknown_tags": ["dog", "Bear"],
        "true_captions": ["dog"],
    },
    {"id": "3", "tags": ["Teddy  Bear", "wombat"], "unknown_tags": ["cat"]},
]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("observed", [[1, 1, 1, 1, 0], [-1, 0, 0, 1, 1], [0, -1, 1, 0, 0]]),
        ("true", [[0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, -1, 1, 0, 0]]),
    ],
)
def test_labels_of_each_source(source: str, expected: list[list[int]]) -> None:
    labels = label_matrix(ROWS, VOCABULARY, source)
    assert labels.dtype == torch.int8
    assert labels.tolist() == expected


def test_captions_and_tags_alone() -> None:
    assert label_matrix(ROWS[:1], VOCABULARY, "captions").tolist() == [[1, 0, 1, 1, 0]]
    assert label_matrix(ROWS[:1], VOCABULARY, "tags").tolist() == [[0, 1, 0, 0, 0]]
    with pytest.raises(InputError, match="row '2': has no tags"):
        label_matrix(ROWS, VOCABULARY, "tags")
    with pytest.raises(InputError, match="row '9': has neither captions nor tags"):
        observed_labels([{"id": "9", "true_tags": ["dog"]}], VOCABULARY)


class Sealed(dict):
    """A row whose truth must not be touched."""

    def __getitem__(self, key: str) -> object:
        assert not key.startswith("true_")
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> object:
        assert not key.startswith("true_")
        return super().get(key, default)


def test_truth_is_read_only_when_asked_for() -> None:
    rows = [Sealed(row) for row in ROWS[:2]]
    observed_labels(rows, VOCABULARY)
    label_matrix(rows, VOCABULARY, "captions")
    caption_counts(rows, VOCABULARY, "observed")
    with pytest.raises(AssertionError):
        label_matrix(rows, VOCABULARY, "true")


def test_caption_counts() -> None:
    rows = [
        {"id": "a", "captions": ["dog dog", "a dog", "cat"]},
        {"id": "b", "captions": ["x"], "true_captions": ["cat"]},
    ]
    counts, num_captions = caption_counts(rows, VOCABULARY, "observed")
    assert counts.tolist() == [[2, 1, 0, 0, 0], [0] * 5]
    assert num_captions.tolist() == [3, 1]
    assert caption_counts(rows, VOCABULARY, "true")[0].tolist() == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    with pytest.raises(InputError, match="row '3': has no captions"):
        caption_counts(ROWS, VOCABULARY, "captions")


def test_no_rows_and_an_entry_that_is_no_word() -> None:
    assert observed_labels([], VOCABULARY).shape == (0, 5)
    assert observed_labels([{"id": "1", "captions": ["!!!"], "tags": ["!!!"]}], vocabulary_of("!!!")).tolist() == [[1]]


def test_a_dataset_gives_what_its_rows_give(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [row | {"image": "x"} for row in ROWS])
    rows = read_manifest(tmp_path / "m.jsonl").rows
    for source in ("observed", "true"):
        assert torch.equal(label_matrix(rows, VOCABULARY, source), label_matrix(ROWS, VOCABULARY, source))


tokens = st.sampled_from(["a", "b", "c"])


@settings(max_examples=100, deadline=None)
@given(st.lists(tokens, max_size=8), st.lists(st.lists(tokens, min_size=1, max_size=3).map(tuple), unique=True))
def test_entries_match_runs_of_tokens(caption: list[str], entries: list[tuple[str, ...]]) -> None:
    labels = observed_labels([{"id": "1", "captions": [" ".join(caption)]}], vocabulary_of(*map(" ".join, entries)))
    runs = {tuple(caption[i:j]) for i in range(len(caption)) for j in range(i + 1, len(caption) + 1)}
    assert labels.tolist() == [[int(entry in runs) for entry in entries]]


def test_each_caption_and_each_entry_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with captions plus entries, not with captions times entries."""
    texts: list[str] = []

    def recorded(text: str) -> list[str]:
        texts.append(text)
        return tokenise(text)

    monkeypatch.setattr(words_module, "tokenise", recorded)
    observed_labels(ROWS, VOCABULARY)
    assert sorted(texts) == sorted([*VOCABULARY.words, *(text for row in ROWS for text in row.get("captions", []))])


def test_an_alias_makes_its_word_present_in_captions_and_tags() -> None:
    words = Vocabulary(("dog", "puppy", "car"), ("NN",) * 3, (1,) * 3, (("puppy", "hot rod dog"), (), ("hot rod",)))
    rows: list[Row] = [
        {"id": "1", "captions": ["A puppy"]},
        {"id": "2", "tags": ["Puppy", "hot  rod"]},
        {"id": "3", "captions": ["a hot-rod"], "unknown_tags": ["puppy"]},
        {"id": "4", "captions": ["a dog"], "unknown_tags": ["puppy"]},
    ]
    assert observed_labels(rows, words).tolist() == [[1, 1, 0], [1, 1, 1], [-1, -1, 1], [1, -1, 0]]
    assert caption_counts(rows[:1], words, "observed")[0].tolist() == [[1, 1, 0]]


def test_words_are_found_in_text_without_blanks_the_longest_first() -> None:
    words = vocabulary_of("狗", "热狗", "水", "น้ำ", "น")
    rows: list[Row] = [{"id": "1", "captions": ["一只狗在水里。"]}, {"id": "2", "captions": ["热狗", "สุนัขในน้ำ"]}]
    # the letter of น้ำ is not the word น: its mark belongs to it; that of ใน is
    assert observed_labels(rows, words).tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 1, 1]]
