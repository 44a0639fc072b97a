"""How often each word would be named if all captions belonged where they are.

Soft labels say what the *valid* captions name. A bag that has lost three of its five captions is named fewer words than
its own five would name, so a classifier that learns from soft labels learns too low probabilities. How many words the
lost captions would add follows from how often valid captions of one bag name the same word: with theta the share of a
bag's captions that name it, theta ~ Beta(a g, a (1 - g)) over bags, and of n captions that do not name it, m more do
not either with probability B(a g, a (1 - g) + n + m) / B(a g, a (1 - g) + n).
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from scipy.special import betaln
from torch import Tensor

from truetag.label_noise.linear_head import Head
from truetag.label_noise.validity import soft_labels, sum_over_bags

_PRIOR_PAIRS = 20.0
"""Pairs of valid captions that name the word, as which the correlation that words have in common counts."""
_CORRELATIONS = (1e-3, 0.95)
_FREQUENCIES = (1e-9, 1 - 1e-9)
_TARGETS = (1e-5, 1 - 1e-5)
_FURTHEST, _NUM_HALVINGS = 20.0, 30


def named_if_valid(
    words: sparse.csr_array, bags: Int64[np.ndarray, "S"], validity: Float64[np.ndarray, "S"], num_bags: int
) -> Float[Tensor, "K"]:
    """The share of bags of which each word would be named, if every caption were one of the bag's own.

    Where all captions are valid it is the share of bags of which the word is named.

    Args:
        words: [S, K], 1 where the caption names the word.
        bags: the bag of each caption.
        validity: the probability that each caption is valid.
        num_bags: N; bags without captions are left out.

    >>> words = sparse.csr_array(np.array([[1.0], [1], [0], [0]]))
    >>> named_if_valid(words, np.array([0, 0, 1, 1]), np.ones(4), 2)
    tensor([0.5000])
    """
    num_naming = sum_over_bags(validity, words, bags, num_bags)  # N K
    frequency, correlation = _agreement(num_naming, words, bags, validity)  # K K
    concentration = 1 / correlation - 1
    named, absent = concentration * frequency, concentration * (1 - frequency)
    has_captions = np.bincount(bags, minlength=num_bags) > 0
    num_valid, num_lost = (np.bincount(bags, each, minlength=num_bags)[:, None] for each in (validity, 1 - validity))
    silent = absent + np.maximum(num_valid - num_naming, 0)
    by_lost = -np.expm1(betaln(named, silent + num_lost) - betaln(named, silent))
    by_valid = soft_labels(words, bags, validity, num_bags).double().numpy()
    either = by_valid + (1 - by_valid) * by_lost
    return torch.from_numpy(either[has_captions].mean(0)).float()


@torch.no_grad()
def match_frequencies(head: Head, logits: Float[Tensor, "N K"], frequencies: Float[Tensor, "K"]) -> None:
    """Shift the biases of a head in place, so that its mean probabilities are these; each label's ranking stays.

    Exact where a bag has one instance. Of a noisy-OR of several it is a step towards it, to be repeated.

    Args:
        head: to be changed.
        logits: its own, of bags to which the frequencies belong.
        frequencies: the mean probability that each label is to have.
    """
    target = frequencies.to(logits).clamp(*_TARGETS)
    low, high = (torch.full_like(target, end) for end in (-_FURTHEST, _FURTHEST))
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        too_high = (logits + middle).sigmoid().mean(0) > target
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    head.bias.add_((low + high) / 2)


def _agreement(
    num_naming: Float64[np.ndarray, "N K"],
    words: sparse.csr_array,
    bags: Int64[np.ndarray, "S"],
    validity: Float64[np.ndarray, "S"],
) -> tuple[Float64[np.ndarray, "K"], Float64[np.ndarray, "K"]]:
    """How often a valid caption names each word, and how much more often the next one of the bag does.

    Args:
        num_naming: how many valid captions of each bag name each word.
        words: [S, K], 1 where the caption names the word.
        bags: the bag of each caption.
        validity: the probability that each caption is valid.

    Returns:
        The frequency g, and the correlation 1 / (a + 1) between two captions of a bag, that of few pairs drawn to the
        mean of all words.
    """
    num_bags = len(num_naming)
    total, squares = (np.bincount(bags, each, minlength=num_bags) for each in (validity, validity**2))
    num_pairs = max(float((total**2 - squares).sum() / 2), 1e-9)
    both = ((num_naming**2 - sum_over_bags(validity**2, words, bags, num_bags)) / 2).sum(
        0
    )  # K, pairs that name the word
    frequency = np.clip(num_naming.sum(0) / max(float(total.sum()), 1e-9), *_FREQUENCIES)
    variance = frequency * (1 - frequency)
    correlation = (both / num_pairs - frequency**2) / variance
    common = (correlation * variance).sum() / variance.sum()
    shrunk = (correlation * both + common * _PRIOR_PAIRS) / (both + _PRIOR_PAIRS)
    return frequency, np.clip(shrunk, *_CORRELATIONS)
