import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from truetag.errors import InputError
from truetag.evaluation import ranking
from truetag.evaluation.ranking import average_precision, by_group, count_average_precision, mean_over_labels

NAN = math.nan


@st.composite
def _problems(draw, values=(0, 1, 0, -1, NAN)):
    """Scores with many ties, truth with unknowns, example weights with zeros."""
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 4)))
    scores = draw(hnp.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)))
    truth = draw(hnp.arrays(np.float64, shape, elements=st.sampled_from(values)))
    weights = draw(hnp.arrays(np.float64, shape[0], elements=st.sampled_from((0.0, 0.5, 1.0, 3.0))))
    return scores, truth, weights


def _sklearn(scores, labels, weights):
    result = []
    for score, label in zip(scores.T, labels.T, strict=True):
        known = (label == 0) | (label == 1)
        weight = weights[known]
        if (weight * label[known]).sum() == 0:
            result.append(NAN)
        else:
            result.append(average_precision_score(label[known], score[known], sample_weight=weight))
    return torch.tensor(result, dtype=torch.float64)


def _count_ap_by_loop(scores, counts, captions, weights):
    """Fang et al. 2015 as a person would write it: one threshold after the other, then VOC's interpolation."""
    known = [i for i in range(len(scores)) if counts[i] >= 0]
    total = sum(weights[i] * counts[i] * (captions[i] - 1) / captions[i] for i in known)
    if total == 0:
        return NAN
    recalls, precisions = [], []
    for threshold in sorted({scores[i] for i in known}, reverse=True):
        tp = fp = 0.0
        for i in known:
            if scores[i] >= threshold:
                n, c = counts[i], captions[i]
                tp += weights[i] * n * (1 - 1 / c)
                fp += weights[i] * (0 if n > 1 else 1 / c if n == 1 else 1)
        recalls.append(tp / total)
        precisions.append(tp / (tp + fp) if tp + fp > 0 else 0.0)
    area, previous = 0.0, 0.0
    for i, recall in enumerate(recalls):
        area += (recall - previous) * max(precisions[i:])
        previous = recall
    return area


def _column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


class TestAveragePrecision:
    @settings(max_examples=60, deadline=None)
    @given(_problems())
    def test_equals_scikit_learn(self, problem):
        scores, labels, weights = problem
        torch.testing.assert_close(
            average_precision(scores, labels), _sklearn(scores, labels, np.ones(len(scores))), equal_nan=True
        )
        torch.testing.assert_close(
            average_precision(scores, labels, weights), _sklearn(scores, labels, weights), equal_nan=True
        )

    def test_equals_scikit_learn_over_many_blocks(self, monkeypatch):
        generator = torch.Generator().manual_seed(0)
        labels = (torch.rand(300, 7, generator=generator) < torch.linspace(0.01, 0.9, 7)).double()
        scores = (torch.randn(300, 7, generator=generator) + labels).float()
        reference = _sklearn(scores.numpy(), labels.numpy(), np.ones(300))
        torch.testing.assert_close(average_precision(scores, labels), reference)
        monkeypatch.setattr(ranking, "ENTRIES_PER_BLOCK", 700)  # two labels at a time
        torch.testing.assert_close(average_precision(scores, labels), reference)

    def test_without_positives_is_nan(self):
        result = average_precision([[0.2, 0.1, 0.4], [0.3, 0.2, 0.5]], [[0, 1, -1], [-1, 0, NAN]])
        torch.testing.assert_close(result, torch.tensor([NAN, 0.5, NAN], dtype=torch.float64), equal_nan=True)

    def test_ties_share_a_threshold(self):
        # three tied examples of which one is right: precision 1/3 at recall 1, in whatever order they come
        for labels in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
            assert average_precision(_column([0.5] * 3), _column(labels)).item() == pytest.approx(1 / 3)

    def test_unknown_examples_do_not_count(self):
        scores, labels = _column([4.0, 3.0, 2.0, 1.0]), _column([NAN, 1.0, -1.0, 0.0])
        assert average_precision(scores, labels).item() == 1.0

    def test_infinite_scores_are_scores(self):
        assert average_precision(_column([math.inf, -math.inf, 0.0]), _column([1, 1, 0])).item() == pytest.approx(5 / 6)

    @pytest.mark.parametrize(
        "dtype", [torch.int64, torch.int8, torch.bool, torch.float16, torch.bfloat16, torch.float32]
    )
    def test_types(self, dtype):
        scores, labels = torch.tensor([[3], [2], [1]]), torch.tensor([[1], [0], [1]])
        assert average_precision(scores, labels.to(dtype)).item() == pytest.approx(5 / 6)
        if dtype != torch.bool:
            assert average_precision(scores.to(dtype), labels).item() == pytest.approx(5 / 6)

    def test_arrays_that_torch_would_warn_about(self):
        scores, labels = np.array([[1.0], [2.0], [3.0]])[::-1], np.array([[1.0], [0.0], [1.0]])
        labels.flags.writeable = False
        assert average_precision(scores, labels).item() == pytest.approx(5 / 6)

    def test_no_gradient_is_asked_for(self):
        assert not average_precision(torch.tensor([[1.0], [0.0]], requires_grad=True), [[1], [0]]).requires_grad

    @pytest.mark.parametrize(("num_examples", "num_labels"), [(0, 3), (3, 0)])
    def test_empty(self, num_examples, num_labels):
        nothing = torch.zeros(num_examples, num_labels)
        assert average_precision(nothing, nothing).shape == (num_labels,)
        assert average_precision(nothing, nothing).isnan().all()
        assert count_average_precision(nothing, nothing, 5).isnan().all()

    @pytest.mark.parametrize(
        ("scores", "labels", "weights", "message"),
        [
            (torch.zeros(3, 2), torch.zeros(2, 3), None, r"\(3, 2\).*\(2, 3\)"),
            (torch.zeros(3), torch.zeros(3), None, r"scores: expected 2 axes, got shape \(3,\)"),
            (torch.tensor([[NAN]]), torch.ones(1, 1), None, r"scores: .* got 1 NaN of 1"),
            (torch.zeros(2, 1), torch.full((2, 1), 0.5), None, r"labels: .* got 0.5"),
            (torch.zeros(2, 1), torch.ones(2, 1), [1, 1, 1], "weights: expected 2, one per example, got 3"),
            (torch.zeros(2, 1), torch.ones(2, 1), [1, -1], "not negative.*-1"),
            (torch.zeros(2, 1), torch.ones(2, 1), [1, NAN], "finite"),
        ],
    )
    def test_mistakes(self, scores, labels, weights, message):
        with pytest.raises(InputError, match=message):
            average_precision(scores, labels, weights)


