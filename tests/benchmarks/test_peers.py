"""Published losses against their formulas in probability space, in their limits, at extremes, without labels."""

import inspect
import math
from functools import partial

import peers
import pytest
import torch
from peers import (
    anchor_rates,
    asymmetric_loss,
    backward_correction,
    correct_large_losses,
    expected_positives,
    focal_loss,
    hard_bootstrapping,
    hill_loss,
    importance_reweighting,
    label_smoothing,
    large_losses,
    reject_large_losses,
    soft_bootstrapping,
    splc_loss,
    symmetric_cross_entropy,
    weak_negatives,
)
from timm.loss import AsymmetricLossMultiLabel

from truetag.latent import known, negative_log_likelihood, observe
from truetag.noise_models import transition

B, K = 6, 5
MISSING, INCORRECT = 0.3, 0.1
LOG_Q = transition(K, MISSING, INCORRECT)
IDENTITY = transition(K, 0.0, 0.0)

LOSSES = {
    "weak_negatives": weak_negatives,
    "label_smoothing": label_smoothing,
    "focal_loss": partial(focal_loss, alpha=0.25),
    "asymmetric_loss": asymmetric_loss,
    "hill_loss": hill_loss,
    "splc_loss": splc_loss,
    "symmetric_cross_entropy": symmetric_cross_entropy,
    "soft_bootstrapping": soft_bootstrapping,
    "hard_bootstrapping": hard_bootstrapping,
    "reject_large_losses": partial(reject_large_losses, rejected_share=0.2),
    "correct_large_losses": partial(correct_large_losses, corrected_share=0.2),
    "expected_positives": partial(expected_positives, expected=1.5),
    "backward_correction": partial(backward_correction, missing_rate=MISSING, incorrect_rate=INCORRECT),
    "importance_reweighting": partial(importance_reweighting, log_q=LOG_Q),
}

CROSS_ENTROPY = {
    "weak_negatives": partial(weak_negatives, negative_weight=1.0),
    "label_smoothing": partial(label_smoothing, smoothing=0.0),
    "focal_loss": partial(focal_loss, gamma=0.0),
    "asymmetric_loss": partial(asymmetric_loss, gamma_negative=0.0, gamma_positive=0.0, margin=0.0),
    "splc_loss": partial(splc_loss, is_warm=False, margin=0.0, gamma=0.0),
    "symmetric_cross_entropy": partial(symmetric_cross_entropy, alpha=1.0, beta=0.0),
    "soft_bootstrapping": partial(soft_bootstrapping, beta=1.0),
    "hard_bootstrapping": partial(hard_bootstrapping, beta=1.0),
    "reject_large_losses": partial(reject_large_losses, rejected_share=0.0),
    "correct_large_losses": partial(correct_large_losses, corrected_share=0.0),
    "backward_correction": partial(backward_correction, missing_rate=0.0, incorrect_rate=0.0),
    "importance_reweighting": partial(importance_reweighting, log_q=IDENTITY),
}

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, 2, (B, K), generator=generator)


def gradient_of(loss, logits):
    return torch.autograd.grad(loss.sum(), logits)[0]


def test_every_loss_is_listed():
    functions = inspect.getmembers(peers, inspect.isfunction)
    public = {name for name, f in functions if f.__module__ == peers.__name__ and not name.startswith("_")}
    assert public - {"large_losses", "anchor_rates"} == set(LOSSES)


# The formulas as published, in probabilities: p = p(y=1|I), z the observed label, t a target.


def literal_cross_entropy(p, t):
    return -(t * p.log() + (1 - t) * (1 - p).log())


def literal_positive_with_margin(p):
    p = p / (p + math.e * (1 - p))  # the logit less 1
    return -((1 - p) ** 2) * p.log()


def literal_large(p, z, share):
    """A label 0 is large if fewer than `share` of all labels 0 have a larger loss."""
    losses = -(1 - p[z == 0]).log()
    return (z == 0) & ((losses > -(1 - p).log().unsqueeze(-1)).sum(-1) < share * losses.numel())


