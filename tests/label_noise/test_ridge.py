"""Ridge heads: leave-one-out scores are those of heads that were fitted without the example, by every road."""

import pytest
import torch

from truetag.label_noise import ridge
from truetag.label_noise.eigenbasis import Eigenbasis
from truetag.label_noise.ridge import fit_ridge


def drawn(num_examples=40, num_features=6, unknown=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_examples, num_features, generator=generator)
    features = (features - features.mean(0)) / features.std(0, correction=0)  # as they are standardised
    labels = (features[:, :3] + torch.randn(num_examples, 3, generator=generator) > 0.3).float()
    hidden = torch.rand(labels.shape, generator=generator) < unknown
    weights = torch.rand(num_examples, generator=generator) + 0.5
    return features, torch.where(hidden, -1, labels), weights


def solver(features, labels, weights, groups=None, strength=0.1):
    """Scores that are left out, before they become log odds, and the coefficients of features."""
    made = ridge._Solver(Eigenbasis(features, False, weights, groups), labels)
    return made.solve(strength), made


def by_hand(features, labels, weights, left_out, strength, num):
    """The same heads by solving the normal equations without the rows of `left_out`; their scores there."""
    scores = []
    weights = weights / weights.mean()
    for label in range(labels.shape[1]):
        kept = (labels[:, label] >= 0) & ~left_out
        w, x, y = weights[kept].double(), features[kept].double(), labels[kept, label].double()
        mean_x, mean_y = (w @ x) / w.sum(), (w @ y) / w.sum()
        centred = x - mean_x
        gram = centred.T @ (centred * w[:, None]) + strength * num[label].double() * torch.eye(x.shape[1]).double()
        beta = torch.linalg.solve(gram, centred.T @ (w * (y - mean_y)))
        scores.append((features[left_out].double() - mean_x) @ beta + mean_y)
    return torch.stack(scores, 1).float()


@pytest.mark.parametrize(("num_features", "unknown"), [(6, 0.0), (60, 0.0), (6, 0.3)])
def test_left_out_scores_are_those_of_heads_without_the_example(monkeypatch, num_features, unknown):
    monkeypatch.setattr(ridge, "_TOLERANCE", 1e-7)
    num_examples = 200 if unknown else 40
    features, labels, weights = drawn(num_examples, num_features, unknown)
    solution, made = solver(features, labels, weights)
    for row in range(0, num_examples, 7):
        left_out = torch.arange(num_examples) == row
        expected = by_hand(features, labels, weights, left_out, 0.1, made.num_counted)
        # where labels are unknown the leverage is that of the mean Gram matrix
        assert torch.allclose(solution.left_out[row], expected[0], atol=1e-4 if not unknown else 0.03)


def test_left_out_scores_of_groups_are_those_of_heads_without_the_group():
    features, labels, weights = drawn()
    groups = [f"g{row // 4}" if row < 20 else None for row in range(40)]
    solution, made = solver(features, labels, weights, groups)
    for first in (0, 8):
        left_out = (torch.arange(40) >= first) & (torch.arange(40) < first + 4)
        expected = by_hand(features, labels, weights, left_out, 0.1, made.num_counted)
        assert torch.allclose(solution.left_out[left_out], expected, atol=1e-4)
    alone = by_hand(features, labels, weights, torch.arange(40) == 30, 0.1, made.num_counted)
    assert torch.allclose(solution.left_out[30], alone[0], atol=1e-4)


def test_groups_with_unknown_labels(monkeypatch):
    monkeypatch.setattr(ridge, "_TOLERANCE", 1e-7)
    features, labels, weights = drawn(200, unknown=0.3)
    groups = [row // 4 for row in range(200)]
    solution, made = solver(features, labels, weights, groups)
    left_out = torch.arange(200) < 4
    expected = by_hand(features, labels, weights, left_out, 0.1, made.num_counted)
    assert torch.allclose(solution.left_out[left_out], expected, atol=0.02)


def test_unknown_labels_are_left_out_of_the_fit(monkeypatch):
    monkeypatch.setattr(ridge, "_TOLERANCE", 1e-7)
    features, labels, weights = drawn(unknown=0.5)
    solution, made = solver(features, labels, weights)
    everyone = made.basis.rotated @ solution.coefficients + solution.intercept
    beta = made.basis._basis @ solution.coefficients
    for label in range(3):
        known = labels[:, label] >= 0
        w = (weights / weights.mean())[known]
        residual = w * (labels[known, label] - everyone[known, label])
        gradient = (features[known] - made.basis._centre).T @ residual - 0.1 * made.num_counted[label] * beta[:, label]
        assert gradient.abs().max() < 1e-3
        assert residual.sum().abs() < 1e-3


def test_the_strength_is_the_best_one_by_left_out_scores():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 200, generator=generator)
    truth = features[:, 0]
    labels = (truth + 2 * torch.randn(300, generator=generator) > 0).float().unsqueeze(1)

    def score(left_out):
        return torch.corrcoef(torch.stack([left_out[:, 0], labels[:, 0]]))[0, 1].item()

    found = fit_ridge(Eigenbasis(features), labels, score)
    assert found.strength > 0.1  # a weaker penalty would learn 200 features by heart
    assert found.score == pytest.approx(score(found.logits), abs=1e-5)
    test = torch.randn(2000, 200, generator=generator)
    weaker = torch.linalg.lstsq(features, labels - labels.mean()).solution
    ours = torch.corrcoef(torch.stack([found.head(test)[:, 0], test[:, 0]]))[0, 1]
    assert ours > torch.corrcoef(torch.stack([(test @ weaker)[:, 0], test[:, 0]]))[0, 1] + 0.1


def test_logits_are_log_odds():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 5, generator=generator)
    true = 2 * features[:, :1] - 1
    labels = (torch.rand(4000, 1, generator=generator) < true.sigmoid()).float()
    found = fit_ridge(Eigenbasis(features), labels, lambda scores: 0.0)
    assert (found.logits.sigmoid().mean() - labels.mean()).abs() < 0.01
    assert (found.logits.sigmoid() - true.sigmoid()).abs().mean() < 0.06
    assert torch.allclose(found.head(features), found.logits, atol=0.05)


def test_labels_that_never_change_and_features_that_never_change():
    features = torch.ones(30, 4)
    labels = torch.stack([torch.zeros(30), torch.ones(30), torch.full((30,), -1.0)], 1)
    found = fit_ridge(Eigenbasis(features), labels, lambda scores: 0.0)
    assert torch.isfinite(found.logits).all()
    assert torch.isfinite(found.head(features)).all()
    assert found.head(features)[0, 0] < -3
    assert found.head(features)[0, 1] > 3


def test_rare_labels_that_are_told_apart_keep_their_ranking():
    """Newton's steps alone overshoot here, and end at no scale at all."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 10, generator=generator)
    features[:12, 0] += 12
    labels = torch.zeros(3000, 1)
    labels[:12] = 1
    found = fit_ridge(Eigenbasis(features), labels, lambda scores: 0.0)
    assert (found.logits[:12] > 2).all()
    assert (found.logits[12:] < 0).all()
    assert (found.head(features)[:12] > found.head(features)[12:].max()).all()
