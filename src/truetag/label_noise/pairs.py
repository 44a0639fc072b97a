"""Pairs of a record and a bag: those that are observed, those that are made by shuffling, and the evidence of each.

A record is what was said of a bag at once: a caption, or a list of tags. Each record has a slot, the place among the
records of its bag where it is observed. Shuffling puts it into the slot of another bag, next to that bag's other
records: its siblings there.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from torch import Tensor, from_numpy
from torch.nn.functional import softplus

NUM_SHUFFLES = 3
_PAIRS_PER_BATCH = 20_000
_SMALLEST_FREQUENCY = 1e-4
_ROUNDING = 1e-6


class Pairs(NamedTuple):
    """Records, and the slots that they are in, by their numbers. The bag of a slot is that of its own record."""

    records: Int64[np.ndarray, "P"]
    slots: Int64[np.ndarray, "P"]


class Evidence(NamedTuple):
    """What the logits of a bag say about the words of a record: the columns that a classifier of pairs sees."""

    total: Float64[np.ndarray, "P"]
    """Sum over the named words of the logit above its prior."""
    mean: Float64[np.ndarray, "P"]
    above_expected: Float64[np.ndarray, "P"]
    """The sum less its expectation: log p(s|I) - log p(s) of independent words."""
    least: Float64[np.ndarray, "P"]
    most: Float64[np.ndarray, "P"]
    num_words: Float64[np.ndarray, "P"]
    expected: Float64[np.ndarray, "P"]


MONOTONE: tuple[int, ...] = (1, 1, 1, 1, 1, 0, 0)
"""By column of `Evidence`: more of it never speaks against a pair (1), or may work either way (0)."""


class PairEvidence:
    """Computes the evidence of pairs, a batch at a time.

    Args:
        logits: log odds, per bag and word, that one record names the word; from models that did not see the bag.
        words: [S, K], 1 where the record names the word.
        bags: the bag of each record.
    """

    def __init__(self, logits: Float[Tensor, "N K"], words: sparse.csr_array, bags: Int64[np.ndarray, "S"]) -> None:
        frequencies = np.clip(np.asarray(words.mean(0)), _SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
        prior = from_numpy(np.log(frequencies) - np.log1p(-frequencies)).to(logits.dtype)
        self.gains = (logits - prior).numpy()  # N K
        self.expected = (softplus(logits) - softplus(prior)).sum(1).numpy()  # N
        self.words = words
        self.bags = bags

    def __call__(self, pairs: Pairs) -> Evidence:
        """The evidence of all pairs."""
        return Evidence(*(np.concatenate(column) for column in zip(*map(self._of_batch, _batches(pairs)), strict=True)))

    def _of_batch(self, pairs: Pairs) -> Evidence:
        named, bags = self.words[pairs.records], self.bags[pairs.slots]
        num_words = np.diff(named.indptr)
        # the gain of each named word, those of one record behind those of the other
        gains = self.gains[np.repeat(bags, num_words), named.indices].astype(np.float64)
        names_any = num_words > 0
        starts = named.indptr[:-1][names_any]
        total, least, most = (np.zeros(len(bags)) for _ in range(3))
        if len(starts):
            total[names_any] = np.add.reduceat(gains, starts)
            least[names_any] = np.minimum.reduceat(gains, starts)
            most[names_any] = np.maximum.reduceat(gains, starts)
        expected = self.expected[bags].astype(np.float64)
        return Evidence(
            total=total,
            mean=total / np.maximum(num_words, 1),
            above_expected=total - expected,
            least=least,
            most=most,
            num_words=num_words.astype(np.float64),
            expected=expected,
        )


def sibling_agreement(words: sparse.csr_array, bags: Int64[np.ndarray, "S"], pairs: Pairs) -> Float64[np.ndarray, "P"]:
    """The cosine of each record with the sum of its siblings, the other records of the bag that it is put into.

    Words count by their inverse document frequency, and each record alike. NaN where there is no sibling; 0 where a
    side names no word.

    Args:
        words: [S, K], 1 where the record names the word.
        bags: the bag of each record.
        pairs: records, and where they are put.

    >>> words = sparse.csr_array(np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0]]))
    >>> sibling_agreement(words, np.array([0, 0, 0, 1]), Pairs(np.arange(4), np.arange(4))).round(2)
    array([0.71, 0.71, 0.  ,  nan])
    """
    num_records = len(bags)
    inverse_frequency = np.log((1 + num_records) / (1 + np.asarray(words.sum(0)).ravel()))
    weighted = sparse.csr_array(words.multiply(inverse_frequency))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    vectors = sparse.csr_array(weighted.multiply(_inverse(lengths)[:, None]))  # S K
    of_bags = sparse.csr_array((np.ones(num_records), (bags, np.arange(num_records))))
    sums = sparse.csr_array(of_bags @ vectors)  # N K
    parts = []
    for batch in _batches(pairs):
        siblings = sparse.csr_array(sums[bags[batch.slots]] - vectors[batch.slots])
        product = np.asarray(siblings.multiply(vectors[batch.records]).sum(1)).ravel()
        norms = np.sqrt(np.asarray(siblings.multiply(siblings).sum(1)).ravel())
        parts.append(product * _inverse(norms))
    has_siblings = np.bincount(bags)[bags[pairs.slots]] > 1
    return np.where(has_siblings, np.concatenate(parts), np.nan)


def shuffle_records(bags: Int64[np.ndarray, "S"], units: Int64[np.ndarray, "N"], rng: np.random.Generator) -> Pairs:
    """Every record put into `NUM_SHUFFLES` slots at random, never into one of its own unit (its bag or its group).

    Each slot gets `NUM_SHUFFLES` records, but for the few that could not be exchanged.
    """
    slots = np.tile(np.arange(len(bags)), NUM_SHUFFLES)
    records = rng.permutation(slots)
    units = units[bags]  # S
    for _ in range(20):
        at_home = np.flatnonzero(units[records] == units[slots])
        if not len(at_home):
            break
        others = rng.integers(len(slots), size=len(at_home))
        for index, other in zip(at_home, others, strict=True):
            records[[index, other]] = records[[other, index]]
    elsewhere = units[records] != units[slots]
    return Pairs(records[elsewhere], slots[elsewhere])


def _batches(pairs: Pairs) -> list[Pairs]:
    """At least one, so that no pairs have empty columns."""
    starts = range(0, max(len(pairs.slots), 1), _PAIRS_PER_BATCH)
    return [Pairs(*(part[start : start + _PAIRS_PER_BATCH] for part in pairs)) for start in starts]


def _inverse(lengths: Float64[np.ndarray, "P"]) -> Float64[np.ndarray, "P"]:
    """1 / length, and 0 where there is nothing but rounding."""
    return np.where(lengths > _ROUNDING, 1 / np.maximum(lengths, _ROUNDING), 0)
