"""One posterior: it finds what is wrong, counts it right, and a record from elsewhere says nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import average_precision_score

from truetag.data.corruption import flip_labels
from truetag.label_noise.posterior import label_posterior, observe_labels, observe_records
from truetag.label_noise.rates import calibrate
from truetag.latent import posterior_logits
from truetag.noise_models import transition

N, K = 4000, 8


@pytest.fixture(scope="module")
def scored():
    """Scores that say much of a truth whose labels go together in pairs."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(N, K // 2, generator=generator).repeat_interleave(2, dim=1)
    truth = (shared + 0.3 * torch.randn(N, K, generator=generator) > 1).float()
    logits = 3 * truth - 2.2 + 1.3 * torch.randn(N, K, generator=generator)
    return logits, truth


def wrong_of(posterior, observed):
    return torch.where(observed == 1, 1 - posterior, posterior)


@pytest.mark.parametrize(("missing", "incorrect"), [(0.4, 0.0), (0.3, 0.02), (0.1, 0.1)])
def test_it_ranks_better_than_the_rates_alone_and_counts_right(scored, missing, incorrect):
    logits, truth = scored
    observed = flip_labels(truth, missing, incorrect, torch.Generator().manual_seed(1))
    found = label_posterior(logits, observe_labels(observed))
    is_wrong = observed != truth
    wrong = wrong_of(found.probabilities, observed)
    calibration = calibrate(logits, observed)
    log_q = transition(K, calibration.missing, calibration.incorrect)
    alone = posterior_logits(calibration.true_logits(logits), log_q, observed).sigmoid()
    scores = [
        average_precision_score(is_wrong.flatten(), values.flatten()) for values in (wrong, wrong_of(alone, observed))
    ]
    assert scores[0] > scores[1] + 0.01
    assert wrong.sum().item() == pytest.approx(is_wrong.sum().item(), rel=0.1)


def test_an_unknown_label_changes_nothing_and_gets_what_the_others_imply(scored):
    logits, truth = scored
    observed = flip_labels(truth, 0.3, 0.02, torch.Generator().manual_seed(1))
    observed[:100, 0] = float("nan")
    one, other = (label_posterior(logits, observe_labels(labels)) for labels in (observed, observed.nan_to_num(-1)))
    assert torch.equal(one.probabilities, other.probabilities)
    unknown = one.probabilities[:100, 0]
    assert average_precision_score(truth[:100, 0], unknown) > average_precision_score(truth[:100, 0], logits[:100, 0])


def records_of(observed):
    return sparse.csr_array(observed.numpy().astype(float)), np.arange(len(observed))


def test_valid_records_are_the_labels_themselves(scored):
    logits, truth = scored
    observed = flip_labels(truth, 0.3, 0.02, torch.Generator().manual_seed(1))
    by_records = observe_records(observed, *records_of(observed), np.ones(N))
    one, other = (label_posterior(logits, seen).probabilities for seen in (by_records, observe_labels(observed)))
    assert torch.allclose(one, other, atol=1e-4)


def test_a_record_from_elsewhere_says_nothing(scored):
    logits, truth = scored
    observed = truth.clone()
    observed[:1000] = truth[:1000].roll(1, 0)
    validity = np.where(np.arange(N) < 1000, 0.0, 1.0)
    found = label_posterior(logits, observe_records(observed, *records_of(observed), validity)).probabilities
    turned = observed.clone()
    turned[:1000] = 1 - turned[:1000]
    again = label_posterior(logits, observe_records(turned, *records_of(turned), validity)).probabilities
    assert torch.allclose(found[:1000], again[:1000], atol=1e-5)
    assert torch.allclose(found[1000:], again[1000:], atol=1e-5)


def test_captions_vouch_for_their_own_words():
    """Two captions of one photo: the word of the invalid one is in doubt, that of the valid one is not."""
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    words = sparse.csr_array(np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    seen = observe_records(labels, words, np.array([0, 0]), np.array([1.0, 0.1]))
    assert seen.named[0].tolist() == pytest.approx([1.0, 0.1, 0.0], abs=1e-6)
    assert seen.silent is not None
    assert seen.silent[0].tolist() == pytest.approx([0.9, 0.0, 0.0], abs=1e-6)


def test_tags_beside_records_stay():
    labels = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    words = sparse.csr_array(np.array([[1.0, 0]]))
    seen = observe_records(labels, words, np.array([0]), np.array([0.25]))
    assert seen.named.tolist() == [[0.25, 1.0], [1.0, 0.0]]
    assert seen.weights.tolist() == [0.25, 1.0]


def test_relations_that_nobody_else_shows_are_not_believed(scored):
    """Where labels are independent the relations say next to nothing."""
    logits, truth = scored
    generator = torch.Generator().manual_seed(3)
    order = torch.stack([torch.randperm(N, generator=generator) for _ in range(K)], 1)
    logits, truth = logits.gather(0, order), truth.gather(0, order)
    observed = flip_labels(truth, 0.3, 0.02, generator)
    found = label_posterior(logits, observe_labels(observed)).probabilities
    calibration = calibrate(logits, observed)
    log_q = transition(K, calibration.missing, calibration.incorrect)
    alone = posterior_logits(calibration.true_logits(logits), log_q, observed).sigmoid()
    assert (found - alone).abs().mean() < 0.02


def test_scores_that_say_the_opposite_or_nothing_are_no_failure(scored):
    logits, truth = scored
    observed = flip_labels(truth, 0.4, 0.0, torch.Generator().manual_seed(1))
    logits = logits.clone()
    logits[:, 0] *= -1
    logits[:, 1] = 0
    observed[:, 2], observed[:, 3] = 0, 1
    found = label_posterior(logits, observe_labels(observed)).probabilities
    assert ((found >= 0) & (found <= 1)).all()


def test_words_that_only_lost_captions_would_name_are_expected():
    """Two of five captions are another photo's: as many words are expected to be missing as there are."""
    generator = np.random.default_rng(0)
    num_photos, num_words, captions = 3000, 8, 5
    share = generator.beta(0.3, 1.2, size=(num_photos, num_words))  # of a photo's captions that name the word
    bags = np.repeat(np.arange(num_photos), captions)
    own = generator.random((len(bags), num_words)) < share[bags]
    is_valid = generator.random(len(bags)) < 0.6
    words = np.where(is_valid[:, None], own, own[generator.permutation(len(bags))])
    true, named = (of.reshape(num_photos, captions, num_words).any(1) for of in (own, words))
    noise = generator.normal(0, 1.5, share.shape)
    logits = torch.from_numpy(np.log(share + 0.02) - np.log(1.02 - share) + noise).float()
    labels = torch.from_numpy(named).float()
    seen = observe_records(labels, sparse.csr_array(words.astype(float)), bags, is_valid.astype(float))
    found = label_posterior(logits, seen).probabilities.numpy()
    num_missing = (true & ~named).sum()
    assert num_missing > 1000
    assert 0.5 * num_missing < found[~named].sum() < 1.4 * num_missing
    ignored = label_posterior(logits, replace(seen, lost=torch.zeros_like(seen.named))).probabilities.numpy()
    assert ignored[~named].sum() < found[~named].sum() / 2
