"""A tag is told by the others and never by itself."""

import pytest
import torch

from truetag.data.corruption import flip_labels
from truetag.label_noise.relations import fit_relations, related_logits, surprise_of
from truetag.latent import posterior_logits
from truetag.noise_models import transition

N, K = 3000, 6
LOG_Q = transition(K, 0.3, 0.02)


def pairs(seed=0):
    """Tags 0 and 1, 2 and 3, 4 and 5 mostly go together; the image says little."""
    generator = torch.Generator().manual_seed(seed)
    first = (torch.rand(N, K // 2, generator=generator) < 0.3).float()
    second = torch.where(torch.rand(N, K // 2, generator=generator) < 0.9, first, 1 - first)
    truth = torch.stack([first, second], dim=2).flatten(1)
    logits = truth + torch.randn(N, K, generator=generator) - 1.2
    return logits, truth, flip_labels(truth, 0.3, 0.02, torch.Generator().manual_seed(seed + 1))


def surprise(logits, labels, log_q=LOG_Q):
    return surprise_of(logits, posterior_logits(logits, log_q, labels).sigmoid(), labels)


def cross_entropy(logits, truth):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, truth).item()


def test_other_tags_sharpen_the_posterior():
    logits, truth, observed = pairs()
    relations = fit_relations(logits, surprise(logits, observed), LOG_Q, observed)
    alone = posterior_logits(logits, LOG_Q, observed)
    told = posterior_logits(relations(logits, surprise(logits, observed)), LOG_Q, observed)
    assert cross_entropy(told, truth) < 0.9 * cross_entropy(alone, truth)


def test_a_tag_never_vouches_for_itself():
    logits, _, observed = pairs()
    relations = fit_relations(logits, surprise(logits, observed), LOG_Q, observed)
    for label in range(K):
        turned = observed.clone()
        turned[:, label] = 1 - turned[:, label]
        one, other = (relations(logits, surprise(logits, labels))[:, label] for labels in (observed, turned))
        assert torch.allclose(one, other, atol=1e-5)


def test_where_tags_are_independent_nothing_is_lost():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, K, generator=generator) - 1
    truth = (torch.rand(N, K, generator=generator) < logits.sigmoid()).float()
    observed = flip_labels(truth, 0.3, 0.02, generator)
    relations = fit_relations(logits, surprise(logits, observed), LOG_Q, observed)
    alone, told = (
        posterior_logits(prior, LOG_Q, observed) for prior in (logits, relations(logits, surprise(logits, observed)))
    )
    assert cross_entropy(told, truth) < cross_entropy(alone, truth) + 0.003


@pytest.mark.parametrize("unknown", [float("nan"), -1.0])
def test_unknown_tags_and_examples_without_weight_say_nothing(unknown):
    logits, _, observed = pairs()
    silent = torch.arange(N) % 3 == 0
    partly = torch.where(silent.unsqueeze(1), unknown, observed)
    relations = fit_relations(logits, surprise(logits, partly), LOG_Q, partly)
    assert torch.equal(relations(logits, surprise(logits, partly))[silent], logits[silent])
    weighted = fit_relations(logits, surprise(logits, observed), LOG_Q, observed, weights=(~silent).float())
    assert torch.allclose(relations.left, weighted.left, atol=1e-5)


def test_one_label_has_no_relations():
    logits, _, observed = pairs()
    logits, observed = logits[:, :1], observed[:, :1]
    surprises = surprise(logits, observed, LOG_Q[:1])
    relations = fit_relations(logits, surprises, LOG_Q[:1], observed)
    assert torch.allclose(relations(logits, surprises), logits, atol=1e-6)


def test_relations_are_learnt_from_other_examples():
    """Tags that go together in one group of near-duplicates alone: the group may not learn it from itself."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(1000, 2, generator=generator) < 0.2).float()
    labels[:200] = (torch.arange(200) % 5 == 0).float().unsqueeze(1)
    logits = torch.full((1000, 2), -1.4)
    log_q = LOG_Q[:2]
    surprises = surprise(logits, labels, log_q)
    groups = ["the group" if row < 200 else None for row in range(1000)]
    shown = labels[:200, 0] == 1
    apart, together = (
        (related_logits(logits, surprises, log_q, labels, groups=kept) - logits)[:200][shown].mean().item()
        for kept in (groups, None)
    )
    assert together > 0.3
    assert abs(apart) < together / 3


def test_one_example_has_no_others_to_learn_from():
    logits, _, observed = pairs()
    alone = related_logits(logits[:3], surprise(logits[:3], observed[:3]), LOG_Q, observed[:3], groups=["a"] * 3)
    assert torch.equal(alone, logits[:3])
