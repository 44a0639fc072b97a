"""The head finds a linear truth, also beneath wrong labels; what says nothing changes nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from truetag.data.corruption import flip_labels
from truetag.evaluation.ranking import average_precision
from truetag.label_noise.heads import FittedHead, fit_head, out_of_sample_logits
from truetag.label_noise.settings import JOINT, HeadSettings
from truetag.noise_models import FeatureIndependentNoise
from truetag.optimisation import step_sizes

N, D, K = 1000, 64, 8
NAN = float("nan")
PLAIN = replace(JOINT, noise_model="none", learning_rate=0.01, weight_decay=0.0, dropout=0.1, layer_norm=False)
QUICK = replace(PLAIN, stage2_epochs=1)


def linear_truth(num_examples=3 * N, num_features=D, num_labels=K, seed=0):
    """Features, labels and logits; the first N examples are to train on."""
    generator = torch.Generator().manual_seed(seed)
    directions = 4 * torch.randn(num_labels, num_features, generator=generator) / math.sqrt(num_features)
    features = torch.randn(num_examples, num_features, generator=generator)
    logits = features @ directions.T - 2
    labels = (torch.rand(num_examples, num_labels, generator=generator) < logits.sigmoid()).float()
    return features, labels, logits


def mean_ap(head: FittedHead, features, labels) -> float:
    return average_precision(head(features), labels).mean().item()


def parameters(head: FittedHead):
    return [*head.head.state_dict().values(), *(head.noise_model.parameters() if head.noise_model else [])]


def assert_equal(one: FittedHead, other: FittedHead):
    for a, b in zip(parameters(one), parameters(other), strict=True):
        assert torch.equal(a, b)


def test_a_linear_truth_is_recovered():
    features, labels, logits = linear_truth()
    head = fit_head(features[:N], labels[:N], PLAIN)
    known_truth = average_precision(logits[N:], labels[N:]).mean().item()
    assert mean_ap(head, features[N:], labels[N:]) > known_truth - 0.03
    assert torch.corrcoef(torch.stack([head(features[N:]).flatten(), logits[N:].flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("num_features", [2, 8, 32])
def test_the_defaults_suit_few_features_too(num_features):
    features, labels, logits = linear_truth(num_features=num_features)
    head = fit_head(features[:N], labels[:N])
    known_truth = average_precision(logits[N:], labels[N:]).mean().item()
    assert mean_ap(head, features[N:], labels[N:]) > known_truth - 0.03
    assert head(features).std() > 0.7 * logits.std()  # and say how sure they are


def test_step_sizes_keep_what_a_step_takes_of_the_weights():
    assert step_sizes(1280) == pytest.approx((6e-4, 1.0, 0.6))
    for num_features in (2, 64, 512, 4096):
        rate, decay, dropout = step_sizes(num_features)
        assert rate * decay == pytest.approx(6e-4)
        assert rate == pytest.approx(min(6e-4 * 1280 / num_features, 0.1))
        assert 0 < dropout <= 0.6
    assert step_sizes(8, learning_rate=0.01, weight_decay=0.0, dropout=0.0) == (0.01, 0.0, 0.0)


def test_beneath_flipped_labels_a_noise_model_with_q_beats_cross_entropy():
    gains = []
    for seed in (0, 1):
        features, labels, _ = linear_truth(seed=seed)
        observed = flip_labels(labels[:N], 0.2, 0.2, torch.Generator().manual_seed(seed))
        plain = fit_head(features[:N], observed, PLAIN)
        robust = fit_head(features[:N], observed, replace(PLAIN, noise_model="fi", q=0.6))
        gains.append(mean_ap(robust, features[N:], labels[N:]) - mean_ap(plain, features[N:], labels[N:]))
    assert min(gains) > 0.005


def test_the_rates_of_missing_labels_are_recovered():
    features, _, logits = linear_truth(num_features=16, num_labels=4)
    observed = flip_labels((logits > 0).float(), 0.3, 0.0, torch.Generator().manual_seed(0))
    settings = replace(PLAIN, noise_model="fi", learning_rate=0.05, dropout=0.0, stage2_epochs=30)
    noise_model = fit_head(features, observed, settings).noise_model
    assert noise_model.missing_rate().mean().item() == pytest.approx(0.3, abs=0.07)
    assert noise_model.incorrect_rate().mean().item() == pytest.approx(0.0, abs=0.01)


def test_soft_labels_say_more_than_hard_ones():
    features, labels, logits = linear_truth()
    hard, soft = (fit_head(features[:N], targets[:N], PLAIN) for targets in (labels, logits.sigmoid()))
    errors = [(head(features[N:]).sigmoid() - logits[N:].sigmoid()).square().mean().item() for head in (hard, soft)]
    assert errors[1] < errors[0] / 2


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, noise_model="fi", q=0.4), replace(QUICK, noise_model="fd")])
def test_an_unknown_label_and_an_example_without_weight_say_the_same_nothing(settings):
    features, labels, _ = linear_truth(300)
    silent = torch.arange(300) % 3 == 0
    unknown = torch.where(silent.unsqueeze(1), NAN, labels)
    told = fit_head(features, unknown, settings)
    assert_equal(told, fit_head(features, unknown.nan_to_num(-1), settings))
    assert_equal(told, fit_head(features, unknown.nan_to_num(-1).to(torch.int8), settings))
    assert_equal(told, fit_head(features, labels, settings, weights=(~silent).float()))


@pytest.mark.usefixtures("few_steps")
def test_weights_are_in_any_unit():
    features, labels, _ = linear_truth(300)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(0))
    one, other = (fit_head(features, labels, QUICK, weights=unit * weights) for unit in (1.0, 1000.0))
    assert torch.allclose(one(features), other(features), rtol=0, atol=1e-4)
    ones = fit_head(features, labels, QUICK, weights=torch.ones(300))
    assert torch.allclose(ones(features), fit_head(features, labels, QUICK)(features), rtol=0, atol=1e-4)


def test_weights_decide_between_contradicting_examples():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    labels = (features[:, :1] > 0).float()
    labels[200:] = 1 - labels[200:]
    weights = torch.ones(400)
    weights[200:] = 0.1
    head = fit_head(features, labels, PLAIN, weights=weights)
    assert ((head(features[:200]) > 0) == labels[:200]).float().mean() > 0.95


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.usefixtures("few_steps")
def test_features_are_in_any_unit(unit):
    features, labels, _ = linear_truth(300, num_features=16)
    one, other = (fit_head(scale * features, labels, QUICK) for scale in (1, unit))
    assert torch.allclose(one(features), other(unit * features), rtol=0, atol=1e-3)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_feature_is_not_looked_at(value):
    features, labels, _ = linear_truth(300, num_features=16)
    features[:, 3] = value
    head = fit_head(features, labels, QUICK)
    elsewhere = features.clone()
    elsewhere[:, 3] += 1000
    assert head(features).isfinite().all()
    assert torch.equal(head(features), head(elsewhere))


@pytest.mark.usefixtures("few_steps")
def test_wide_features_are_normalised_example_by_example():
    features, labels, _ = linear_truth(300)
    head = fit_head(features, labels, replace(QUICK, layer_norm=None))
    assert head.head.standardise.layer_norm
    assert torch.allclose(head(features), head(7 * features), rtol=0, atol=1e-3)
    assert not fit_head(features[:, :63], labels, replace(QUICK, layer_norm=None)).head.standardise.layer_norm


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("noise_model", ["none", "fi", "fd"])
@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_a_label_without_contrast_keeps_its_frequency(noise_model, value):
    features, labels, _ = linear_truth(300)
    labels[:, 2] = value
    probabilities = fit_head(features, labels, replace(QUICK, noise_model=noise_model))(features).sigmoid()
    assert (probabilities[:, 2] - float(value == 1)).abs().max() < 0.01


@pytest.mark.usefixtures("few_steps")
def test_a_seed_settles_everything_and_the_global_generators_are_left_alone():
    features, labels, _ = linear_truth(300)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, same, other = (fit_head(features, labels, QUICK, seed=seed) for seed in (1, 1, 2))
    assert_equal(one, same)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.usefixtures("few_steps")
def test_the_feature_dependent_model_has_a_transition_for_each_example():
    features, labels, _ = linear_truth(300)
    settings = replace(QUICK, noise_model="fd", noise_weight_learning_rate=0.01)
    head = fit_head(features, labels, settings)
    log_q = head.log_q(features)
    assert log_q.shape == (300, K, 2, 2)
    assert torch.allclose(log_q.exp().sum(-2), torch.ones(300, K, 2))
    assert log_q.std(0).max() > 0
    assert not log_q.requires_grad
    untrained = fit_head(features, labels, replace(settings, stage2_epochs=0))
    assert torch.allclose(untrained.log_q(features).exp()[..., 0, 1], torch.tensor(0.1))


def test_careless_images_are_told_from_absent_labels():
    """Tags go missing by an image's own odds: the shared model finds these, at a rate at which FD takes over."""
    generator = torch.Generator().manual_seed(0)
    features, directions = torch.randn(4 * N, 16, generator=generator), torch.randn(40, 16, generator=generator)
    chance = torch.logit(torch.rand(4 * N, 40, generator=generator))
    truth = (features @ directions.T - 1 + chance > 0).float()
    odds = features @ torch.randn(16, generator=generator) / 2 - 1
    observed = torch.where(torch.rand(4 * N, 40, generator=generator) < odds.sigmoid().unsqueeze(1), 0, truth)
    settings = replace(PLAIN, learning_rate=0.05, noise_learning_rate=0.05, noise_weight_learning_rate=0.05)
    heads = {
        name: fit_head(features[:N], observed[:N], replace(settings, noise_model=name, noise_weight_decay=0.0))
        for name in ("none", "fi", "fd", "fd-shared")
    }
    scores = {name: mean_ap(head, features[N:], truth[N:]) for name, head in heads.items()}
    assert scores["fd-shared"] > scores["fi"] > scores["none"]
    assert scores["fd"] < scores["none"]  # as Eq. 3 is written: it explains the labels by itself
    shared = torch.logit(heads["fd-shared"].log_q(features[N:])[..., 0, 1].exp()).mean(1)
    assert torch.corrcoef(torch.stack([shared, odds[N:]]))[0, 1] > 0.95