class TestCountAveragePrecision:
    def test_best_order(self):
        # C = 5. n = 3: tp 3 * 0.8 = 2.4, fp 0 -> precision 1; n = 0: fp 1, adds no recall. AP = 1
        assert count_average_precision(_column([0.9, 0.1]), _column([3, 0]), 5).item() == pytest.approx(1.0)

    def test_worst_order(self):
        # C = 5. First n = 0: fp 1. Then n = 3: tp 2.4 -> precision 2.4 / 3.4 at recall 1
        assert count_average_precision(_column([0.1, 0.9]), _column([3, 0]), 5).item() == pytest.approx(2.4 / 3.4)

    def test_one_caption_of_five_is_partly_wrong(self):
        # C = 5, n = 1: tp 1 * 0.8, fp 1/5 -> precision 0.8 / 1 at recall 1
        assert count_average_precision(_column([0.7]), _column([1]), 5).item() == pytest.approx(0.8)

    def test_precision_is_made_non_increasing(self):
        # C = 5, in order n = 1, 0, 5; denominator 0.8 + 4 = 4.8
        # tp 0.8, fp 0.2       -> precision 0.8            recall 0.8 / 4.8
        # tp 0.8, fp 1.2      -> precision 0.4            the same recall
        # tp 4.8, fp 1.2     -> precision 0.8            recall 1
        # from the right: 0.8 everywhere -> AP 0.8
        assert count_average_precision(_column([3.0, 2.0, 1.0]), _column([1, 0, 5]), 5).item() == pytest.approx(0.8)
        # C = 5, in order n = 2, 0, 1; denominator 1.6 + 0.8 = 2.4; precision 1.6/1.6 = 1, then 2.4 / (2.4 + 1.2) = 2/3
        # AP = 1.6/2.4 * 1 + 0.8/2.4 * 2/3 = 8/9
        assert count_average_precision(_column([3.0, 2.0, 1.0]), _column([2, 0, 1]), 5).item() == pytest.approx(8 / 9)

    def test_captions_differ_by_image(self):
        # (n, C) in order: (2, 4), (1, 2), (3, 6); denominator 2 * 3/4 + 1 * 1/2 + 3 * 5/6 = 1.5 + 0.5 + 2.5 = 4.5
        # tp 1.5, fp 0 -> 1; tp 2, fp 0.5 -> 0.8; tp 4.5, fp 0.5 -> 0.9, so that the second also takes 0.9
        # AP = (1.5 * 1 + 0.5 * 0.9 + 2.5 * 0.9) / 4.5 = 4.2 / 4.5
        result = count_average_precision(_column([3.0, 2.0, 1.0]), _column([2, 1, 3]), [4, 2, 6])
        assert result.item() == pytest.approx(4.2 / 4.5)

    def test_ties_share_a_threshold(self):
        # C = 4, n = 2 and n = 0 tied on top: tp 1.5, fp 1 -> 0.6
        # then n = 1: tp 2.25, fp 1.25 -> 2.25 / 3.5 = 9/14 > 0.6
        # made non-increasing both are 9/14 -> AP 9/14
        result = count_average_precision(_column([0.9, 0.9, 0.4]), _column([2, 0, 1]), 4)
        assert result.item() == pytest.approx(9 / 14)
        # with another n = 0 in the tie: tp 1.5, fp 2 -> 3/7; then tp 2.25, fp 2.25 -> 0.5: AP 0.5
        result = count_average_precision(_column([0.9, 0.9, 0.4, 0.9]), _column([0, 2, 1, 0]), 4)
        assert result.item() == pytest.approx(0.5)

    def test_one_caption_per_image_gives_no_true_positives(self):
        # C = 1, n = 1: tp 1 * (1 - 1/1) = 0, so that the recall denominator is 0
        assert count_average_precision(_column([0.9, 0.1]), _column([1, 0]), 1).isnan().all()

    def test_no_positives_is_nan_and_unknowns_do_not_count(self):
        counts = torch.tensor([[0.0, NAN, -1.0], [0.0, 2.0, 5.0], [-1.0, 0.0, NAN]])
        result = count_average_precision(torch.tensor([[3.0] * 3, [2.0] * 3, [1.0] * 3]), counts, 5)
        torch.testing.assert_close(result, torch.tensor([NAN, 1.0, 1.0], dtype=torch.float64), equal_nan=True)

    @settings(max_examples=60, deadline=None)
    @given(_problems(values=(0, 0, 1, 2, 3, -1, NAN)), st.data())
    def test_equals_a_plain_loop(self, problem, data):
        scores, counts, weights = problem
        captions = data.draw(hnp.arrays(np.int64, len(scores), elements=st.integers(3, 7)))
        reference = [
            _count_ap_by_loop(score, count, captions, weights) for score, count in zip(scores.T, counts.T, strict=True)
        ]
        torch.testing.assert_close(
            count_average_precision(scores, counts, captions, weights),
            torch.tensor(reference, dtype=torch.float64),
            equal_nan=True,
        )

    @pytest.mark.parametrize(
        ("counts", "captions", "message"),
        [
            ([[1], [6]], 5, "image 1 with 5 captions, got 6"),
            ([[1], [-2]], 5, "image 1 with 5 captions, got -2"),
            ([[1], [1.5]], 5, r"counts: .* got 1.5"),
            ([[3], [3]], [2, 5], "expected 0..2, -1 or NaN for image 0 with 2 captions, got 3"),
            ([[0], [0]], [5, 0], "expected a whole number of at least 1 for image 1, got 0"),
            ([[0], [0]], NAN, r"captions_per_image: .* got nan"),
            ([[0], [0]], [5, 5, 5], r"expected one number or 2, one per image, got shape \(3,\)"),
            ([[0], [0], [0]], 5, r"\(2, 1\).*\(3, 1\)"),
        ],
    )
    def test_mistakes(self, counts, captions, message):
        captions = np.array(captions) if isinstance(captions, float) else captions
        with pytest.raises(InputError, match=message):
            count_average_precision(_column([0.1, 0.2]), counts, captions)


