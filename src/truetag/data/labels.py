"""From rows and a vocabulary to label matrices: 1 present, 0 absent, -1 unknown.

A caption names an entry of the vocabulary if the entry's words are consecutive tokens of the caption; a tag matches an
entry as a whole. An alias of an entry makes it present, too. The `true_*` fields are read for the source "true" alone,
so training cannot see them by accident.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, Int64
from scipy import sparse
from torch import Tensor

from truetag.data.manifest import Rows, stream_rows
from truetag.data.rows import ANY_TAG, PROBABILITIES, Row
from truetag.data.vocabulary import Vocabulary
from truetag.data.words import normalise, word_matcher
from truetag.errors import InputError
from truetag.io.text import shown
from truetag.truth import Truth

CaptionSource = Literal["observed", "captions", "true"]

OBSERVED_FIELDS = ("id", "captions", "tags", "unknown_tags", "verified_tags", "rejected_tags")
TRUE_FIELDS = ("true_captions", "true_tags")


def observed_labels(rows: Rows, vocabulary: Vocabulary) -> Int8[Tensor, "N K"]:
    """What people said about each bag: 1 where a caption or tag names the word, -1 where `unknown_tags` does, else 0.

    `verified_tags`, which a person found present, are 1 whatever else the row says, and `rejected_tags` are 0.

    >>> words = Vocabulary(("dog", "teddy bear", "frisbee"), ("NN",) * 3, (3, 2, 1))
    >>> row = {"id": "a", "captions": ["A dog and a Teddy-bear."], "unknown_tags": ["frisbee"]}
    >>> observed_labels([row], words).tolist()
    [[1, 1, -1]]
    """
    return label_matrix(rows, vocabulary, "observed")


def label_matrix(rows: Rows, vocabulary: Vocabulary, source: Truth) -> Int8[Tensor, "N K"]:
    """The labels of each bag from one source.

    "observed" joins captions and tags; "captions" and "tags" use one of them. "true" uses `true_tags`; or
    `true_captions` in a row without them or with captions alone; or the observed captions and tags in a row with
    neither, which was not corrupted. True tags and captions are complete: `unknown_tags` apply to observed ones only.

    Raises:
        InputError: a row has no captions or tags of this source.
    """
    words_of_caption = _caption_matcher(vocabulary)
    labels_of_name = vocabulary.labels_of_name

    def cells_of(number: int, names: Iterable[str]) -> list[tuple[int, int]]:
        return [(number, label) for name in map(normalise, names) for label in labels_of_name.get(name, ())]

    present: list[tuple[int, int]] = []
    unknown: list[tuple[int, int]] = []
    verified: list[tuple[int, int]] = []
    rejected: list[tuple[int, int]] = []
    open_rows: list[int] = []
    num_rows = 0
    for num_rows, row in enumerate(stream_rows(rows, _fields(source)), start=1):
        evidence = _evidence(row, source)
        present += cells_of(num_rows - 1, evidence.tags)
        present += [(num_rows - 1, label) for caption in evidence.captions for label in words_of_caption(caption)]
        unknown += cells_of(num_rows - 1, evidence.unknown)
        verified += cells_of(num_rows - 1, evidence.verified)
        rejected += cells_of(num_rows - 1, evidence.rejected)
        if ANY_TAG in evidence.unknown:
            open_rows.append(num_rows - 1)
    labels = torch.zeros(num_rows, len(vocabulary), dtype=torch.int8)
    labels[open_rows] = -1
    # in this order: a person's decision wins
    for cells, value in ((unknown, -1), (present, 1), (verified, 1), (rejected, 0)):
        if cells:
            labels[torch.tensor(cells).unbind(1)] = value
    return labels


def decided_labels(rows: Rows, vocabulary: Vocabulary) -> Bool[Tensor, "N K"]:
    """Where a person has decided: the labels that `verified_tags` or `rejected_tags` name."""
    cells: list[tuple[int, int]] = []
    num_rows = 0
    for num_rows, row in enumerate(stream_rows(rows, ("verified_tags", "rejected_tags")), start=1):
        names = [*(row.get("verified_tags") or ()), *(row.get("rejected_tags") or ())]
        labels = (label for name in names for label in vocabulary.labels_of_name.get(normalise(name), ()))
        cells += [(num_rows - 1, label) for label in labels]
    decided = torch.zeros(num_rows, len(vocabulary), dtype=torch.bool)
    if cells:
        decided[torch.tensor(cells).unbind(1)] = True
    return decided


def tag_sources(rows: Rows, vocabulary: Vocabulary) -> list[dict[int, str]]:
    """Where each present label of each bag comes from, by its index: `tag_sources`, else "tag"; "person"; "caption".

    >>> words = Vocabulary(("dog", "cat"), ("NN",) * 2, (3, 2))
    >>> tag_sources([{"id": "a", "tags": ["Dog"], "tag_sources": ["shop"], "captions": ["a dog and a cat"]}], words)
    [{0: 'shop', 1: 'caption'}]
    """
    words_of_caption = _caption_matcher(vocabulary)
    labels_of_name = vocabulary.labels_of_name
    found: list[dict[int, str]] = []
    for row in stream_rows(rows, ("captions", "tags", "tag_sources", "verified_tags")):
        tags = row.get("tags") or ()
        pairs = [*zip(tags, row.get("tag_sources") or ["tag"] * len(tags), strict=True)]
        pairs += [(tag, "person") for tag in row.get("verified_tags") or ()]
        named = {label for caption in row.get("captions") or () for label in words_of_caption(caption)}
        sources = dict.fromkeys(sorted(named), "caption")
        sources |= {label: source for tag, source in pairs for label in labels_of_name.get(normalise(tag), ())}
        found.append(sources)
    return found


def soft_tags(rows: Rows, vocabulary: Vocabulary) -> Float[Tensor, "N K"] | None:
    """The `tag_probabilities` of each bag, NaN where there is none or where a person has decided; None without any.

    They are what training aims at. They are not observed: no other function here reads them.

    >>> words = Vocabulary(("dog", "cat"), ("NN",) * 2, (3, 2))
    >>> soft_tags([{"id": "a", "tags": ["dog"], "tag_probabilities": {"Cat": 0.75}}], words).tolist()
    [[nan, 0.75]]
    """
    cells: list[tuple[int, int]] = []
    values: list[float] = []
    decided: list[tuple[int, int]] = []
    num_rows = 0
    for num_rows, row in enumerate(stream_rows(rows, (PROBABILITIES, "verified_tags", "rejected_tags")), start=1):
        for tag, value in (row.get(PROBABILITIES) or {}).items():
            labels = vocabulary.labels_of_name.get(normalise(tag), ())
            cells += [(num_rows - 1, label) for label in labels]
            values += [value] * len(labels)
        for tag in (*(row.get("verified_tags") or ()), *(row.get("rejected_tags") or ())):
            decided += [(num_rows - 1, label) for label in vocabulary.labels_of_name.get(normalise(tag), ())]
    if not cells:
        return None
    soft = torch.full((num_rows, len(vocabulary)), torch.nan)
    soft[torch.tensor(cells).unbind(1)] = torch.tensor(values)
    if decided:
        soft[torch.tensor(decided).unbind(1)] = torch.nan
    return soft


def caption_counts(
    rows: Rows, vocabulary: Vocabulary, source: CaptionSource
) -> tuple[Int[Tensor, "N K"], Int[Tensor, " N"]]:
    """How many captions of each bag name each word.

    "true" uses `true_captions` where a row has them; the other sources use `captions`.

    Returns:
        The counts, and the number of captions of each bag.

    Raises:
        InputError: a row has no captions.
    """
    words_of_caption = _caption_matcher(vocabulary)
    named: list[tuple[int, int]] = []
    num_captions: list[int] = []
    for number, row in enumerate(stream_rows(rows, _fields(source))):
        captions = (row.get("true_captions") if source == "true" else None) or row.get("captions")
        if not captions:
            raise InputError(f"row {shown(row['id'])}: has no captions to count words in")
        num_captions.append(len(captions))
        named += [(number, label) for caption in captions for label in words_of_caption(caption)]
    counts = torch.zeros(len(num_captions), len(vocabulary), dtype=torch.int16)
    if named:
        ones = torch.ones(len(named), dtype=torch.int16)
        counts.index_put_(tuple(torch.tensor(named).unbind(1)), ones, accumulate=True)
    return counts, torch.tensor(num_captions, dtype=torch.int64)


def caption_words(rows: Rows, vocabulary: Vocabulary) -> tuple[sparse.csr_array, Int64[np.ndarray, "S"]]:
    """[S, K], 1 where a caption names a word, and the bag of each caption; rows without captions have none."""
    words_of_caption = _caption_matcher(vocabulary)
    bags: list[int] = []
    named: list[list[int]] = []
    for number, row in enumerate(stream_rows(rows, ("id", "captions"))):
        for caption in row.get("captions") or []:
            bags.append(number)
            named.append(sorted(words_of_caption(caption)))
    ends = np.cumsum([0, *map(len, named)])
    places = np.array([place for caption in named for place in caption], dtype=np.int64)
    words = sparse.csr_array((np.ones(len(places)), places, ends), shape=(len(bags), len(vocabulary)))
    return words, np.array(bags, dtype=np.int64)


def _fields(source: Truth) -> tuple[str, ...]:
    return OBSERVED_FIELDS + TRUE_FIELDS if source == "true" else OBSERVED_FIELDS


def has_true_tags(row: Row) -> bool:
    """Whether the true labels of a row are its `true_tags`.

    They are not where captions alone were observed and exchanged: then true captions say more.
    """
    if row.get("true_tags") is None:
        return False
    return row.get("true_captions") is None or row.get("captions") is None or row.get("tags") is not None


class _Evidence(NamedTuple):
    """What a row holds of one source."""

    captions: Sequence[str]
    tags: Sequence[str]
    unknown: Sequence[str] = ()
    verified: Sequence[str] = ()
    rejected: Sequence[str] = ()


def _evidence(row: Row, source: Truth) -> _Evidence:
    """What a row holds of one source.

    Raises:
        InputError: the row has nothing of the source.
    """
    match source:
        case "captions" | "tags":
            if row.get(source) is None:
                raise InputError(f"row {shown(row['id'])}: has no {source}")
            captions, tags = (row[source], []) if source == "captions" else ([], row[source])
        case "true" if has_true_tags(row):
            return _Evidence([], row["true_tags"])
        case "true" if row.get("true_captions") is not None:
            return _Evidence(row["true_captions"], [])
        case _:
            captions, tags = row.get("captions") or [], row.get("tags") or []
            if row.get("captions") is None and row.get("tags") is None:
                raise InputError(f"row {shown(row['id'])}: has neither captions nor tags")
    decisions = (row.get(name) or [] for name in ("unknown_tags", "verified_tags", "rejected_tags"))
    return _Evidence(captions, tags, *decisions)


def _caption_matcher(vocabulary: Vocabulary) -> Callable[[str], set[int]]:
    """A function from a caption to the indices of the labels that it names."""
    if not vocabulary.aliases:
        return word_matcher(vocabulary.words)
    names_in = word_matcher(list(vocabulary.labels_of_name))
    labels = list(vocabulary.labels_of_name.values())
    return lambda caption: {label for name in names_in(caption) for label in labels[name]}
