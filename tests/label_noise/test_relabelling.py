"""Labels become posteriors that did not see themselves; calibration keeps every ranking."""

from dataclasses import replace

import pytest
import torch

from truetag.data.corruption import flip_labels
from truetag.evaluation.decisions import calibration_error
from truetag.evaluation.ranking import average_precision
from truetag.label_noise.heads import fit_head
from truetag.label_noise.relabelling import HIGHEST_Q, fit_calibrated, posterior_labels, second_head_settings
from truetag.label_noise.settings import JOINT, HeadSettings

N, D, K = 2000, 32, 12
FI = replace(JOINT, q=0.4)


@pytest.fixture(scope="module")
def data():
    """Features, truth and labels of which 30 % are missing and 5 % incorrect; the second half is to test on."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2 * N, D, generator=generator)
    logits = features @ (6 * torch.randn(D, K, generator=generator) / D**0.5) - 3
    truth = (torch.rand(2 * N, K, generator=generator) < logits.sigmoid()).float()
    return features, truth, flip_labels(truth[:N], 0.3, 0.05, generator)


def test_the_posterior_is_nearer_to_the_truth_than_the_labels(data):
    features, truth, observed = data
    found = posterior_labels(features[:N], observed, FI)
    wrong, wrong_after = ((labels.round() != truth[:N]).float().mean() for labels in (observed, found.labels))
    assert wrong_after < 0.75 * wrong
    assert (found.calibration.missing - 0.3).abs().mean() < 0.08
    assert (found.calibration.incorrect - 0.05).abs().mean() < 0.02


def test_unknown_labels_stay_unknown(data):
    features, _, observed = data
    partly = observed.clone()
    partly[::2, 3] = float("nan")
    found = posterior_labels(features[:N], partly, replace(FI, stage2_epochs=1))
    assert torch.equal(found.labels == -1, partly.isnan())


def test_a_head_on_the_posterior_is_better_and_calibrated(data):
    features, truth, observed = data
    test, true = features[N:], truth[N:]
    plain = fit_head(features[:N], observed)
    ours = fit_calibrated(features[:N], observed, replace(FI, train_on_posterior=True))
    assert average_precision(ours(test), true).mean() > average_precision(plain(test), true).mean() + 0.005
    errors = [calibration_error(head(test).sigmoid(), true) for head in (plain, ours)]
    assert errors[1] < errors[0] / 2
    assert calibration_error(ours(test).sigmoid(), true) < 0.03


@pytest.mark.parametrize("settings", [HeadSettings(), FI])
def test_calibration_keeps_the_ranking_of_each_label(data, settings):
    features, _, observed = data
    raw, calibrated = (fit(features[:N], observed, settings) for fit in (fit_head, fit_calibrated))
    for one, other in zip(raw(features[N:]).T, calibrated(features[N:]).T, strict=True):
        assert torch.corrcoef(torch.stack([one, other]).double())[0, 1] > 1 - 1e-6  # a straight line, and upwards


def test_the_second_head_has_no_noise_model():
    assert second_head_settings(replace(FI, q=0.8, train_on_posterior=True)) == replace(
        FI, noise_model="none", q=HIGHEST_Q
    )
    assert second_head_settings(replace(FI, q=0.2)).q == 0.2


def test_weights_decide_what_is_listened_to(data):
    features, _, observed = data
    weights = (torch.arange(N) % 2).float()
    turned = torch.where(weights.unsqueeze(1) == 0, 1 - observed, observed)
    quick = replace(FI, train_on_posterior=True, stage2_epochs=1)
    one, other = (fit_calibrated(features[:N], labels, quick, weights) for labels in (observed, turned))
    assert torch.allclose(one(features), other(features), atol=1e-4)