def literal_weak_negatives(p, z):
    return torch.where(z == 1, -p.log(), -(1 - p).log() / (K - 1))


def literal_label_smoothing(p, z):
    return torch.where(z == 1, literal_cross_entropy(p, 0.95), literal_cross_entropy(p, 0.05))


def literal_focal_loss(p, z):
    return torch.where(z == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())


def literal_asymmetric_loss(p, z):
    shifted = (p - 0.05).clamp(min=0)
    return torch.where(z == 1, -(1 - p) * p.log(), -(shifted**4) * (1 - shifted).log())


def literal_hill_loss(p, z):
    return torch.where(z == 1, literal_positive_with_margin(p), (1.5 - p) * p**2)


def literal_splc_loss(p, z):
    negative = torch.where(p > 0.6, -((1 - p) ** 2) * p.log(), -(p**2) * (1 - p).log())
    return torch.where(z == 1, literal_positive_with_margin(p), negative)


def literal_symmetric_cross_entropy(p, z):
    log_present, log_absent = torch.where(z == 1, 0, -4), torch.where(z == 1, -4, 0)
    return 0.1 * literal_cross_entropy(p, z) - (p * log_present + (1 - p) * log_absent)


def literal_soft_bootstrapping(p, z):
    return literal_cross_entropy(p, 0.95 * z.double() + 0.05 * p)


def literal_hard_bootstrapping(p, z):
    return literal_cross_entropy(p, 0.8 * z.double() + 0.2 * p.round().detach())


def literal_reject_large_losses(p, z):
    return literal_cross_entropy(p, z) * ~literal_large(p, z, 0.2)


def literal_correct_large_losses(p, z):
    return literal_cross_entropy(p, z + literal_large(p, z, 0.2).long())


def literal_expected_positives(p, z):
    return -z * p.log() + ((p.sum() / B - 1.5) / K) ** 2


def literal_backward_correction(p, z):
    inverse = torch.tensor([[1 - INCORRECT, MISSING], [INCORRECT, 1 - MISSING]], dtype=torch.float64).inverse()
    losses = torch.stack([-(1 - p).log(), -p.log()], dim=-1)
    return (losses * inverse.T[z]).sum(-1)  # row z of the inverse of T[y, z] in the paper


def literal_importance_reweighting(p, z):
    observed = (1 - MISSING) * p + INCORRECT * (1 - p)
    weight = torch.where(z == 1, p / observed, (1 - p) / (1 - observed)).detach()
    return weight * literal_cross_entropy(p, z)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", LOSSES)
