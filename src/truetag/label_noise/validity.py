"""Validity of sources: was this caption said of this bag, or of another one?

A caption that belongs elsewhere is wrong as a whole, so all its words are judged at once. Let r(I, s) be the density
ratio of the pairs (bag I, caption s) that are observed to pairs of the same captions dealt out at random. If a share pi
of captions is valid and the rest fell to their bags by chance,

    r = p(I, s) / (p(I) p(s)) = pi m(I, s) + (1 - pi)      with m the ratio of valid pairs to random ones
    p(valid | I, s) = pi m / r = 1 - (1 - pi) / r

so the random pairs, which can be made at will, show exactly what an invalid one looks like. r is learnt as the odds of
a classifier that tells observed pairs from dealt ones; of each pair it sees what the *out-of-sample* logits of the bag
say of the words of the caption (a model that was trained on the pair itself would vouch for it). And for every set A of
pairs P_observed(A) >= (1 - pi) P_random(A), so the smallest ratio over sets of low score bounds 1 - pi from above; it
is reached where no valid caption scores as low. On clean captions pi comes out 1, and nothing is changed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor
from torch.nn.functional import softplus

NUM_DEALS = 3
NUM_FOLDS = 3
MOST_PAIRS = 400_000
_PAIRS_AT_A_TIME = 100_000
_SMALLEST_FREQUENCY = 1e-4
_LOWEST, _NUM_THRESHOLDS = 0.02, 97
# sum, mean, sum less what was expected, fewest and most evidence of a word: more of it never speaks against a pair
_MONOTONE = (1, 1, 1, 1, 1, 0, 0)


@dataclass(frozen=True)
class Validity:
    """Of each source p(valid | bag, source) and the log density ratio it comes from; and the share that is valid."""

    probabilities: Float64[np.ndarray, "S"]
    log_ratios: Float64[np.ndarray, "S"]
    share: float


def source_validity(
    logits: Float[Tensor, "N K"], words: sparse.csr_array, bags: Int64[np.ndarray, "S"], seed: int = 0
) -> Validity:
    """Validity of captions (or annotators) by the density ratio of observed to dealt pairs.

    Args:
        logits: of each bag and word, log odds that *one* source names the word; from models that did not see the bag.
        words: [S, K], 1 where the source names the word.
        bags: the bag of each source.
        seed: of the deals and the folds.

    Raises:
        ValueError: shapes disagree, or there are fewer than two bags.
    """
    num_sources = len(bags)
    if words.shape != (num_sources, logits.shape[1]):
        got = f"logits {tuple(logits.shape)}, words {words.shape}, bags {bags.shape}"
        raise ValueError(f"expected logits [N, K], words [S, K] and bags [S], got {got}")
    if len(logits) < 2 or len(np.unique(bags)) < 2:
        raise ValueError(f"expected sources of two bags or more, got those of {len(np.unique(bags))}")
    rng = np.random.default_rng(seed)
    evidence = _Evidence(logits, words)
    observed = evidence.of_pairs(np.arange(num_sources), bags)
    dealt_sources, dealt_bags = _deal(bags, rng)
    dealt = evidence.of_pairs(dealt_sources, dealt_bags)
    folds = rng.permutation(len(logits)) % NUM_FOLDS
    of_observed, of_dealt = np.zeros(len(observed)), np.zeros(len(dealt))
    for fold in range(NUM_FOLDS):
        mine, theirs = folds[bags] == fold, folds[dealt_bags] == fold
        model = _tell_apart(observed[~mine], dealt[~theirs], rng)
        for pairs, chosen, ratios in ((observed, mine, of_observed), (dealt, theirs, of_dealt)):
            if chosen.any():
                ratios[chosen] = model.decision_function(pairs[chosen])
    share = share_of_valid(of_observed, of_dealt)
    probabilities = np.clip(1 - (1 - share) * np.exp(-of_observed), 0, 1)
    return Validity(probabilities, of_observed, share)


def share_of_valid(observed: Float64[np.ndarray, "S"], dealt: Float64[np.ndarray, "M"]) -> float:
    """pi, from scores of observed and of dealt pairs, of which the valid ones score higher.

    1 - pi is the smallest P_observed(score <= c) / P_dealt(score <= c), each with one standard error added: the
    smallest of many noisy ratios would be too small.

    >>> rng = np.random.default_rng(0)
    >>> dealt, valid = rng.normal(0, 1, 20_000), rng.normal(4, 1, 3_000)
    >>> round(share_of_valid(np.concatenate([dealt[:7_000], valid]), dealt), 1)  # 3 of 10
    0.3
    """
    thresholds = np.quantile(dealt, np.linspace(_LOWEST, 1 - _LOWEST, _NUM_THRESHOLDS))
    below = [np.searchsorted(np.sort(scores), thresholds, side="right") for scores in (observed, dealt)]
    ratios = (below[0] / len(observed)) / (below[1] / len(dealt))
    errors = (np.sqrt(below[0]) + 0.5) / len(observed) / (below[1] / len(dealt))
    return float(1 - np.clip((ratios + errors).min(), 0, 1))


def soft_labels(
    words: sparse.csr_array, bags: Int64[np.ndarray, "S"], validity: Float64[np.ndarray, "S"], num_bags: int
) -> Float[Tensor, "N K"]:
    """p(some valid source names the word) = 1 - prod over the sources that name it of (1 - validity)."""
    log_absent = np.log1p(-np.minimum(validity, 1 - 1e-12))
    return torch.from_numpy(-np.expm1(_sum_over_bags(log_absent, words, bags, num_bags))).float()


def naming_shares(words: sparse.csr_array, bags: Int64[np.ndarray, "S"], num_bags: int) -> Float[Tensor, "N K"]:
    """The share of a bag's sources that name the word: what `source_validity` wants logits of; 0 without any."""
    sizes = np.maximum(np.bincount(bags, minlength=num_bags), 1)
    return torch.from_numpy(_sum_over_bags(1 / sizes[bags], words, bags, num_bags)).float()


