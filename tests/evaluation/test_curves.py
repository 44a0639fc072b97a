"""Curves against scikit-learn and against counting by hand."""

import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from truetag.errors import InputError
from truetag.evaluation.curves import precision_at_recall, reliability


@pytest.fixture
def predicted():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 3, generator=generator).mul(20).round() / 20  # with ties
    labels = (torch.rand(200, 3, generator=generator) < scores).float()
    labels[::7] = -1
    return scores, labels


def test_precision_is_the_best_of_scikit_learn_at_this_recall_or_more(predicted):
    scores, labels = predicted
    curves = precision_at_recall(scores, labels, 21)
    for label in range(3):
        known = labels[:, label] >= 0
        precision, recall, _ = precision_recall_curve(labels[known, label], scores[known, label])
        for point in range(21):
            expected = precision[:-1][recall[:-1] >= point / 20 - 1e-9].max()  # the last one is a convention
            assert curves[label, point].item() == pytest.approx(expected)


def test_reliability_is_scikit_learns(predicted):
    scores, labels = predicted
    scores = scores * 0.99 + 0.003  # off the edges, where conventions differ
    counts, probabilities, shares = reliability(scores, labels, 10)
    for label in range(3):
        known = labels[:, label] >= 0
        true, mean = calibration_curve(labels[known, label], scores[known, label], n_bins=10)
        there = counts[label] > 0
        assert counts[label].sum() == known.sum()
        assert probabilities[label][there].tolist() == pytest.approx(mean.tolist())
        assert shares[label][there].tolist() == pytest.approx(true.tolist())


def test_nothing_is_said_where_nothing_is_known():
    scores, labels = torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([[0, -1], [0, -1]])
    assert precision_at_recall(scores, labels, 5).isnan().all()
    counts, probabilities, shares = reliability(scores, labels, 2)
    assert counts.tolist() == [[0, 2], [0, 0]]
    assert probabilities.isnan().sum() == shares.isnan().sum() == 3
    assert shares[0, 1] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: precision_at_recall([[1.0]], [[1]], 1), "num_points: expected at least 2"),
        (lambda: reliability([[1.0]], [[1]], 0), "num_bins: expected at least 1"),
        (lambda: reliability([[1.0]], [[2]]), "labels: expected 1, 0"),
        (lambda: precision_at_recall([[1.0, 2.0]], [[1]]), "expected"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(InputError, match=message):
        call()
