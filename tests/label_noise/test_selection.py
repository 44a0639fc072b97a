"""On clean labels nothing is risked; on flipped ones q is raised; and no true label is asked."""

import math
from dataclasses import replace

import pytest
import torch

from truetag.data.corruption import flip_labels
from truetag.evaluation.ranking import average_precision
from truetag.label_noise.heads import fit_head
from truetag.label_noise.relabelling import fit_calibrated
from truetag.label_noise.selection import QS, candidates, choose, describe
from truetag.label_noise.settings import JOINT, HeadSettings

N, D, K = 1000, 64, 8
NAN = float("nan")
PLAIN = replace(JOINT, noise_model="none", learning_rate=0.01, weight_decay=0.0, dropout=0.1, layer_norm=False)
QUICK = [PLAIN, replace(PLAIN, noise_model="fi", q=0.4)]


def linear_truth(num_examples=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    directions = 4 * torch.randn(K, D, generator=generator) / math.sqrt(D)
    features = torch.randn(num_examples, D, generator=generator)
    logits = features @ directions.T - 2
    return features, (torch.rand(num_examples, K, generator=generator) < logits.sigmoid()).float()


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr("truetag.label_noise.heads.FEWEST_STEPS", 20)


TRAINED = candidates(PLAIN, with_solved=False)


def test_solved_heads_compete_unless_heads_are_trained_or_q_is_given():
    assert candidates(PLAIN) == [replace(PLAIN, solver="ridge"), replace(PLAIN, solver="logistic")]
    first, *others = TRAINED
    assert first == PLAIN
    assert [(settings.noise_model, settings.q) for settings in others] == [("fi", q) for q in QS]
    assert all(replace(settings, noise_model="none", q=0.0) == PLAIN for settings in others)
    assert [settings.q for settings in candidates(PLAIN, 0.3)] == [0, 0.3]


@pytest.mark.parametrize("flips", [(0.0, 0.0), (0.3, 0.0), (0.2, 0.2)])
def test_solved_heads_are_no_worse_than_trained_ones(flips):
    features, labels = linear_truth(2 * N, seed=1)
    observed = flip_labels(labels, *flips, torch.Generator().manual_seed(0))
    settings = choose(features[:N], observed[:N], candidates(PLAIN)).settings
    ours = fit_calibrated(features[:N], observed[:N], settings)
    plain = fit_head(features[:N], observed[:N], PLAIN)
    ours, plain = (average_precision(fitted(features[N:]), labels[N:]).mean() for fitted in (ours, plain))
    assert ours > plain - 0.003


@pytest.mark.parametrize("seed", [0, 1])
def test_on_clean_labels_the_choice_costs_nothing(seed):
    features, labels = linear_truth(2 * N, seed)
    choice = choose(features[:N], labels[:N], TRAINED)
    chosen, plain = (
        average_precision(fit_head(features[:N], labels[:N], settings)(features[N:]), labels[N:]).mean()
        for settings in (choice.settings, PLAIN)
    )
    assert chosen > plain - 0.003
    assert choice.settings.q == 0


def test_on_flipped_labels_q_is_raised():
    features, labels = linear_truth(2 * N, seed=1)
    observed = flip_labels(labels, 0.2, 0.2, torch.Generator().manual_seed(0))
    choice = choose(features, observed, TRAINED)
    assert choice.settings.noise_model == "fi"
    assert choice.settings.q > 0
    assert choice.scores[describe(choice.settings)] == max(choice.scores.values())
    assert choice.reason.startswith(describe(choice.settings))
    assert "points above that with no noise model" in choice.reason


@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_without_a_label_to_choose_by_the_first_is_kept(value):
    features, labels = linear_truth(100)
    choice = choose(features, torch.full_like(labels, value), TRAINED)
    assert choice.settings == PLAIN
    assert choice.scores == {}
    assert "no label" in choice.reason


@pytest.mark.parametrize(
    ("num_examples", "frequencies", "reason"),
    [
        (12, [0.5, 0.5], "too few rows: 3 of 12 are held out, and 10 are needed"),
        (120, [0.02, 0.02], "too few positives (the label with the most has 1 held-out, and 5 are needed)"),
        (120, [0.98, 0.98], "too few negatives (the label with the most has 1 held-out, and 5 are needed)"),
        (120, [0.98, 0.02], "no label has both 5 positives and 5 negatives held out"),
    ],
)
def test_the_reason_says_what_is_too_few(num_examples, frequencies, reason):
    labels = torch.stack([(torch.arange(num_examples) < f * num_examples).float() for f in frequencies], dim=1)
    choice = choose(torch.zeros(num_examples, 2), labels, QUICK)
    assert choice.reason == f"no label to choose by: {reason}"
    assert choice.settings == PLAIN


@pytest.mark.usefixtures("few_steps")
def test_the_same_seed_chooses_the_same():
    features, labels = linear_truth()
    one, same, other = (choose(features, labels, QUICK, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.scores != other.scores


@pytest.mark.usefixtures("few_steps")
def test_unknown_labels_are_nan_or_minus_one():
    features, labels = linear_truth()
    labels[::3] = NAN
    assert choose(features, labels, QUICK) == choose(features, labels.nan_to_num(-1).to(torch.int8), QUICK)


def test_a_group_is_not_torn_apart(monkeypatch):
    """Each example is there twice; of the hundred different ones training sees three quarters."""
    features, labels = linear_truth(100)
    seen = []

    def remember(features, labels, settings, *others, **named):
        seen.append({tuple(row) for row in features.tolist()})
        return fit_head(features, labels, replace(settings, stage2_epochs=0), *others, **named)

    monkeypatch.setattr("truetag.label_noise.selection.fit_head", remember)
    groups = [f"twins {place}" for place in range(100)] * 2
    choose(features.repeat(2, 1), labels.repeat(2, 1), [PLAIN], groups=groups)
    assert len(seen[0]) == 75


@pytest.mark.usefixtures("few_steps")
def test_weights_and_targets_reach_training():
    features, labels = linear_truth()
    plain = choose(features, labels, QUICK)
    weights = torch.rand(N, generator=torch.Generator().manual_seed(0))
    assert choose(features, labels, QUICK, weights=weights).scores != plain.scores
    turned = choose(features, labels, QUICK, targets=0.6 - 0.2 * labels)  # trained on and compared with: 1 from 1/2 on
    on_posterior = describe(replace(QUICK[1], train_on_posterior=True))
    assert plain.scores.keys() - turned.scores.keys() == {on_posterior}  # targets are a posterior: not once more
    same = choose(features, labels, QUICK, targets=labels.clone()).scores
    assert same == {name: score for name, score in plain.scores.items() if name != on_posterior}
    assert turned.scores[describe(PLAIN)] > (1 - labels).mean()  # of turned labels, it ranks turned ones first


@pytest.mark.usefixtures("few_steps")
def test_how_far_ahead_the_best_must_be():
    features, labels = linear_truth()
    free, strict = (choose(features, labels, TRAINED, num_errors=errors) for errors in (0.0, 1e6))
    assert free.scores[describe(free.settings)] == max(free.scores.values())
    assert strict.settings == PLAIN
    assert "1e+06 standard errors" in strict.reason


def test_the_plain_candidate_is_the_fair_baseline_and_the_others_train_jointly():
    plain, first, *_ = candidates(HeadSettings(), with_solved=False)
    assert plain == HeadSettings()
    assert first == JOINT
