"""Validity of captions: does this caption belong to this bag, or to another one?

A caption that belongs elsewhere is wrong as a whole, so all its words are judged at once. Let r(I, s) be the density
ratio of the pairs (bag I, caption s) that are observed to pairs of the same captions, shuffled over the bags. If a
share pi of captions is valid and the others came to their bags by chance,

    r = p(I, s) / (p(I) p(s)) = pi m(I, s) + (1 - pi)      with m the ratio of valid pairs to shuffled ones
    p(valid | I, s) = pi m / r = 1 - (1 - pi) / r

so shuffled pairs, which can be made at will, show exactly what an invalid one looks like. r is learnt as the odds of a
classifier that separates observed pairs from shuffled ones. All it sees of a pair is what the *out-of-sample* logits of
the bag say about the words of the caption (a model that was trained on the pair itself would vouch for it). For every
set A of pairs P_observed(A) >= (1 - pi) P_shuffled(A), so the smallest ratio over sets of low score bounds 1 - pi from
above; the bound is reached where no valid caption scores as low. On clean captions pi comes out as 1, and nothing
changes.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor
from torch.nn.functional import softplus

from truetag.data.stratify import grouped_folds, unit_numbers

NUM_SHUFFLES = 3
NUM_FOLDS = 3
MAX_PAIRS = 400_000
_PAIRS_PER_BATCH = 100_000
_SMALLEST_FREQUENCY = 1e-4
_LOWEST, _NUM_THRESHOLDS = 0.02, 97


@dataclass(frozen=True)
class Validity:
    """p(valid | bag, caption) of each caption, the log density ratio behind it, and the share that is valid."""

    probabilities: Float64[np.ndarray, "S"]
    log_ratios: Float64[np.ndarray, "S"]
    share: float


class Pairs(NamedTuple):
    """Pairs of a caption and a bag, by their numbers."""

    captions: Int64[np.ndarray, "P"]
    bags: Int64[np.ndarray, "P"]


class Evidence(NamedTuple):
    """What the logits of a bag say about the words of a caption: the columns that the classifier of pairs sees."""

    total: Float64[np.ndarray, "P"]
    """Sum over the named words of the logit above its prior."""
    mean: Float64[np.ndarray, "P"]
    above_expected: Float64[np.ndarray, "P"]
    """The sum less its expectation: log p(s|I) - log p(s) of independent words."""
    least: Float64[np.ndarray, "P"]
    most: Float64[np.ndarray, "P"]
    num_words: Float64[np.ndarray, "P"]
    expected: Float64[np.ndarray, "P"]


MONOTONE = Evidence(total=1, mean=1, above_expected=1, least=1, most=1, num_words=0, expected=0)  # type: ignore[arg-type]
"""More evidence never speaks against a pair; length and expectation may work either way."""


def caption_validity(
    logits: Float[Tensor, "N K"],
    words: sparse.csr_array,
    bags: Int64[np.ndarray, "S"],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Validity:
    """Validity of captions by the density ratio of observed to shuffled pairs.

    Args:
        logits: log odds, per bag and word, that *one* caption names the word; from models that did not see the bag.
        words: [S, K], 1 where the caption names the word.
        bags: the bag of each caption.
        groups: near-duplicate bags, which share a fold, and whose captions are not shuffled among them.
        seed: decides the shuffles and the folds.

    Raises:
        ValueError: shapes disagree, or there are captions of fewer than two bags.
    """
    num_captions = len(bags)
    if words.shape != (num_captions, logits.shape[1]):
        got = f"logits {tuple(logits.shape)}, words {words.shape}, bags {bags.shape}"
        raise ValueError(f"captions: expected logits [N, K], words [S, K] and bags [S], got {got}")
    if len(logits) < 2 or len(np.unique(bags)) < 2:
        raise ValueError(f"captions: expected those of two bags or more, got those of {len(np.unique(bags))}")
    rng = np.random.default_rng(seed)
    observed = Pairs(np.arange(num_captions), bags)
    shuffled = shuffle_captions(bags, unit_numbers(len(logits), groups), rng)
    gather = PairEvidence(logits, words)
    observed_evidence, shuffled_evidence = (np.column_stack(gather(pairs)) for pairs in (observed, shuffled))  # P F
    folds = grouped_folds(len(logits), NUM_FOLDS, torch.Generator().manual_seed(seed), groups)
    observed_ratios, shuffled_ratios = np.zeros(len(observed.bags)), np.zeros(len(shuffled.bags))
    for fold in range(NUM_FOLDS):
        observed_held_out, shuffled_held_out = folds[observed.bags] == fold, folds[shuffled.bags] == fold
        model = _separate(observed_evidence[~observed_held_out], shuffled_evidence[~shuffled_held_out], rng)
        for evidence, held_out, ratios in (
            (observed_evidence, observed_held_out, observed_ratios),
            (shuffled_evidence, shuffled_held_out, shuffled_ratios),
        ):
            if held_out.any():
                ratios[held_out] = model.decision_function(evidence[held_out])
    share = share_of_valid(observed_ratios, shuffled_ratios)
    probabilities = np.clip(1 - (1 - share) * np.exp(-observed_ratios), 0, 1)
    return Validity(probabilities, observed_ratios, share)


def share_of_valid(observed: Float64[np.ndarray, "S"], shuffled: Float64[np.ndarray, "M"]) -> float:
    """pi, from scores of observed and of shuffled pairs, of which the valid ones score higher.

    1 - pi is the smallest P_observed(score <= c) / P_shuffled(score <= c), each with one standard error added: the
    smallest of many noisy ratios would be too small.

    >>> rng = np.random.default_rng(0)
    >>> shuffled, valid = rng.normal(0, 1, 20_000), rng.normal(4, 1, 3_000)
    >>> round(share_of_valid(np.concatenate([shuffled[:7_000], valid]), shuffled), 1)  # 3 of 10
    0.3
    """
    thresholds = np.quantile(shuffled, np.linspace(_LOWEST, 1 - _LOWEST, _NUM_THRESHOLDS))
    below = [np.searchsorted(np.sort(scores), thresholds, side="right") for scores in (observed, shuffled)]
    ratios = (below[0] / len(observed)) / (below[1] / len(shuffled))
    errors = (np.sqrt(below[0]) + 0.5) / len(observed) / (below[1] / len(shuffled))
    return float(1 - np.clip((ratios + errors).min(), 0, 1))


def soft_labels(
    words: sparse.csr_array, bags: Int64[np.ndarray, "S"], validity: Float64[np.ndarray, "S"], num_bags: int
) -> Float[Tensor, "N K"]:
    """p(some valid caption names the word) = 1 - prod over the captions that name it of (1 - validity).

    Args:
        words: [S, K], 1 where the caption names the word.
        bags: the bag of each caption.
        validity: the probability that each caption is valid.
        num_bags: N.
    """
    log_absent = np.log1p(-np.minimum(validity, 1 - 1e-12))
    return torch.from_numpy(-np.expm1(sum_over_bags(log_absent, words, bags, num_bags))).float()


def naming_shares(words: sparse.csr_array, bags: Int64[np.ndarray, "S"], num_bags: int) -> Float[Tensor, "N K"]:
    """The share of a bag's captions that name the word, which `caption_validity` wants the logits of; 0 without any."""
    sizes = np.maximum(np.bincount(bags, minlength=num_bags), 1)
    return torch.from_numpy(sum_over_bags(1 / sizes[bags], words, bags, num_bags)).float()