@pytest.mark.usefixtures("few_steps")
def test_an_objective_hears_how_much_of_training_is_done():
    features, labels, _ = linear_truth(300)
    heard = []

    def silent(logits, observed, done):
        heard.append(done)
        return 0 * logits

    head = fit_head(features, labels, QUICK, objective=silent)
    assert heard[0] == 0
    assert heard == sorted(heard)
    assert 0.9 < heard[-1] < 1
    assert torch.equal(head.head.weight, torch.zeros(K, D))


@pytest.mark.usefixtures("few_steps")
def test_out_of_sample_logits_have_not_heard_of_their_own_label():
    features, labels, _ = linear_truth(300)
    turned = labels.clone()
    turned[7] = 1 - turned[7]
    honest, planted = (out_of_sample_logits(features, given, QUICK) for given in (labels, turned))
    assert torch.equal(honest[7], planted[7])
    assert not torch.equal(honest, planted)


@pytest.mark.usefixtures("few_steps")
def test_out_of_sample_logits_have_not_seen_their_own_group():
    features, labels, _ = linear_truth(100)
    features, labels = features.repeat(2, 1), labels.repeat(2, 1)
    changed = labels.clone()
    changed[7] = 1 - changed[7]
    groups = list(range(100)) * 2  # each example and its copy
    honest, planted = (out_of_sample_logits(features, given, QUICK, groups=groups) for given in (labels, changed))
    assert torch.equal(honest[107], planted[107])
    alone = out_of_sample_logits(features, changed, QUICK)
    assert not torch.equal(alone[107], out_of_sample_logits(features, labels, QUICK)[107])


