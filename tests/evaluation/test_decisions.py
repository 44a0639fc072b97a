import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, precision_score, recall_score

from truetag.errors import InputError
from truetag.evaluation.decisions import best_threshold, calibration_error, decision_scores, expected_f1_thresholds

NAN = math.nan


class TestDecisionScores:
    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 12), st.integers(2, 4), st.data())
    def test_equals_scikit_learn(self, num_examples, num_labels, data):
        shape = (num_examples, num_labels)
        probabilities = data.draw(hnp.arrays(np.float64, shape, elements=st.sampled_from((0.1, 0.3, 0.5, 0.8))))
        labels = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 1)))
        labels[0, 0] = 1  # where nothing is positive we say NaN and scikit-learn 0
        predicted = (probabilities >= 0.5).astype(int)
        result = decision_scores(probabilities, labels)
        for name, score in (("op", precision_score), ("or", recall_score), ("of1", f1_score)):
            assert result[name] == pytest.approx(score(labels, predicted, average="micro", zero_division=0))
        with_positives = np.flatnonzero(labels.any(0))
        for name, score in (("cp", precision_score), ("cr", recall_score)):
            each = [score(labels[:, k], predicted[:, k], zero_division=0) for k in with_positives]
            assert result[name] == pytest.approx(np.mean(each))

    def test_by_hand(self):
        # label 0: predicted 2, right 1, positives 2 -> 1/2, 1/2; label 1: never predicted, 1 positive -> 0, 0;
        # label 2: no positive, one false alarm: in op alone; all: 1 of 3 right, 1 of 3 found
        probabilities = torch.tensor([[0.9, 0.1, 0.9], [0.8, 0.2, 0.1], [0.1, 0.3, 0.2]])
        labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        result = decision_scores(probabilities, labels)
        expected = {"op": 1 / 3, "or": 1 / 3, "of1": 1 / 3, "cp": 1 / 4, "cr": 1 / 4, "cf1": 1 / 4, "threshold": 0.5}
        assert result == pytest.approx(expected)

    def test_unknown_is_ignored(self):
        known = decision_scores([[0.9], [0.2], [0.7]], [[1], [1], [0]])
        unknown = decision_scores([[0.9], [0.2], [0.7], [0.9], [0.1]], [[1], [1], [0], [NAN], [-1]])
        assert unknown == known

    def test_threshold_counts_as_yes(self):
        assert decision_scores([[0.3], [0.2]], [[1], [0]], threshold=0.3)["of1"] == 1.0
        assert decision_scores(torch.tensor([[0.3]]), [[1]], threshold=0.3)["of1"] == 1.0

    def test_nothing_predicted_is_zero_and_nothing_positive_is_nan(self):
        assert decision_scores([[0.1]], [[1]]) == dict.fromkeys(("op", "or", "of1", "cp", "cr", "cf1"), 0.0) | {
            "threshold": 0.5
        }
        scores = decision_scores([[0.9]], [[0]])
        assert all(math.isnan(scores[name]) for name in ("op", "or", "of1", "cp", "cr", "cf1"))

    @pytest.mark.parametrize(
        ("probabilities", "labels", "threshold", "message"),
        [
            ([[0.1, 0.2]], [[1], [0]], 0.5, r"\(1, 2\).*\(2, 1\)"),
            ([[1.5]], [[1]], 0.5, r"expected values in 0..1 .* got 1.5"),
            ([[NAN]], [[1]], 0.5, r"probabilities: .* got 1 NaN of 1"),
            ([[0.5]], [[2]], 0.5, r"labels: .* got 2"),
            ([[0.5]], [[1]], 1.5, r"threshold: .* got 1.5"),
        ],
    )
    def test_mistakes(self, probabilities, labels, threshold, message):
        with pytest.raises(InputError, match=message):
            decision_scores(probabilities, labels, threshold)