def test_is_its_published_formula(name, seed):
    logits, labels = batch(seed)
    losses = LOSSES[name](logits, labels, reduction="none")
    expected = globals()[f"literal_{name}"](logits.sigmoid(), labels)
    # rates are single precision in log_q
    assert torch.allclose(losses, expected, rtol=1e-6, atol=1e-9)
    assert torch.allclose(gradient_of(losses, logits), gradient_of(expected, logits), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", CROSS_ENTROPY.values(), ids=CROSS_ENTROPY)
def test_has_cross_entropy_as_a_limit(loss):
    logits, labels = batch(0)
    losses, expected = loss(logits, labels, reduction="none"), negative_log_likelihood(logits, labels, "none")
    assert torch.allclose(losses, expected, rtol=1e-9)
    assert torch.allclose(gradient_of(losses, logits), gradient_of(expected, logits), rtol=1e-9)


@every_loss
def test_unknown_labels_contribute_nothing(loss):
    logits, labels = batch(1)
    unknown = torch.rand(B, K, generator=torch.Generator().manual_seed(1)) < 0.4
    unknown[0] = True
    losses = []
    for mark, nonsense in ((math.nan, math.nan), (-1.0, 7.0)):
        hidden = torch.where(unknown, nonsense, logits.detach()).requires_grad_()
        marked = torch.where(unknown, mark, labels.double())
        losses.append(loss(hidden, marked, reduction="none"))
        assert torch.equal(known(marked), ~unknown)
        assert losses[-1].isfinite().all()
        assert (losses[-1][unknown] == 0).all()
        gradient = gradient_of(losses[-1], hidden)
        assert gradient.isfinite().all()
        assert (gradient[unknown] == 0).all()
        assert loss(hidden, torch.full_like(hidden, mark)).item() == 0
    assert torch.equal(*losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "loss", [*LOSSES.values(), *CROSS_ENTROPY.values()], ids=[*LOSSES, *(f"{name}_limit" for name in CROSS_ENTROPY)]
)
def test_extremes_stay_finite(loss, dtype):
    logits = torch.tensor([[-200.0, 200.0, -30.0, 30.0, 0.0]], dtype=dtype).T.expand(-1, K).clone().requires_grad_()
    for label in (0, 1):
        losses = loss(logits, torch.full_like(logits, label), reduction="none")
        assert losses.isfinite().all()
        assert losses.dtype == dtype
        assert gradient_of(losses, logits).isfinite().all()


@every_loss
def test_reductions_are_those_of_the_likelihood(loss):
    logits, labels = batch(2)
    labels = labels.double()
    labels[0, :3] = math.nan
    losses = loss(logits, labels, reduction="none")
    assert torch.allclose(loss(logits, labels), losses.sum() / (B * K - 3))
    assert torch.allclose(loss(logits, labels, reduction="sum"), losses.sum())
    assert torch.allclose(loss(logits, labels, reduction="sum_labels"), losses.sum() / B)
    assert loss(logits[:0], labels[:0]).item() == 0


@pytest.mark.parametrize("settings", [{}, {"margin": 0.2, "gamma_negative": 2.0, "gamma_positive": 0.0}])
def test_asymmetric_loss_is_that_of_timm(settings):
    names = {"margin": "clip", "gamma_negative": "gamma_neg", "gamma_positive": "gamma_pos"}
    reference = AsymmetricLossMultiLabel(**{names[name]: value for name, value in settings.items()}, reduction="sum")
    logits, labels = batch(3)
    loss, expected = asymmetric_loss(logits, labels, **settings, reduction="sum"), reference(logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient_of(loss, logits), gradient_of(expected, logits), rtol=1e-4, atol=1e-6)


def test_asymmetric_loss_has_a_gradient_below_its_margin():
    """gamma < 1, where the derivative of a power at 0 is infinite."""
    logits = torch.tensor([[-5.0, 0.0]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(1, 2), gamma_negative=0.5, reduction="sum")
    gradient = gradient_of(loss, logits)[0]
    assert gradient[0] == 0
    assert gradient[1] > 0


def test_splc_corrects_negatives_alone_and_only_when_warm():
    logits = torch.tensor([[2.0, 0.0, 2.0]])
    labels = torch.tensor([[0, 0, 1]])
    cold, warm = (splc_loss(logits, labels, is_warm=is_warm, reduction="none")[0] for is_warm in (False, True))
    assert (cold != warm).tolist() == [True, False, False]
    assert warm[0] == focal_loss(logits[:, :1], torch.ones(1, 1))


def test_expected_positives_are_counted_among_known_labels():
    logits, labels = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, math.nan, -1.0]])
    assert expected_positives(logits, labels, expected=1.0).item() == 0
    assert expected_positives(logits, labels, expected=2.0, weight=8.0).item() == pytest.approx(8 / 4**2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_large_losses_are_a_share_of_labels_that_are_0(share):
    logits, labels = batch(4)
    labels = labels.double()
    labels[1] = math.nan
    large, absent = large_losses(logits, labels, share), labels == 0
    assert large.sum() == math.ceil(share * absent.sum())
    assert not (large & ~absent).any()
    if large.any() and not torch.equal(large, absent):
        assert logits[large].min() > logits[absent & ~large].max()


def test_large_losses_count_ties_once():
    assert large_losses(torch.zeros(2, 2), torch.zeros(2, 2), 0.5).sum() == 2
    assert not large_losses(torch.zeros(2, 2), torch.ones(2, 2), 1.0).any()


def test_backward_correction_is_unbiased():
    """Its expectation over the observed label is the cross entropy of the true one, as is that of its gradient."""
    logits, truth = batch(5)
    missing, incorrect = torch.linspace(0, 0.5, K).double(), torch.linspace(0.4, 0, K).double()
    rate_of_1 = torch.where(truth == 1, 1 - missing, incorrect)
    of_1, of_0 = (
        backward_correction(logits, torch.full((B, K), z), missing, incorrect, reduction="none") for z in (1, 0)
    )
    mean, expected = rate_of_1 * of_1 + (1 - rate_of_1) * of_0, negative_log_likelihood(logits, truth, "none")
    assert torch.allclose(mean, expected)
    assert torch.allclose(gradient_of(mean, logits), gradient_of(expected, logits))


def test_importance_reweighting_is_unbiased():
    """Over z from p(z|I), its expectation is that of cross entropy over y from p(y|I), also feature-dependent."""
    logits, _ = batch(6)
    log_q = torch.randn(B, K, 2, 2, dtype=torch.float64).log_softmax(-2)
    p, observed = logits.sigmoid(), observe(logits, log_q).sigmoid()
    of_1, of_0 = (importance_reweighting(logits, torch.full((B, K), z), log_q, reduction="none") for z in (1, 0))
    assert torch.allclose(observed * of_1 + (1 - observed) * of_0, literal_cross_entropy(p, p))


def test_revision_learns_its_slack_through_the_weight_alone():
    logits, labels = batch(7)
    slack = torch.zeros_like(LOG_Q, requires_grad=True)
    log_q = (LOG_Q + slack).log_softmax(-2)
    fixed = importance_reweighting(logits, labels, log_q)
    revised = importance_reweighting(logits, labels, log_q, differentiate_weight=True)
    assert torch.equal(fixed, revised)
    assert torch.autograd.grad(fixed, slack, allow_unused=True) == (None,)
    assert gradient_of(revised, slack).abs().min() > 0


def test_anchor_rates_are_the_rates_where_anchors_are():
    truth = torch.cat([torch.zeros(40), torch.rand(20), torch.ones(40)]).unsqueeze(-1)
    missing, incorrect = torch.tensor([0.4, 0.0, 0.2]), torch.tensor([0.1, 0.3, 0.0])
    posterior = (1 - missing) * truth + incorrect * (1 - truth)
    posterior[50] = torch.tensor([0.0, 1.0, 1.0])  # outliers
    for estimated, rate in zip(anchor_rates(posterior), (missing, incorrect), strict=True):
        assert torch.allclose(estimated, rate)


def test_anchor_rates_of_a_rare_label_need_a_high_quantile():
    posterior = torch.full((100, 1), 0.05)
    posterior[0] = 0.8
    assert anchor_rates(posterior)[0].item() > 0.9
    assert anchor_rates(posterior, quantile=1.0)[0].item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    "call",
    [
        partial(label_smoothing, smoothing=1.5),
        partial(asymmetric_loss, margin=1.5),
        partial(soft_bootstrapping, beta=1.5),
        partial(hard_bootstrapping, beta=1.5),
        partial(reject_large_losses, rejected_share=1.5),
        partial(correct_large_losses, corrected_share=1.5),
        partial(backward_correction, missing_rate=torch.tensor([0.1, 0.9]), incorrect_rate=0.6),
        lambda logits, labels: anchor_rates(logits, quantile=1.5),
    ],
)
def test_settings_outside_their_range_are_refused(call):
    with pytest.raises(ValueError, match=r"must be .*, got 1\.5"):
        call(torch.zeros(1, 2), torch.zeros(1, 2))