def test_stage_1_has_no_noise_model_and_stage_2_goes_on_from_it():
    features, labels, _ = linear_truth(400)
    stage1 = HeadSettings(stage1_epochs=10, stage2_epochs=0, noise_model="fi")
    untouched = fit_head(features, labels, stage1)
    assert torch.allclose(untouched.noise_model.missing_rate(), torch.full((K,), stage1.initial_missing_rate))
    both = fit_head(features, labels, replace(stage1, stage2_epochs=10))
    assert not torch.allclose(both.noise_model.missing_rate(), untouched.noise_model.missing_rate())
    assert not torch.equal(both.head.weight, untouched.head.weight)


def test_a_parameter_that_no_group_holds_is_an_error(monkeypatch):
    class Forgetful(FeatureIndependentNoise):
        def __init__(self, num_labels):
            super().__init__(num_labels)
            self.forgotten = torch.nn.Parameter(torch.zeros(num_labels))

    monkeypatch.setattr("truetag.label_noise.heads.make_noise_model", lambda *_: Forgetful(K))
    features, labels, _ = linear_truth(100)
    with pytest.raises(ValueError, match="parameter_groups: expected every parameter of Forgetful, got none for 'forg"):
        fit_head(features, labels, replace(QUICK, noise_model="fi"))
