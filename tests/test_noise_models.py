"""Eq. 3 and 4: columns sum to one, the start is near the identity, FD with u = 0 is FI, rates are recovered."""

import pytest
import torch

from truetag.errors import InputError
from truetag.latent import negative_log_likelihood, observe
from truetag.noise_models import (
    FeatureDependentNoise,
    FeatureIndependentNoise,
    NoiseModel,
    SharedFeatureNoise,
    make_noise_model,
    observed_logits,
    transition,
)

K, D = 6, 4
MODELS = [lambda: FeatureIndependentNoise(K), lambda: FeatureDependentNoise(D, K), lambda: SharedFeatureNoise(D, K)]


@pytest.mark.parametrize("make", MODELS)
def test_columns_sum_to_one(make):
    noise = make()
    with torch.no_grad():
        for parameter in noise.parameters():
            parameter.add_(torch.randn_like(parameter))
    columns = noise(torch.randn(3, D)).exp().sum(-2)
    assert torch.allclose(columns, torch.ones_like(columns))


@pytest.mark.parametrize("make", MODELS)
def test_starts_near_the_identity(make):
    q = make()(torch.randn(3, D)).exp()
    assert (q[..., 0, 0] > 0.5).all()
    assert (q[..., 1, 1] > 0.5).all()


def test_fd_with_zero_weights_is_fi():
    fi, fd = FeatureIndependentNoise(K, 0.3, 0.02), FeatureDependentNoise(D, K, 0.3, 0.02)
    features = torch.randn(5, D)
    assert torch.allclose(fd(features), fi(features).expand(5, K, 2, 2))


def test_fd_is_equation_3_written_literally():
    fd = FeatureDependentNoise(D, K).double()
    with torch.no_grad():
        fd.weights.normal_()
    features = torch.randn(5, D, dtype=torch.float64)
    scores = torch.einsum("kijd,bd->bkij", fd.weights, features) + fd.biases
    assert torch.allclose(fd(features).exp(), scores.exp() / scores.exp().sum(-2, keepdim=True))
    assert sum(parameter.numel() for parameter in fd.parameters()) == 4 * K * (D + 1)


@pytest.mark.parametrize("make", MODELS)
def test_rates_are_q01_and_q10(make):
    noise, features = make(), torch.randn(3, D)
    q = noise(features).exp()
    assert torch.equal(noise.missing_rate(features), q[..., 0, 1])
    assert torch.equal(noise.incorrect_rate(features), q[..., 1, 0])
    assert noise.missing_rate().shape == noise.incorrect_rate().shape == (K,)


def test_what_an_image_adds_to_the_log_odds_is_shared_by_all_labels():
    noise, features = SharedFeatureNoise(D, K, 0.3, torch.linspace(0.01, 0.2, K)).double(), torch.randn(5, D).double()
    with torch.no_grad():
        noise.weights.normal_()
    for rates, of_value in ((noise.incorrect_rate, 0), (noise.missing_rate, 1)):
        added = torch.logit(rates(features)) - torch.logit(rates())
        assert torch.allclose(added, (features @ noise.weights[of_value]).unsqueeze(1).expand(5, K))


def test_rates_may_differ_by_label():
    missing, incorrect = torch.linspace(0, 0.5, K), torch.linspace(0.1, 0, K)
    noise = FeatureIndependentNoise(K, missing, incorrect)
    assert torch.allclose(noise.missing_rate(), missing)
    assert torch.allclose(noise.incorrect_rate(), incorrect)


@pytest.mark.parametrize("rates", [(1.0, 0.0), (0.0, -0.1), (float("nan"), 0.0)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(ValueError, match=r"_rate: expected values in \[0, 1\), got"):
        transition(K, *rates)


@pytest.mark.parametrize("make", MODELS)
def test_recovers_injected_rates_given_the_truth(make):
    generator = torch.Generator().manual_seed(0)
    missing, incorrect = 0.3, 0.05
    truth = torch.rand(4_000, K, generator=generator) < 0.3
    draw = torch.rand(4_000, K, generator=generator)
    labels = torch.where(truth, draw >= missing, draw < incorrect).float()
    true_logits = torch.where(truth, 20.0, -20.0)
    noise, features = make(), torch.randn(4_000, D, generator=generator)
    optimiser = torch.optim.Adam(noise.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        negative_log_likelihood(observe(true_logits, noise(features)), labels).backward()
        optimiser.step()
    assert (noise.missing_rate() - missing).abs().max() < 0.05
    assert (noise.incorrect_rate() - incorrect).abs().max() < 0.01


@pytest.mark.parametrize("make", MODELS)
def test_every_parameter_is_in_a_group(make):
    noise = make()
    grouped = [parameter for group in noise.parameter_groups() for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in noise.parameters()}
    assert all({"params", "lr", "weight_decay"} == group.keys() for group in noise.parameter_groups())


@pytest.mark.parametrize("make", MODELS)
def test_a_noise_model_is_made_by_its_name(make):
    noise = make()
    assert isinstance(noise, NoiseModel)
    assert type(make_noise_model(noise.name, D, K)) is type(noise)


def test_an_unknown_name_is_refused():
    assert make_noise_model("none", D, K) is None
    with pytest.raises(InputError, match="noise_model: expected none, fi, fd or fd-shared, got 'fx'"):
        make_noise_model("fx", D, K)


def test_observed_logits_are_the_true_ones_without_a_noise_model():
    true_logits, h = torch.randn(3, K), torch.randn(3, D)
    assert observed_logits(true_logits, h, None) is true_logits
    noise = FeatureIndependentNoise(K)
    assert torch.equal(observed_logits(true_logits, h, noise), observe(true_logits, noise()))


def test_the_layer_of_differences_is_the_one_of_equation_3(monkeypatch):
    """By blocks of labels, and with gradients of the features and of the weights."""
    monkeypatch.setattr("truetag.noise_models._BLOCK", 3 * 4 * D)  # three labels at a time
    noise, features = FeatureDependentNoise(D, K).double(), torch.randn(5, D, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        noise.weights.normal_()
    ours, theirs = noise.transition_logits(features), noise(features)[..., 1, :] - noise(features)[..., 0, :]
    assert torch.allclose(ours, theirs)
    upstream = torch.randn(5, K, 2, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, (features, noise.weights, noise.biases), upstream),
        torch.autograd.grad(theirs, (features, noise.weights, noise.biases), upstream),
        strict=True,
    ):
        assert torch.allclose(a, b)
    noise.weights.requires_grad_(False)
    assert torch.autograd.gradcheck(noise.transition_logits, features)