@pytest.mark.parametrize(
    "score", [lambda s, n: average_precision(s, n.clamp(max=1)), lambda s, n: count_average_precision(s, n, 5)]
)
class TestInvariance:
    def _problem(self):
        generator = torch.Generator().manual_seed(3)
        scores = torch.randint(-20, 20, (200, 5), generator=generator).double() / 4
        return scores, torch.randint(-1, 5, (200, 5), generator=generator), generator

    def test_to_the_order_of_the_examples(self, score):
        scores, truth, generator = self._problem()
        order = torch.randperm(200, generator=generator)
        torch.testing.assert_close(score(scores[order], truth[order]), score(scores, truth))

    @pytest.mark.parametrize("increasing", [torch.sigmoid, torch.exp, lambda s: 3 * s - 100, lambda s: s**3])
    def test_to_increasing_functions_of_the_scores(self, score, increasing):
        scores, truth, _ = self._problem()
        torch.testing.assert_close(score(increasing(scores), truth), score(scores, truth), rtol=0, atol=0)


def test_mean_over_labels():
    assert mean_over_labels(torch.tensor([NAN, 0.25, 0.75])) == 0.5
    assert math.isnan(mean_over_labels([NAN]))
    assert math.isnan(mean_over_labels([]))


def test_by_group():
    groups = by_group(torch.tensor([0.2, 0.4, NAN, NAN], dtype=torch.float64), ["VB", "NN", "NN", "JJ"])
    assert list(groups) == ["VB", "NN", "JJ"]
    assert groups["NN"] == {"count": 2, "mean": pytest.approx(0.4)}
    assert groups["JJ"]["count"] == 1
    assert math.isnan(groups["JJ"]["mean"])
    with pytest.raises(InputError, match="groups: expected 2, one per label, got 1"):
        by_group([0.1, 0.2], ["NN"])
