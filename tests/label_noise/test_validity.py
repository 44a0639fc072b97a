"""Validity of captions: exact where the density ratio is known, silent on clean captions, never told the answer."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

from truetag.data.stratify import unit_numbers
from truetag.label_noise import validity
from truetag.label_noise.pairs import NUM_SHUFFLES, PairEvidence, Pairs, shuffle_records, sibling_agreement
from truetag.label_noise.validity import caption_validity, share_of_valid, soft_labels

NUM_BAGS, NUM_WORDS, CAPTIONS = 600, 40, 4


def drawn(share, seed=0):
    """Bags that have three of forty words each; captions name two thirds of them, or those of another bag."""
    rng = np.random.default_rng(seed)
    true = np.zeros((NUM_BAGS, NUM_WORDS), bool)
    for row in true:
        row[rng.choice(NUM_WORDS, 4, replace=False)] = True
    bags = np.repeat(np.arange(NUM_BAGS), CAPTIONS)
    is_valid = rng.random(len(bags)) < share
    about = np.where(is_valid, bags, rng.permutation(bags))
    words = true[about] & (rng.random((len(bags), NUM_WORDS)) < 0.7) | (rng.random((len(bags), NUM_WORDS)) < 0.02)
    logits = np.where(true, 0.8, -3.9) + rng.normal(0, 1.0, true.shape)  # an imperfect classifier
    return torch.from_numpy(logits).float(), sparse.csr_array(words.astype(float)), bags, is_valid, true


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_the_share_of_valid_captions_is_found_and_they_score_higher(share):
    logits, words, bags, is_valid, _ = drawn(share)
    found = caption_validity(logits, words, bags)
    assert found.share == pytest.approx(is_valid.mean(), abs=0.06)
    assert found.probabilities.mean() == pytest.approx(is_valid.mean(), abs=0.06)
    assert found.probabilities[is_valid].mean() > found.probabilities[~is_valid].mean() + 0.5
    # a probability: among captions with validity v, about v of them are valid
    sure = found.probabilities > 0.9
    assert is_valid[sure].mean() > 0.9


def test_clean_captions_are_left_alone():
    logits, words, bags, _, _ = drawn(1.0)
    found = caption_validity(logits, words, bags)
    assert found.share > 0.97
    assert found.probabilities.mean() > 0.97
    hard = soft_labels(words, bags, np.ones(len(bags)), NUM_BAGS)
    assert (soft_labels(words, bags, found.probabilities, NUM_BAGS) - hard).abs().mean() < 0.01


def test_captions_shuffled_at_random_are_called_invalid():
    logits, words, bags, _, _ = drawn(0.0)
    found = caption_validity(logits, words, bags)
    assert found.share < 0.1
    assert found.probabilities.mean() < 0.1


def test_soft_labels_are_noisy_or_over_captions():
    words = sparse.csr_array(np.array([[1.0, 0, 0], [1, 1, 0], [0, 1, 0]]))
    soft = soft_labels(words, np.array([0, 0, 1]), np.array([0.5, 0.8, 1.0]), 3)
    expected = [[0.9, 0.8, 0], [0, 1, 0], [0, 0, 0]]  # 1 - .5 * .2; the third bag has no captions
    assert torch.allclose(soft, torch.tensor(expected), atol=1e-6)


def test_evidence_is_the_log_likelihood_ratio_of_independent_words():
    logits, words, bags, _, _ = drawn(1.0)
    pairs = Pairs(np.array([0, 5, 9]), np.array([13, 5, 0]))
    evidence = PairEvidence(logits, words, bags)(pairs)
    frequency = np.clip(words.toarray().mean(0), 1e-4, 1 - 1e-4)
    for index, (record, slot) in enumerate(zip(*pairs, strict=True)):
        bag = bags[slot]
        named, p = words.toarray()[record] == 1, torch.sigmoid(logits[bag]).numpy()
        ratio = np.where(named, np.log(p / frequency), np.log((1 - p) / (1 - frequency))).sum()
        assert evidence.above_expected[index] == pytest.approx(ratio, abs=1e-3)
        assert evidence.num_words[index] == named.sum()


def test_every_record_is_shuffled_to_bags_of_other_groups():
    rng = np.random.default_rng(0)
    bags = np.repeat(np.arange(50), 3)
    shuffled = shuffle_records(bags, np.arange(50), rng)
    assert len(shuffled.records) == NUM_SHUFFLES * len(bags)
    assert (bags[shuffled.records] != bags[shuffled.slots]).all()
    assert (np.bincount(shuffled.slots) == NUM_SHUFFLES).all()
    units = unit_numbers(50, [f"pair {bag // 2}" for bag in range(50)])
    shuffled = shuffle_records(bags, units, rng)
    assert (units[bags[shuffled.records]] != units[bags[shuffled.slots]]).all()


def test_agreement_leaves_out_the_record_that_was_in_the_slot():
    words = sparse.csr_array(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 0]]))
    bags = np.array([0, 0, 1, 1, 1])
    at_home = sibling_agreement(words, bags, Pairs(np.arange(5), np.arange(5)))
    assert np.allclose(at_home, [1, 1, 1, 1, 0])
    exchanged = sibling_agreement(words, bags, Pairs(np.array([2, 0]), np.array([0, 2])))
    assert np.allclose(exchanged, [0, 0])
    assert np.allclose(sibling_agreement(words, bags, Pairs(np.array([0]), np.array([1]))), [1])  # with itself


def test_siblings_tell_more_than_the_bag_alone():
    logits, words, bags, is_valid, _ = drawn(0.6)
    logits = logits + 2 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))  # a poor classifier
    with_siblings = caption_validity(logits, words, bags)
    alone = [  # the first record of each bag, and so on, none of which has a sibling
        caption_validity(logits, words[part::CAPTIONS], bags[part::CAPTIONS]).probabilities for part in range(CAPTIONS)
    ]
    auc = roc_auc_score(is_valid, with_siblings.probabilities)
    assert auc > roc_auc_score(is_valid, np.stack(alone, 1).ravel()) + 0.025
    assert with_siblings.share == pytest.approx(is_valid.mean(), abs=0.08)


def test_records_that_moved_together_do_not_vouch_for_each_other():
    """The captions of three in ten bags are those of another bag, all of them: siblings agree, and are wrong."""
    logits, words, bags, _, _ = drawn(1.0)
    rng = np.random.default_rng(1)
    moved = rng.permutation(NUM_BAGS)[: NUM_BAGS * 3 // 10]
    source = np.arange(NUM_BAGS)
    source[moved] = np.roll(moved, 1)
    rows = (source[:, None] * CAPTIONS + np.arange(CAPTIONS)).ravel()
    is_valid = ~np.isin(bags, moved)
    found = caption_validity(logits, words[rows], bags)
    assert found.share == pytest.approx(0.7, abs=0.06)
    assert found.probabilities.mean() == pytest.approx(0.7, abs=0.06)
    assert roc_auc_score(is_valid, found.probabilities) > 0.85


def test_near_duplicates_share_a_fold(monkeypatch):
    """No classifier of pairs is trained on a bag that it scores, nor on the bag's copy."""
    logits, words, bags, _, _ = drawn(0.6)
    groups = [f"pair {bag // 2}" for bag in range(len(logits))]
    seen = []
    original = validity.grouped_folds

    def record(*values):
        seen.append(original(*values))
        return seen[-1]

    monkeypatch.setattr(validity, "grouped_folds", record)
    grouped = caption_validity(logits, words, bags, groups)
    (folds,) = seen
    assert (folds[::2] == folds[1::2]).all()
    assert len(set(folds.tolist())) == 3
    assert not np.array_equal(grouped.probabilities, caption_validity(logits, words, bags).probabilities)


def test_the_share_is_not_pulled_down_by_the_luck_of_thresholds():
    rng = np.random.default_rng(0)
    found = [share_of_valid(rng.normal(size=300), rng.normal(size=900)) for _ in range(20)]
    assert np.mean(found) < 0.1  # none is valid


def test_captions_without_words_and_single_bags():
    logits, words, bags, _, _ = drawn(0.6)
    empty = sparse.csr_array(words.shape)
    assert np.isfinite(caption_validity(logits, empty, bags).probabilities).all()
    with pytest.raises(ValueError, match="two bags or more"):
        caption_validity(logits[:1], words[:4], bags[:4] * 0)
    with pytest.raises(ValueError, match="expected logits"):
        caption_validity(logits, words[:5], bags)


def test_the_seed_decides():
    logits, words, bags, _, _ = drawn(0.6)
    first, again, other = (caption_validity(logits, words, bags, seed=seed).probabilities for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
