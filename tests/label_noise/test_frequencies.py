"""How often words would be named: exact without swaps, and found again after them."""

import numpy as np
import pytest
import torch
from scipy import sparse

from truetag.label_noise.frequencies import match_frequencies, named_if_valid
from truetag.label_noise.linear_head import Head
from truetag.label_noise.validity import soft_labels

NUM_BAGS, CAPTIONS = 12_000, 5


def drawn(share, seed=0):
    """Words of different frequency and burstiness; captions that are not valid are those of other bags."""
    rng = np.random.default_rng(seed)
    frequency, concentration = np.array([0.02, 0.1, 0.3, 0.1]), np.array([1.0, 1.0, 3.0, 50.0])
    theta = rng.beta(concentration * frequency, concentration * (1 - frequency), size=(NUM_BAGS, 4))
    bags = np.repeat(np.arange(NUM_BAGS), CAPTIONS)
    own = rng.random((len(bags), 4)) < theta[bags]
    is_valid = rng.random(len(bags)) < share
    observed = np.where(is_valid[:, None], own, own[rng.permutation(len(bags))])
    true = own.reshape(NUM_BAGS, CAPTIONS, 4).any(1).mean(0)
    return sparse.csr_array(observed.astype(float)), bags, is_valid.astype(float), true


@pytest.mark.parametrize(("share", "error"), [(0.8, 0.05), (0.5, 0.1), (0.3, 0.2)])
def test_what_the_lost_captions_would_name_is_counted(share, error):
    words, bags, validity, true = drawn(share)
    found = named_if_valid(words, bags, validity, NUM_BAGS).numpy()
    assert found == pytest.approx(true, rel=error)
    by_valid = soft_labels(words, bags, validity, NUM_BAGS).mean(0).numpy()
    assert np.abs(found - true).sum() < np.abs(by_valid - true).sum() / 3


def test_valid_captions_are_counted_as_they_are():
    words, bags, _, _ = drawn(1.0)
    named = soft_labels(words, bags, np.ones(len(bags)), NUM_BAGS).mean(0)
    assert torch.allclose(named_if_valid(words, bags, np.ones(len(bags)), NUM_BAGS), named, atol=1e-6)


def test_words_nobody_says_and_bags_without_captions():
    words = sparse.csr_array(np.array([[1.0, 0], [0, 0]]))
    found = named_if_valid(words, np.array([0, 2]), np.array([0.5, 0.5]), 4)
    assert torch.isfinite(found).all()
    assert found[1] < 1e-6
    assert 0.2 < found[0] < 0.8
    assert torch.isfinite(named_if_valid(words, np.array([0, 2]), np.zeros(2), 4)).all()


def test_matched_heads_have_the_frequencies_and_rank_as_before():
    head = Head(3, 4)
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.weight.copy_(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    before = head(features).detach()
    wanted = torch.tensor([0.01, 0.2, 0.7, 0.0])
    match_frequencies(head, before, wanted)
    after = head(features).detach()
    assert torch.allclose(after.sigmoid().mean(0), wanted, atol=1e-4)
    assert torch.equal(before.argsort(0), after.argsort(0))