class TestBestThreshold:
    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 8), st.integers(1, 3), st.sampled_from((np.float32, np.float64)), st.data())
    def test_no_other_threshold_has_a_higher_f1(self, num_examples, num_labels, kind, data):
        shape = (num_examples, num_labels)
        some = [0.0, 0.3, np.nextafter(kind(0.3), kind(1)), 0.5, 0.8, 1.0]
        probabilities = data.draw(hnp.arrays(kind, shape, elements=st.sampled_from([float(kind(p)) for p in some])))
        labels = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, 1)))
        threshold = best_threshold(probabilities, labels)
        if not (labels == 1).any():
            assert threshold == 0.5
            return
        tried = [decision_scores(probabilities, labels, float(t))["of1"] for t in np.unique(probabilities)]
        assert decision_scores(probabilities, labels, threshold)["of1"] == pytest.approx(max(tried), abs=1e-12)

    def test_by_hand(self):
        # accepting 0.9: F1 2/4; also 0.8: 2/5; also 0.6: 4/6; also 0.6 and 0.2: 6/8; also 0.1: 6/9
        probabilities = [[0.9, 0.8], [0.6, 0.2], [0.1, 0.05]]
        labels = [[1, 0], [1, 1], [0, 0]]
        assert best_threshold(probabilities, labels) == pytest.approx(0.15)
        assert best_threshold(torch.tensor(probabilities), labels) == pytest.approx(0.15)
        labels[1][1] = -1
        assert best_threshold(probabilities, labels) == pytest.approx(0.35)

    def test_equal_probabilities_are_accepted_together(self):
        assert best_threshold([[0.5], [0.5], [0.5], [0.4]], [[1], [0], [0], [1]]) == pytest.approx(0.2)

    def test_a_weight_counts_as_so_many_examples(self):
        rng = np.random.default_rng(0)
        probabilities, labels = rng.random((30, 2)), rng.integers(0, 2, (30, 2))
        times = rng.integers(0, 4, 30)
        copies = probabilities.repeat(times, axis=0), labels.repeat(times, axis=0)
        repeated, weighted = best_threshold(*copies), best_threshold(probabilities, labels, times)
        assert decision_scores(*copies, repeated)["of1"] == decision_scores(*copies, weighted)["of1"]
        assert weighted != best_threshold(probabilities, labels)

    def test_mistakes(self):
        with pytest.raises(InputError, match="weights: expected 1, one per example, got 2"):
            best_threshold([[0.5]], [[1]], [1, 1])
        with pytest.raises(InputError, match=r"expected values in 0..1 .* got 3"):
            best_threshold([[3.0]], [[1]])


class TestCalibrationError:
    def test_by_hand(self):
        # below 0.5: p 0.1, 0.3 with y 0, 1: |0.2 - 0.5| * 2/5
        # from 0.5: p 0.5, 0.9, 1 with y 1, 1, 0: |0.8 - 2/3| * 3/5
        probabilities = torch.tensor([[0.1], [0.3], [0.5], [0.9], [1.0]], dtype=torch.float64)
        error = calibration_error(probabilities, [[0], [1], [1], [1], [0]], num_bins=2)
        assert error == pytest.approx(0.3 * 2 / 5 + (0.8 - 2 / 3) * 3 / 5)

    def test_equals_a_plain_loop(self):
        generator = torch.Generator().manual_seed(0)
        p = torch.rand(200, 3, generator=generator, dtype=torch.float64)
        y = (torch.rand(200, 3, generator=generator) < 0.3).double()
        expected = 0.0
        for b in range(15):
            inside = (p >= b / 15) & (p < (b + 1) / 15)
            expected += inside.double().mean() * (p[inside].mean() - y[inside].mean()).abs()
        assert calibration_error(p, y) == pytest.approx(float(expected))

    def test_certain_and_right_is_zero(self):
        assert calibration_error([[1.0, 0.0]], [[1, 0]]) == 0.0

    def test_unknown_is_ignored(self):
        assert calibration_error([[0.8, 0.3]], [[1, -1]]) == calibration_error([[0.8]], [[1]])
        assert math.isnan(calibration_error([[0.8]], [[NAN]]))

    def test_mistakes(self):
        with pytest.raises(InputError, match="num_bins: expected at least 1, got 0"):
            calibration_error([[0.5]], [[1]], num_bins=0)
        with pytest.raises(InputError, match=r"probabilities: .* got -3"):
            calibration_error([[-3.0]], [[1]])


def test_no_threshold_has_a_higher_expected_f1():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(40, 6, generator=generator).round(decimals=1)  # many are equal
    expectations = torch.rand(40, 6, generator=generator)
    expectations[:, 5] = -1
    expectations[::3, 0] = NAN
    thresholds = expected_f1_thresholds(probabilities, expectations)
    assert thresholds[5] == 0.5

    def expected_f1(label, threshold):
        known = expectations[:, label] >= 0
        accepted = probabilities[known, label] >= threshold
        expected = expectations[known, label]
        return (2 * expected[accepted].sum() / (accepted.sum() + expected.sum())).item()

    for label in range(5):
        best = max(expected_f1(label, threshold) for threshold in torch.linspace(0, 1, 201))
        assert expected_f1(label, thresholds[label]) == pytest.approx(best)


def test_what_is_no_probability_is_refused():
    for probabilities, expectations in (([[1.2]], [[0.5]]), ([[0.5]], [[1.5]]), ([[0.5, 0.5]], [[0.5]])):
        with pytest.raises(InputError):
            expected_f1_thresholds(probabilities, expectations)
