"""Heads of penalised likelihood: they maximise it, with and without rates, and left-out logits are honest."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from truetag.label_noise import logistic
from truetag.label_noise.eigenbasis import Eigenbasis
from truetag.label_noise.logistic import fit_logistic
from truetag.latent import negative_log_likelihood, observe
from truetag.noise_models import transition


@pytest.fixture
def to_the_end(monkeypatch):
    """Steps until nothing changes, so that solutions can be compared."""
    for name, value in {"_NUM_ROUNDS": 60, "_NUM_ITERATIONS": 60, "_TOLERANCE": 1e-5, "_GAIN": 1e-12}.items():
        monkeypatch.setattr(logistic, name, value)
    monkeypatch.setattr(logistic, "_LEAST_CURVATURE", 1e-7)


def drawn(num_examples=200, num_features=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_examples, num_features, generator=generator)
    features = (features - features.mean(0)) / features.std(0, correction=0)
    labels = (features[:, :3] + torch.randn(num_examples, 3, generator=generator) > 0.3).float()
    return features, labels, torch.rand(num_examples, generator=generator) + 0.5


def solve(features, labels, strength, weights=None, groups=None, missing=0.0, incorrect=0.0):
    basis = Eigenbasis(features, False, weights, groups)
    rates = (torch.full((labels.shape[1],), rate) for rate in (missing, incorrect))
    solver = logistic._Solver(basis, labels, *rates)
    return solver.solve(strength), basis


def by_scikit_learn(features, labels, weights, strength, kept):
    scale = strength * len(features)  # the penalty stays that of all examples
    found = []
    for label in range(labels.shape[1]):
        model = LogisticRegression(C=1 / scale, tol=1e-10, max_iter=1000)
        model.fit(
            features[kept].double().numpy(), labels[kept, label].numpy(), (weights / weights.mean())[kept].numpy()
        )
        found.append(torch.from_numpy(model.decision_function(features.double().numpy())))
    return torch.stack(found, 1).float()


@pytest.mark.usefixtures("to_the_end")
def test_without_rates_it_is_logistic_regression():
    features, labels, weights = drawn()
    solution, basis = solve(features, labels, 0.05, weights)
    head = basis.head(solution.coefficients, solution.intercept)
    expected = by_scikit_learn(features, labels, weights, 0.05, torch.ones(200, dtype=torch.bool))
    assert torch.allclose(head(features), expected, atol=2e-3)


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("group_size", [1, 4])
def test_left_out_logits_are_those_of_heads_without_the_example(group_size):
    features, labels, weights = drawn()
    groups = [row // group_size for row in range(200)]
    solution, _ = solve(features, labels, 0.05, weights, groups)
    whole = by_scikit_learn(features, labels, weights, 0.05, torch.ones(200, dtype=torch.bool))
    for first in range(0, 60, 12):
        rows = torch.arange(first, first + group_size)
        kept = torch.ones(200, dtype=torch.bool)
        kept[rows] = False
        expected = by_scikit_learn(features, labels, weights, 0.05, kept)[rows]
        # one Newton step, with the plain Gram matrix in place of the one that is weighted by curvatures
        assert (solution.left_out[rows] - expected).norm() < 0.25 * (whole[rows] - expected).norm() + 2e-3


@pytest.mark.usefixtures("to_the_end")
def test_with_rates_no_step_makes_the_observed_labels_likelier():
    features, labels, _ = drawn()
    generator = torch.Generator().manual_seed(1)
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.3, 0, labels)
    labels[::9, 1] = -1
    solution, basis = solve(features, labels, 0.05, missing=0.3, incorrect=0.02)
    log_q = transition(3, torch.full((3,), 0.3), torch.full((3,), 0.02))
    coefficients = solution.coefficients.clone().requires_grad_()
    intercept = solution.intercept.clone().requires_grad_()
    logits = basis.rotated @ coefficients + intercept
    losses = negative_log_likelihood(observe(logits, log_q), labels, "none").sum(0)
    num_known = (labels >= 0).sum(0)
    (losses + 0.05 * num_known / 2 * coefficients.square().sum(0)).sum().backward()
    assert coefficients.grad.abs().max() < 0.02
    assert intercept.grad.abs().max() < 0.02


def test_what_cannot_be_learnt_stays_finite():
    features = torch.ones(30, 4)
    labels = torch.stack([torch.zeros(30), torch.ones(30), torch.full((30,), -1.0)], 1)
    found = fit_logistic(Eigenbasis(features), labels, lambda logits: 0.0)
    assert torch.isfinite(found.logits).all()
    assert torch.isfinite(found.head(features)).all()
    assert found.head(features)[0, 0] < -3 < 3 < found.head(features)[0, 1]


def test_the_strength_is_the_best_one_by_left_out_logits():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 200, generator=generator)
    labels = (features[:, :1] + 2 * torch.randn(300, 1, generator=generator) > 0).float()

    def score(logits):
        return np.corrcoef(logits[:, 0], labels[:, 0])[0, 1]

    found = fit_logistic(Eigenbasis(features), labels, score)
    assert found.strength > 0.1  # a weaker penalty would learn 200 features by heart
    assert found.score == pytest.approx(score(found.logits))