def _sum_over_bags(
    values: Float64[np.ndarray, "S"], words: sparse.csr_array, bags: Int64[np.ndarray, "S"], num_bags: int
) -> Float64[np.ndarray, "N K"]:
    """For each bag and word the sum of `values` over the sources that name it."""
    of_bags = sparse.csr_array((values, (bags, np.arange(len(bags)))), shape=(num_bags, len(bags)))
    return sparse.csr_matrix(of_bags @ words).toarray()


class _Evidence:
    """What the logits of a bag say of the words of a source."""

    def __init__(self, logits: Float[Tensor, "N K"], words: sparse.csr_array) -> None:
        frequencies = np.clip(np.asarray(words.mean(0)), _SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
        prior = torch.from_numpy(np.log(frequencies) - np.log1p(-frequencies)).to(logits.dtype)
        self.gains = (logits - prior).numpy()
        # log p(s|I) - log p(s) of independent words is the sum of gains of named words less this
        self.expected = (softplus(logits) - softplus(prior)).sum(1).numpy()
        self.words = words

    def of_pairs(self, sources: Int64[np.ndarray, "P"], bags: Int64[np.ndarray, "P"]) -> Float64[np.ndarray, "P F"]:
        """One row of features a pair, in the order of `_MONOTONE`."""
        return np.concatenate(
            [
                self._of_some(sources[start : start + _PAIRS_AT_A_TIME], bags[start : start + _PAIRS_AT_A_TIME])
                for start in range(0, len(sources), _PAIRS_AT_A_TIME)
            ]
        )

    def _of_some(self, sources: Int64[np.ndarray, "P"], bags: Int64[np.ndarray, "P"]) -> Float64[np.ndarray, "P F"]:
        named = self.words[sources]
        counts = np.diff(named.indptr)
        gains = self.gains[np.repeat(bags, counts), named.indices].astype(np.float64)
        is_named = counts > 0
        starts = named.indptr[:-1][is_named]
        features = np.zeros((len(sources), len(_MONOTONE)))
        if len(starts):
            features[is_named, 0] = np.add.reduceat(gains, starts)
            features[is_named, 3] = np.minimum.reduceat(gains, starts)
            features[is_named, 4] = np.maximum.reduceat(gains, starts)
        features[:, 1] = features[:, 0] / np.maximum(counts, 1)
        features[:, 2] = features[:, 0] - self.expected[bags]
        features[:, 5], features[:, 6] = counts, self.expected[bags]
        return features


def _deal(
    bags: Int64[np.ndarray, "S"], rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "M"]]:
    """Every source given to `NUM_DEALS` places of other bags, and every place given as many sources."""
    places = np.tile(np.arange(len(bags)), NUM_DEALS)
    sources = rng.permutation(places)
    for _ in range(20):
        at_home = np.flatnonzero(bags[sources] == bags[places])
        if not len(at_home):
            break
        others = rng.integers(len(places), size=len(at_home))
        for mine, other in zip(at_home, others, strict=True):
            sources[[mine, other]] = sources[[other, mine]]
    away = bags[sources] != bags[places]
    return sources[away], bags[places[away]]


def _tell_apart(
    observed: Float64[np.ndarray, "P F"], dealt: Float64[np.ndarray, "M F"], rng: np.random.Generator
) -> HistGradientBoostingClassifier:
    """A classifier whose log odds are the log density ratio: both kinds of pairs weigh the same."""
    parts = [part[rng.permutation(len(part))[: MOST_PAIRS // 2]] for part in (observed, dealt)]
    weights = [np.full(len(part), 1 / len(part)) for part in parts]
    model = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=120,
        max_leaf_nodes=15,
        min_samples_leaf=max(20, len(observed) // 300),
        monotonic_cst=_MONOTONE,
        early_stopping=False,  # type: ignore[arg-type]
        random_state=int(rng.integers(2**31)),
    )
    targets = np.repeat([1, 0], [len(part) for part in parts])
    joined = np.concatenate(weights)
    return model.fit(np.concatenate(parts), targets, sample_weight=joined / joined.mean())
