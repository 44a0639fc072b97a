"""A tag is told by the others and never by itself."""

import pytest
import torch

from truetag.data.corruption import flip_labels
from truetag.label_noise.relations import fit_relations
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


def cross_entropy(logits, truth):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, truth).item()


def test_other_tags_sharpen_the_posterior():
    logits, truth, observed = pairs()
    relations = fit_relations(logits, LOG_Q, observed)
    alone = posterior_logits(logits, LOG_Q, observed)
    told = posterior_logits(relations(logits, LOG_Q, observed), LOG_Q, observed)
    assert cross_entropy(told, truth) < 0.9 * cross_entropy(alone, truth)


def test_a_tag_never_vouches_for_itself():
    logits, _, observed = pairs()
    relations = fit_relations(logits, LOG_Q, observed)
    for label in range(K):
        turned = observed.clone()
        turned[:, label] = 1 - turned[:, label]
        one, other = (relations(logits, LOG_Q, labels)[:, label] for labels in (observed, turned))
        assert torch.allclose(one, other, atol=1e-5)


def test_where_tags_are_independent_nothing_is_lost():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, K, generator=generator) - 1
    truth = (torch.rand(N, K, generator=generator) < logits.sigmoid()).float()
    observed = flip_labels(truth, 0.3, 0.02, generator)
    relations = fit_relations(logits, LOG_Q, observed)
    alone, told = (posterior_logits(prior, LOG_Q, observed) for prior in (logits, relations(logits, LOG_Q, observed)))
    assert cross_entropy(told, truth) < cross_entropy(alone, truth) + 0.003


@pytest.mark.parametrize("unknown", [float("nan"), -1.0])
def test_unknown_tags_and_examples_without_weight_say_nothing(unknown):
    logits, _, observed = pairs()
    silent = torch.arange(N) % 3 == 0
    partly = torch.where(silent.unsqueeze(1), unknown, observed)
    relations = fit_relations(logits, LOG_Q, partly)
    assert torch.equal(relations(logits, LOG_Q, partly)[silent], logits[silent])
    weighted = fit_relations(logits, LOG_Q, observed, weights=(~silent).float())
    assert torch.allclose(relations.left, weighted.left, atol=1e-5)


def test_one_label_has_no_relations():
    logits, _, observed = pairs()
    relations = fit_relations(logits[:, :1], LOG_Q[:1], observed[:, :1])
    assert torch.allclose(relations(logits[:, :1], LOG_Q[:1], observed[:, :1]), logits[:, :1], atol=1e-6)
