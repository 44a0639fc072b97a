import dataclasses

import pytest
import torch

from truetag.errors import InputError
from truetag.evaluation import significance
from truetag.evaluation.ranking import average_precision, count_average_precision, mean_over_labels
from truetag.evaluation.significance import paired_bootstrap, resampled_mean_ap


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _problem(num_examples=60, num_labels=5, strength=1.0, seed=0):
    """Labels and the scores of two equally good models."""
    generator = _generator(seed)
    labels = (torch.rand(num_examples, num_labels, generator=generator) < 0.3).double()
    signal = strength * labels
    a = signal + torch.randn(labels.shape, generator=generator, dtype=torch.float64)
    b = signal + torch.randn(labels.shape, generator=generator, dtype=torch.float64)
    return labels, a, b


@pytest.mark.parametrize("captions", [None, 5])
def test_a_weight_is_a_repetition(captions, monkeypatch):
    monkeypatch.setattr(significance, "ENTRIES_PER_CHUNK", 1000)  # several chunks of resamples
    labels, scores, _ = _problem(num_examples=25, num_labels=4)
    labels[:, 3] = 0
    labels[7, 3] = 1  # lost in about every third resample
    labels[3, 1] = -1
    scores = (scores * 2).round()  # ties
    truth = labels if captions is None else torch.where(labels == 1, torch.arange(25)[:, None] % 5 + 1, labels)
    draws = torch.randint(25, (20, 25), generator=_generator())
    weights = torch.stack([draw.bincount(minlength=25) for draw in draws]).double()
    means = resampled_mean_ap(scores, truth, weights, captions)
    lost = 0
    for draw, mean in zip(draws, means, strict=True):
        if captions is None:
            per_label = average_precision(scores[draw], truth[draw])
        else:
            per_label = count_average_precision(scores[draw], truth[draw], captions)
        lost += int(per_label.isnan().sum())
        assert mean.item() == pytest.approx(mean_over_labels(per_label), abs=1e-12)
    assert lost > 0


def test_identical_scores_differ_by_exactly_nothing():
    labels, a, _ = _problem()
    result = paired_bootstrap(a, a.clone(), labels, num_resamples=50, generator=_generator())
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert result.mean_ap_a == result.mean_ap_b == mean_over_labels(average_precision(a, labels))


def test_a_clearly_better_model_is_significant():
    labels, a, b = _problem(num_examples=200)
    better = paired_bootstrap(a + labels, b, labels, num_resamples=200, generator=_generator())
    assert 0 < better.low < better.difference < better.high
    assert better.p_value == pytest.approx(2 / 201)
    worse = paired_bootstrap(b, a + labels, labels, num_resamples=200, generator=_generator())
    assert (worse.difference, worse.low, worse.high) == pytest.approx((-better.difference, -better.high, -better.low))
    assert worse.p_value == better.p_value


def test_the_interval_covers_no_difference_about_as_often_as_it_says():
    # two models that are equally good by construction: a 90 % interval misses 0 in about 4 of 40 test sets, never in 12
    missed = 0
    for seed in range(40):
        labels, a, b = _problem(num_examples=80, num_labels=3, seed=seed)
        result = paired_bootstrap(a, b, labels, num_resamples=100, confidence=0.9, generator=_generator(seed))
        missed += not result.low <= 0 <= result.high
    assert missed < 12


def test_seeds_are_averaged_within_a_resample():
    labels, a, b = _problem()
    weights = torch.ones(1, 60, dtype=torch.float64)
    result = paired_bootstrap([a, b], [b], labels, num_resamples=20, generator=_generator())
    expected = (resampled_mean_ap(a, labels, weights) + resampled_mean_ap(b, labels, weights)).item() / 2
    assert result.mean_ap_a == pytest.approx(expected)
    assert paired_bootstrap(torch.stack([a, b]), b, labels, num_resamples=20, generator=_generator()) == result
    assert (
        paired_bootstrap((a.numpy(), b.numpy()), b.tolist(), labels, num_resamples=20, generator=_generator()) == result
    )
    assert paired_bootstrap([a.tolist(), b.tolist()], b, labels, num_resamples=20, generator=_generator()) == result


def test_the_generator_decides():
    labels, a, b = _problem()
    results = [paired_bootstrap(a, b, labels, num_resamples=30, generator=_generator(seed)) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0].low != results[2].low
    assert results[0].difference == results[2].difference


def test_counts_use_the_count_average_precision():
    labels, a, b = _problem()
    counts = labels * 3
    result = paired_bootstrap(a, b, counts, counts_per_image=[5] * 60, num_resamples=10, generator=_generator())
    assert result.mean_ap_a == pytest.approx(mean_over_labels(count_average_precision(a, counts, 5)))


def test_resamples_without_any_positive_are_left_out():
    labels = torch.zeros(6, 1)
    labels[0] = 1
    result = paired_bootstrap(labels, -labels, labels, num_resamples=100, generator=_generator())
    assert 40 < result.num_resamples < 90  # 1 - (5/6)^6 = 0.67 of them draw the positive
    assert result.low > 0


def test_the_result_cannot_be_changed():
    labels, a, b = _problem()
    result = paired_bootstrap(a, b, labels, num_resamples=2, generator=_generator())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.p_value = 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_resamples": 0}, "num_resamples: expected at least 1, got 0"),
        ({"confidence": 1.0}, r"confidence: .* got 1.0"),
        ({"scores_a": []}, "scores: expected at least one array"),
        ({"scores_a": torch.zeros(3, 2)}, r"\(3, 2\).*\(60, 5\)"),
        ({"labels": torch.zeros(60, 5)}, "expected at least one positive, got none for 5 labels of 60 examples"),
    ],
)
def test_mistakes(changes, message):
    labels, a, b = _problem()
    arguments = {"scores_a": a, "scores_b": b, "labels": labels, "generator": _generator()}
    with pytest.raises(InputError, match=message):
        paired_bootstrap(**(arguments | changes))
