"""The appendix: EM's classifier gradient is the end-to-end one, and both procedures climb the same likelihood."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from truetag import em
from truetag.latent import negative_log_likelihood, observe
from truetag.noise_models import FeatureDependentNoise, FeatureIndependentNoise

N, D, K = 300, 4, 2


def make_noise(kind: str) -> nn.Module:
    noise = (FeatureIndependentNoise(K) if kind == "fi" else FeatureDependentNoise(D, K)).double()
    with torch.no_grad():
        for parameter in noise.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return noise


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make_data():
    features = torch.randn(N, D, dtype=torch.float64)
    truth = torch.rand(N, K) < (features @ torch.randn(D, K, dtype=torch.float64)).sigmoid()
    draw = torch.rand(N, K)
    labels = torch.where(truth, draw >= 0.3, draw < 0.05).double()
    labels[0, 0] = torch.nan
    return features, labels


@pytest.mark.parametrize("kind", ["fi", "fd"])
def test_classifier_gradient_is_the_end_to_end_one_on_the_true_logits(kind):
    features, labels = make_data()
    noise = make_noise(kind)
    true_logits = torch.randn(N, K, dtype=torch.float64, requires_grad=True)
    end_to_end = negative_log_likelihood(observe(true_logits, noise(features)), labels, "sum")
    em_loss = em.classifier_loss(true_logits, em.expected_truth(true_logits, noise(features), labels))
    (expected,) = torch.autograd.grad(end_to_end, true_logits)
    (gradient,) = torch.autograd.grad(em_loss, true_logits)
    assert (gradient - expected).abs().max() < 1e-10


@pytest.mark.parametrize("detach", [True, False])
def test_through_a_shared_backbone_they_agree_only_if_h_is_detached(detach):
    images, labels = make_data()
    backbone, head = nn.Linear(D, D).double(), nn.Linear(D, K).double()
    noise = make_noise("fd")
    h = backbone(images).tanh()
    log_q = noise(h.detach() if detach else h)
    end_to_end = negative_log_likelihood(observe(head(h), log_q), labels, "sum")
    em_loss = em.classifier_loss(head(h), em.expected_truth(head(h), log_q, labels))
    (expected,) = torch.autograd.grad(end_to_end, backbone.weight, retain_graph=True)
    (gradient,) = torch.autograd.grad(em_loss, backbone.weight)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-10) == detach


@pytest.mark.parametrize("kind", ["fi", "fd"])
def test_both_procedures_climb_the_same_likelihood(kind):
    features, labels = make_data()

    def start():
        torch.manual_seed(1)
        return nn.Linear(D, K).double(), make_noise(kind)

    head, noise = start()
    em_history = em.run_em(
        lambda: head(features), lambda: noise(features), labels, head.parameters(), noise.parameters(), num_rounds=60
    )
    assert all(after <= before + 1e-9 for before, after in pairwise(em_history))

    head, noise = start()
    parameters = [*head.parameters(), *noise.parameters()]
    optimiser = torch.optim.LBFGS(parameters, max_iter=600, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = negative_log_likelihood(observe(head(features), noise(features)), labels, "sum")
        loss.backward()
        return loss

    before = closure().item()
    optimiser.step(closure)
    end_to_end = closure().item()
    assert em_history[0] == pytest.approx(before, abs=1e-9)
    # EM converges linearly: most of the climb, never past the joint optimum's neighbourhood
    climbed = (em_history[0] - em_history[-1]) / (before - end_to_end)
    assert 0.8 < climbed < 1.2