def sum_over_bags(
    values: Float64[np.ndarray, "S"], words: sparse.csr_array, bags: Int64[np.ndarray, "S"], num_bags: int
) -> Float64[np.ndarray, "N K"]:
    """For each bag and word the sum over the captions that name it.

    Args:
        values: one of each caption.
        words: [S, K], 1 where the caption names the word.
        bags: the bag of each caption.
        num_bags: N.
    """
    of_bags = sparse.csr_array((values, (bags, np.arange(len(bags)))), shape=(num_bags, len(bags)))
    return sparse.csr_matrix(of_bags @ words).toarray()


class PairEvidence:
    """Computes the evidence of pairs, a batch at a time."""

    def __init__(self, logits: Float[Tensor, "N K"], words: sparse.csr_array) -> None:
        frequencies = np.clip(np.asarray(words.mean(0)), _SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
        prior = torch.from_numpy(np.log(frequencies) - np.log1p(-frequencies)).to(logits.dtype)
        self.gains = (logits - prior).numpy()  # N K
        self.expected = (softplus(logits) - softplus(prior)).sum(1).numpy()  # N
        self.words = words

    def __call__(self, pairs: Pairs) -> Evidence:
        """The evidence of all pairs."""
        batches = [
            self._of_batch(Pairs(*(part[start : start + _PAIRS_PER_BATCH] for part in pairs)))
            for start in range(0, len(pairs.bags), _PAIRS_PER_BATCH)
        ]
        return Evidence(*(np.concatenate(column) for column in zip(*batches, strict=True)))

    def _of_batch(self, pairs: Pairs) -> Evidence:
        named = self.words[pairs.captions]
        num_words = np.diff(named.indptr)
        # the gain of each named word, those of one caption behind those of the other
        gains = self.gains[np.repeat(pairs.bags, num_words), named.indices].astype(np.float64)
        names_any = num_words > 0
        starts = named.indptr[:-1][names_any]
        total, least, most = (np.zeros(len(pairs.bags)) for _ in range(3))
        if len(starts):
            total[names_any] = np.add.reduceat(gains, starts)
            least[names_any] = np.minimum.reduceat(gains, starts)
            most[names_any] = np.maximum.reduceat(gains, starts)
        expected = self.expected[pairs.bags].astype(np.float64)
        return Evidence(
            total=total,
            mean=total / np.maximum(num_words, 1),
            above_expected=total - expected,
            least=least,
            most=most,
            num_words=num_words.astype(np.float64),
            expected=expected,
        )


def shuffle_captions(bags: Int64[np.ndarray, "S"], units: Int64[np.ndarray, "N"], rng: np.random.Generator) -> Pairs:
    """Every caption given to `NUM_SHUFFLES` bags at random, never to one of its own unit (its bag or its group).

    Each bag gets as many captions as it has, times `NUM_SHUFFLES`, but for the few that could not be exchanged.
    """
    receivers = np.tile(np.arange(len(bags)), NUM_SHUFFLES)
    captions = rng.permutation(receivers)
    units = units[bags]  # S
    for _ in range(20):
        at_home = np.flatnonzero(units[captions] == units[receivers])
        if not len(at_home):
            break
        others = rng.integers(len(receivers), size=len(at_home))
        for index, other in zip(at_home, others, strict=True):
            captions[[index, other]] = captions[[other, index]]
    elsewhere = units[captions] != units[receivers]
    return Pairs(captions[elsewhere], bags[receivers[elsewhere]])


def _separate(
    observed: Float64[np.ndarray, "P F"], shuffled: Float64[np.ndarray, "M F"], rng: np.random.Generator
) -> HistGradientBoostingClassifier:
    """A classifier whose log odds are the log density ratio: both kinds of pairs weigh the same."""
    parts = [part[rng.permutation(len(part))[: MAX_PAIRS // 2]] for part in (observed, shuffled)]
    weights = [np.full(len(part), 1 / len(part)) for part in parts]
    model = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=120,
        max_leaf_nodes=15,
        min_samples_leaf=max(20, len(observed) // 300),
        monotonic_cst=tuple(MONOTONE),
        early_stopping=False,  # type: ignore[arg-type]
        random_state=int(rng.integers(2**31)),
    )
    targets = np.repeat([1, 0], [len(part) for part in parts])
    joined = np.concatenate(weights)
    return model.fit(np.concatenate(parts), targets, sample_weight=joined / joined.mean())
