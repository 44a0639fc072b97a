"""Rates and probabilities from scores: what was injected is found, what says nothing changes nothing."""

import pytest
import torch

from truetag.data.corruption import flip_labels
from truetag.label_noise import rates
from truetag.label_noise.rates import Calibration, calibrate, split_ends

N, K = 6000, 12
NAN = float("nan")


def scored(num_labels=K, seed=0, offset=-1.0):
    """Logits of a well resolved truth, and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(N, num_labels, generator=generator) + offset
    return logits, (torch.rand(N, num_labels, generator=generator) < logits.sigmoid()).float()


@pytest.mark.parametrize(("missing", "incorrect"), [(0.0, 0.0), (0.6, 0.0), (0.3, 0.02), (0.1, 0.1), (0.2, 0.2)])
def test_injected_rates_are_found_from_scores_that_say_too_little(missing, incorrect):
    logits, labels = scored()
    observed = flip_labels(labels, missing, incorrect, torch.Generator().manual_seed(1))
    found = calibrate(logits / 3 + 0.5, observed)
    assert (found.missing - missing).abs().mean() < 0.03
    assert (found.incorrect - incorrect).abs().mean() < 0.01
    probabilities = found.true_logits(logits / 3 + 0.5).sigmoid()
    assert (probabilities - logits.sigmoid()).abs().mean() < 0.02


def test_rates_of_each_label_are_found_where_its_scores_get_there():
    logits, labels = scored()
    missing = torch.linspace(0.1, 0.6, K)
    observed = flip_labels(labels, missing, 0.01, torch.Generator().manual_seed(1))
    assert (calibrate(logits, observed).missing - missing).abs().mean() < 0.04


def test_a_label_that_is_hardly_seen_has_the_common_rate():
    logits, labels = scored()
    observed = flip_labels(labels, 0.3, 0.02, torch.Generator().manual_seed(1))
    observed[5:, 0] = NAN
    found = calibrate(logits, observed)
    assert found.missing[0] == pytest.approx(0.3, abs=0.06)
    assert found.incorrect[0] == pytest.approx(0.02, abs=0.01)


def test_the_common_missing_rate_is_the_edge_not_the_mean():
    """Half of the labels are often left out by people themselves, and the scores do not say when."""
    logits, labels = scored()
    labels[:, ::2] *= (torch.rand(N, K // 2, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    observed = flip_labels(labels, 0.2, 0.01, torch.Generator().manual_seed(1))
    found = calibrate(logits, observed).missing
    assert (found[1::2] - 0.2).abs().max() < 0.06
    assert (found[::2] - 0.6).abs().max() < 0.06


def test_unknown_weights_and_blocks_of_labels(monkeypatch):
    logits, labels = scored()
    observed = flip_labels(labels, 0.3, 0.02, torch.Generator().manual_seed(1))
    silent = torch.arange(N) % 3 == 0
    unknown = torch.where(silent.unsqueeze(1), NAN, observed)
    expected = calibrate(logits, unknown)
    others = [
        calibrate(logits, unknown.nan_to_num(-1)),
        calibrate(logits, unknown.nan_to_num(-1).to(torch.int8)),
        calibrate(logits, observed, (~silent).float()),
    ]
    monkeypatch.setattr(rates, "_LABELS_AT_A_TIME", 5)
    others.append(calibrate(logits, unknown))
    for other in others:
        for name in ("scale", "shift", "missing", "incorrect"):
            assert torch.allclose(getattr(expected, name), getattr(other, name), atol=1e-5)


def test_a_weight_of_two_is_the_example_twice():
    logits, labels = scored()
    weights = 1 + (torch.arange(N) % 2).float()
    twice = torch.cat([torch.arange(N), torch.arange(1, N, 2)])
    one, other = calibrate(logits, labels, weights), calibrate(logits[twice], labels[twice])
    assert torch.allclose(one.missing, other.missing, atol=1e-4)
    assert torch.allclose(one.shift, other.shift, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_a_label_without_contrast_is_finite_and_speaks_for_no_other(value):
    logits, labels = scored()
    observed = flip_labels(labels, 0.3, 0.02, torch.Generator().manual_seed(1))
    observed[:, 0] = value
    logits[:, 0] = 0.0
    found = calibrate(logits, observed)
    for values in (found.scale, found.shift, found.missing, found.incorrect):
        assert values.isfinite().all()
    assert (found.missing[1:] - 0.3).abs().max() < 0.06


def test_slope_is_the_derivative_of_the_literal_likelihood():
    """p(z=1|s) = q10 + (1 - q01 - q10) sigmoid(a s + b), in every bin."""
    logits, labels = scored(2)
    counts = rates.count_by_score(logits, labels, None)
    estimates = torch.tensor([[0.3, -0.2, -1.0, -3.0], [-0.4, 0.5, -0.5, -2.0]]).double().requires_grad_()
    log_scale, shift, missing, incorrect = (value.unsqueeze(1) for value in estimates.unbind(1))
    present = (log_scale.exp() * counts.score + shift).sigmoid()
    observed = incorrect.sigmoid() + (1 - missing.sigmoid() - incorrect.sigmoid()) * present
    absent = counts.examples - counts.present
    (counts.present * observed.log() + absent * (1 - observed).log()).sum().backward()
    gradient, information = rates.slope(counts, estimates.detach())
    assert torch.allclose(gradient, estimates.grad)
    assert (torch.linalg.eigvalsh(information) > 0).all()


@pytest.mark.parametrize(("missing", "incorrect"), [(0.9, 0.4), (0.999, 0.999), (0.5, 0.5), (0.0, 0.0), (0.3, 0.02)])
def test_the_ends_of_any_curve_are_probabilities(missing, incorrect):
    """Also of one that falls, which the scores of a label that say nothing may give."""
    one = torch.ones(3)
    common = torch.tensor(0.1), torch.tensor(0.001)
    rates = missing * one, incorrect * one
    found = split_ends(Calibration(one, 0 * one, *rates, *common, one, one, ceiling=one, floor=0 * one))
    assert (found.floor <= found.ceiling).all()
    logits = found.true_logits(torch.tensor([[-50.0, 0.0, 50.0]]))
    assert logits.isfinite().all() or (missing, incorrect) == (0.0, 0.0)
    assert (logits.diff() >= -1e-5).all()
    if missing + incorrect < 1:  # the curve of observed labels stays as it is
        before = incorrect + (1 - missing - incorrect) * torch.tensor([0.0, 0.5, 1.0])
        after = found.incorrect + (1 - found.missing - found.incorrect) * logits.sigmoid()
        assert torch.allclose(after, before, atol=1e-5)


def test_two_absurd_scores_do_not_move_the_rates():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 1, generator=generator)
    true = torch.rand(20_000, 1, generator=generator) < logits.sigmoid()
    observed = (true & (torch.rand(20_000, 1, generator=generator) > 0.3)).float()
    before = calibrate(logits, observed)
    logits[0], logits[1] = 1000.0, -1000.0
    after = calibrate(logits, observed)
    assert after.missing.item() == pytest.approx(before.missing.item(), abs=0.01)
    assert after.incorrect.item() == pytest.approx(before.incorrect.item(), abs=0.005)
