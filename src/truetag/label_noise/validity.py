"""Validity of records: does this caption, or this list of tags, belong to this bag, or to another one?

A record that belongs elsewhere is wrong as a whole, so all its words are judged at once. Let r(I, s) be the density
ratio of the pairs (bag I, record s) that are observed to pairs of the same records, shuffled over the bags. If a share
pi of the records is valid and the others came to their bags by chance,

    r = p(I, s) / (p(I) p(s)) = pi m(I, s) + (1 - pi)      with m the ratio of valid pairs to shuffled ones
    p(valid | I, s) = pi m / r = 1 - (1 - pi) / r

so shuffled pairs, which can be made at will, show exactly what an invalid one looks like. r is learnt as the odds of a
classifier that separates observed pairs from shuffled ones. It sees what the *out-of-sample* logits of the bag say
about the words of the record (a model that was trained on the pair itself would vouch for it). For every set A of pairs
P_observed(A) >= (1 - pi) P_shuffled(A), so the smallest ratio over sets of low score bounds 1 - pi from above; the
bound is reached where no valid record scores as low. On clean records pi comes out as 1, and nothing changes.

**Siblings**, the other records of the bag, say more: records of one bag resemble each other. But they vouch for each
other also where all of them belong to another bag. So there are two kinds of invalid records, and two ways to shuffle:

    alone          a record is put among the siblings of another bag
    with siblings  a record is put into another bag together with its own siblings: only the bag tells that it is wrong
    p(valid | I, s, siblings) = 1 - c_alone / r_alone - c_with / r_with

with c the share of each kind, and r the ratio of observed pairs to pairs shuffled that way. Each share is bounded as
above, the second one by what the first leaves over. So how far siblings may be trusted is learnt: where whole bags were
exchanged, c_alone is near 0.
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

from truetag.data.stratify import grouped_folds, unit_numbers
from truetag.label_noise.pairs import MONOTONE, PairEvidence, Pairs, shuffle_records, sibling_agreement

NUM_FOLDS = 3
MAX_PAIRS = 400_000
_LOWEST, _NUM_THRESHOLDS = 0.02, 97


@dataclass(frozen=True)
class Validity:
    """p(valid | bag, record) of each record, and the share that is valid."""

    probabilities: Float64[np.ndarray, "S"]
    share: float


def caption_validity(
    logits: Float[Tensor, "N K"],
    words: sparse.csr_array,
    bags: Int64[np.ndarray, "S"],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Validity:
    """Validity of records by the density ratios of observed to shuffled pairs.

    Args:
        logits: log odds, per bag and word, that *one* record names the word; from models that did not see the bag.
        words: [S, K], 1 where the record names the word.
        bags: the bag of each record.
        groups: near-duplicate bags, which share a fold, and whose records are not shuffled among them.
        seed: decides the shuffles and the folds.

    Raises:
        ValueError: shapes disagree, or there are records of fewer than two bags.
    """
    num_records = len(bags)
    if words.shape != (num_records, logits.shape[1]):
        got = f"logits {tuple(logits.shape)}, words {words.shape}, bags {bags.shape}"
        raise ValueError(f"captions: expected logits [N, K], words [S, K] and bags [S], got {got}")
    if len(logits) < 2 or len(np.unique(bags)) < 2:
        raise ValueError(f"captions: expected those of two bags or more, got those of {len(np.unique(bags))}")
    rng = np.random.default_rng(seed)
    observed = Pairs(np.arange(num_records), np.arange(num_records))
    shuffled = shuffle_records(bags, unit_numbers(len(logits), groups), rng)
    folds = grouped_folds(len(logits), NUM_FOLDS, torch.Generator().manual_seed(seed), groups)[bags]  # S
    fold_of = _Folds(folds, folds[shuffled.slots])
    gather = PairEvidence(logits, words, bags)
    observed_columns, shuffled_columns = (np.column_stack(gather(pairs)) for pairs in (observed, shuffled))  # P F
    agreement = sibling_agreement(words, bags, observed)  # S
    if np.isnan(agreement).all():
        alone = _compare(observed_columns, shuffled_columns, fold_of, MONOTONE, rng)
        share = share_of_valid(alone.observed, alone.shuffled)
        return Validity(np.clip(1 - (1 - share) * np.exp(-alone.observed), 0, 1), share)
    observed_columns = np.column_stack([observed_columns, agreement])
    among_others = np.column_stack([shuffled_columns, sibling_agreement(words, bags, shuffled)])
    with_own = np.column_stack([shuffled_columns, agreement[shuffled.records]])
    alone = _compare(observed_columns, among_others, fold_of, (*MONOTONE, 1), rng)
    share_alone = 1 - share_of_valid(alone.observed, alone.shuffled)
    together = _compare(observed_columns, with_own, fold_of, (*MONOTONE, 0), rng, among_others)
    assert together.others is not None
    share_with = 1 - share_of_valid(together.observed, together.shuffled, together.others, share_alone)
    invalid = share_alone * np.exp(-alone.observed) + share_with * np.exp(-together.observed)
    return Validity(np.clip(1 - invalid, 0, 1), 1 - share_alone - share_with)


def share_of_valid(
    observed: Float64[np.ndarray, "S"],
    shuffled: Float64[np.ndarray, "M"],
    others: Float64[np.ndarray, "L"] | None = None,
    share_of_others: float = 0.0,
) -> float:
    """pi, from scores of observed and of shuffled pairs, of which the valid ones score higher.

    1 - pi is the smallest P_observed(score <= c) / P_shuffled(score <= c), each with one standard error added: the
    smallest of many noisy ratios would be too small.

    Args:
        observed: scores of observed pairs.
        shuffled: scores of pairs that are invalid.
        others: scores of pairs that are invalid in another way, if there are any.
        share_of_others: how many of the observed pairs are; they count neither as valid nor as shuffled.

    >>> rng = np.random.default_rng(0)
    >>> shuffled, valid = rng.normal(0, 1, 20_000), rng.normal(4, 1, 3_000)
    >>> round(share_of_valid(np.concatenate([shuffled[:7_000], valid]), shuffled), 1)  # 3 of 10
    0.3
    """
    thresholds = np.quantile(shuffled, np.linspace(_LOWEST, 1 - _LOWEST, _NUM_THRESHOLDS))
    num_below, shuffled_below = (
        np.searchsorted(np.sort(scores), thresholds, side="right") for scores in (observed, shuffled)
    )
    errors = (np.sqrt(num_below) + 0.5) / len(observed)
    observed_below = num_below / len(observed)
    if others is not None:
        others_below = np.searchsorted(np.sort(others), thresholds, side="right") / len(others)
        observed_below = observed_below - share_of_others * others_below
    ratios = (observed_below + errors) / (shuffled_below / len(shuffled))
    return float(1 - np.clip(ratios.min(), 0, 1))


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


class _Folds(NamedTuple):
    observed: Int64[np.ndarray, "S"]
    shuffled: Int64[np.ndarray, "M"]


class _Scores(NamedTuple):
    """Out-of-sample log density ratios of pairs."""

    observed: Float64[np.ndarray, "S"]
    shuffled: Float64[np.ndarray, "M"]
    others: Float64[np.ndarray, "M"] | None
    """The same pairs as `shuffled`, with other columns."""


def _compare(
    observed: Float64[np.ndarray, "S F"],
    shuffled: Float64[np.ndarray, "M F"],
    folds: _Folds,
    monotone: Sequence[int],
    rng: np.random.Generator,
    others: Float64[np.ndarray, "M F"] | None = None,
) -> _Scores:
    """Log density ratios of observed to shuffled pairs, by classifiers that saw neither the bag nor its group."""
    scores = _Scores(
        np.zeros(len(observed)), np.zeros(len(shuffled)), None if others is None else np.zeros(len(others))
    )
    for fold in range(NUM_FOLDS):
        observed_held_out, shuffled_held_out = folds.observed == fold, folds.shuffled == fold
        model = _separate(observed[~observed_held_out], shuffled[~shuffled_held_out], monotone, rng)
        for columns, held_out, of_kind in (
            (observed, observed_held_out, scores.observed),
            (shuffled, shuffled_held_out, scores.shuffled),
            (others, shuffled_held_out, scores.others),
        ):
            if columns is not None and of_kind is not None and held_out.any():
                of_kind[held_out] = model.decision_function(columns[held_out])
    return scores


def _separate(
    observed: Float64[np.ndarray, "P F"],
    shuffled: Float64[np.ndarray, "M F"],
    monotone: Sequence[int],
    rng: np.random.Generator,
) -> HistGradientBoostingClassifier:
    """A classifier whose log odds are the log density ratio: both kinds of pairs weigh the same."""
    parts = [part[rng.permutation(len(part))[: MAX_PAIRS // 2]] for part in (observed, shuffled)]
    weights = [np.full(len(part), 1 / len(part)) for part in parts]
    model = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=120,
        max_leaf_nodes=15,
        min_samples_leaf=max(20, len(observed) // 300),
        monotonic_cst=tuple(monotone),
        early_stopping=False,  # type: ignore[arg-type]
        random_state=int(rng.integers(2**31)),
    )
    targets = np.repeat([1, 0], [len(part) for part in parts])
    joined = np.concatenate(weights)
    return model.fit(np.concatenate(parts), targets, sample_weight=joined / joined.mean())
