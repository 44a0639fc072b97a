"""Eq. 1, 2, 5, Appendix Eq. 2 and 12: values against probability space, gradients, unknown labels, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.nn.functional import binary_cross_entropy_with_logits

from truetag.latent import negative_log_likelihood, observe, posterior_logits
from truetag.noise_models import FeatureDependentNoise, FeatureIndependentNoise, transition

B, K, D = 5, 7, 3
NAN = float("nan")
IDENTITY = transition(K, 0.0, 0.0).double()


def random_case(seed: int, feature_dependent: bool = False):
    generator = torch.Generator().manual_seed(seed)
    true_logits = (4 * torch.randn(B, K, generator=generator, dtype=torch.float64)).requires_grad_()
    shape = (B, K, 2, 2) if feature_dependent else (K, 2, 2)
    log_q = torch.log_softmax(2 * torch.randn(shape, generator=generator, dtype=torch.float64), dim=-2)
    labels = torch.randint(0, 2, (B, K), generator=generator).double()
    return true_logits, log_q, labels


@pytest.mark.parametrize("feature_dependent", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_observe_is_equation_5(seed, feature_dependent):
    true_logits, log_q, _ = random_case(seed, feature_dependent)
    p, q = true_logits.sigmoid(), log_q.exp()
    expected = q[..., 1, 1] * p + q[..., 1, 0] * (1 - p)
    assert torch.allclose(observe(true_logits, log_q).sigmoid(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("feature_dependent", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_posterior_is_bayes(seed, feature_dependent):
    true_logits, log_q, labels = random_case(seed, feature_dependent)
    p, q = true_logits.sigmoid(), log_q.exp()
    q_z1 = torch.where(labels == 1, q[..., 1, 1], q[..., 0, 1])
    q_z0 = torch.where(labels == 1, q[..., 1, 0], q[..., 0, 0])
    expected = q_z1 * p / (q_z1 * p + q_z0 * (1 - p))
    assert torch.allclose(posterior_logits(true_logits, log_q, labels).sigmoid(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("feature_dependent", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_gradient_on_true_logits_is_p_minus_rho(seed, feature_dependent):
    """Appendix Eq. 12: the noise model teaches with the posterior."""
    true_logits, log_q, labels = random_case(seed, feature_dependent)
    loss = negative_log_likelihood(observe(true_logits, log_q), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, true_logits)
    rho = posterior_logits(true_logits, log_q, labels).sigmoid()
    assert (gradient - (true_logits.sigmoid() - rho)).abs().max() < 1e-10


def test_identity_transition_gives_back_cross_entropy_and_its_gradient():
    true_logits, _, labels = random_case(0)
    observed_loss = negative_log_likelihood(observe(true_logits, IDENTITY), labels)
    plain_loss = binary_cross_entropy_with_logits(true_logits, labels)
    assert torch.allclose(observed_loss, plain_loss, rtol=0, atol=1e-14)
    for a, b in zip(
        torch.autograd.grad(observed_loss, true_logits), torch.autograd.grad(plain_loss, true_logits), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-14)


def test_identity_transition_makes_the_posterior_certain():
    true_logits, _, labels = random_case(0)
    assert torch.equal(posterior_logits(true_logits, IDENTITY, labels).sigmoid(), labels)


@pytest.mark.parametrize("noise", [FeatureIndependentNoise(3), FeatureDependentNoise(2, 3)])
@pytest.mark.parametrize("value", [-200.0, -90.0, 0.0, 90.0, 200.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_float32_stays_finite_with_its_gradients(noise, value, label):
    true_logits = torch.full((4, 3), value, requires_grad=True)
    log_q = noise(torch.full((4, 2), value))
    loss = negative_log_likelihood(observe(true_logits, log_q), torch.full((4, 3), label))
    gradients = torch.autograd.grad(loss, [true_logits, *noise.parameters()], allow_unused=True)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert posterior_logits(true_logits, log_q, torch.full((4, 3), label)).isfinite().all()


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_float32_identity_stays_finite(value):
    true_logits = torch.full((1, K), value, requires_grad=True)
    loss = negative_log_likelihood(observe(true_logits, IDENTITY.float()), torch.zeros(1, K))
    (gradient,) = torch.autograd.grad(loss, true_logits)
    assert loss.item() == pytest.approx(max(value, 0))
    assert torch.allclose(gradient * K, true_logits.sigmoid())


@pytest.mark.parametrize("unknown", [NAN, -1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "sum_labels"])
def test_unknown_labels_contribute_nothing(unknown, reduction):
    true_logits, log_q, labels = random_case(3)
    labels[0, 0] = labels[2, 5] = unknown
    is_known = labels >= 0
    losses = negative_log_likelihood(observe(true_logits, log_q), labels, "none")
    assert (losses[~is_known] == 0).all()
    loss = negative_log_likelihood(observe(true_logits, log_q), labels, reduction)
    (gradient,) = torch.autograd.grad(loss.sum(), true_logits)
    assert (gradient[~is_known] == 0).all()
    assert (gradient[is_known] != 0).all()
    expected = {"mean": losses[is_known].mean(), "sum": losses.sum(), "none": losses, "sum_labels": losses.sum() / B}
    assert torch.allclose(loss, expected[reduction], rtol=1e-14, atol=0)
    assert torch.equal(posterior_logits(true_logits, log_q, labels)[~is_known], true_logits[~is_known])


def test_unknown_labels_hide_non_finite_logits():
    logits = torch.tensor([[NAN, float("inf"), 0.0]], requires_grad=True)
    loss = negative_log_likelihood(logits, torch.tensor([[NAN, -1.0, 1.0]]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, torch.tensor([[0.0, 0.0, -0.5]]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "sum_labels"])
def test_nothing_known_is_zero(reduction):
    logits = torch.randn(2, 3, requires_grad=True)
    loss = negative_log_likelihood(logits, torch.full((2, 3), NAN), reduction)
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_integer_labels_are_labels():
    logits = torch.randn(2, 3)
    labels = torch.tensor([[0, 1, -1], [1, -1, 0]], dtype=torch.int8)
    assert torch.equal(negative_log_likelihood(logits, labels), negative_log_likelihood(logits, labels.float()))


def test_soft_labels_are_the_expected_loss():
    logits = torch.randn(4, 3, dtype=torch.float64)
    soft = torch.rand(4, 3, dtype=torch.float64)
    ones, zeros = (negative_log_likelihood(logits, torch.full_like(logits, z), "none") for z in (1.0, 0.0))
    expected = soft * ones + (1 - soft) * zeros
    assert torch.allclose(negative_log_likelihood(logits, soft, "none"), expected)


def test_an_empty_bag_without_the_tag_costs_nothing():
    logits = torch.tensor([[-torch.inf]], requires_grad=True)
    loss = negative_log_likelihood(logits, torch.zeros(1, 1))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].item() == 0


def test_a_wrong_reduction_is_named():
    # the type checker of the tests refuses it first; a user sees the ValueError
    with pytest.raises((ValueError, TypeCheckError), match="median"):
        negative_log_likelihood(torch.zeros(1, 1), torch.zeros(1, 1), "median")


@given(st.floats(-200, 200), st.floats(0.0, 0.49), st.floats(0.0, 0.49), st.sampled_from([0.0, 1.0]))
@settings(max_examples=100, deadline=None)
def test_observing_keeps_order_and_the_posterior_lies_between(logit, missing, incorrect, label):
    log_q = transition(1, missing, incorrect).double()
    true_logits = torch.tensor([[logit]], dtype=torch.float64)
    higher = observe(true_logits + 1, log_q)
    assert higher >= observe(true_logits, log_q) - 1e-12
    shift = posterior_logits(true_logits, log_q, torch.tensor([[label]])) - true_logits
    assert (shift >= 0) if label else (shift <= 0)
