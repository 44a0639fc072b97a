"""The loss in one pass against the readable form, `observe` and then `q_likelihood`: values, gradients, extremes."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from truetag import likelihood
from truetag.latent import known, observe
from truetag.likelihood import observed_loss
from truetag.losses import q_likelihood
from truetag.noise_models import (
    FeatureDependentNoise,
    FeatureIndependentNoise,
    SharedFeatureNoise,
    transition_logits,
)

B, K, D = 6, 5, 3
NAN = float("nan")
NOISE_MODELS = {
    "fi": lambda: FeatureIndependentNoise(K),
    "fd": lambda: FeatureDependentNoise(D, K),
    "fd-shared": lambda: SharedFeatureNoise(D, K),
}
LABELS = {
    "hard": lambda z, u: z,
    "integers": lambda z, u: z.long(),
    "bools": lambda z, u: z.bool(),
    "unknown": lambda z, u: torch.where(u < 0.3, NAN, torch.where(u < 0.5, -1.0, z)),
    "integers, some unknown": lambda z, u: torch.where(u < 0.4, -1, z.long()),
    "soft": lambda z, u: u,
    "soft, some unknown": lambda z, u: torch.where(u < 0.4, -1.0, u),
    "all unknown": lambda z, u: torch.full_like(z, NAN),
}


def random_case(per_bag: bool, dtype=torch.float64, num_bags=B, spread=4.0):
    generator = torch.Generator().manual_seed(3)
    o = (spread * torch.randn(num_bags, K, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    shape = (num_bags, K, 2) if per_bag else (K, 2)
    t = (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    z = torch.randint(0, 2, (num_bags, K), generator=generator).to(dtype)
    return o, t, z, torch.rand(num_bags, K, generator=generator)


def readable(o, t, labels, q, reduction="mean"):
    return q_likelihood(observe(o, torch.stack([logsigmoid(-t), logsigmoid(t)], dim=-2)), labels, q, reduction)


def values_and_gradients(loss, o, t):
    return [loss.detach(), *torch.autograd.grad(loss, (o, t))]


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("q", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("per_bag", [False, True], ids=["per label", "per bag"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "sum_labels"])
def test_it_is_the_readable_form(kind, q, per_bag, reduction):
    o, t, z, u = random_case(per_bag)
    labels = LABELS[kind](z, u)
    found = values_and_gradients(q_likelihood(o, labels, q, reduction, t), o, t)
    expected = values_and_gradients(readable(o, t, labels, q, reduction), o, t)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("per_bag", [False, True], ids=["per label", "per bag"])
def test_blocks_add_up(kind, per_bag, monkeypatch):
    """Some blocks have unknown or soft labels, some have none: each takes its own shortcut."""
    o, t, z, u = random_case(per_bag, num_bags=23)
    labels = LABELS[kind](z, u)
    labels = torch.cat([labels[:9], z[9:12].to(labels.dtype), labels[12:]])
    whole = values_and_gradients(q_likelihood(o, labels, 0.3, "sum", t), o, t)
    monkeypatch.setattr(likelihood, "_BLOCK", 3 * K)
    for ours, theirs in zip(values_and_gradients(q_likelihood(o, labels, 0.3, "sum", t), o, t), whole, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["hard", "unknown", "soft, some unknown"])
@pytest.mark.parametrize("q", [0.0, 0.7])
@pytest.mark.parametrize("per_bag", [False, True], ids=["per label", "per bag"])
def test_gradcheck(kind, q, per_bag):
    o, t, z, u = random_case(per_bag, spread=1.5)
    weights = torch.rand(B, dtype=torch.float64)
    labels = LABELS[kind](z, u)
    assert torch.autograd.gradcheck(lambda o, t: observed_loss(o, t, labels, q, weights)[0], (o, t))


@pytest.mark.parametrize("name", NOISE_MODELS)
@pytest.mark.parametrize("q", [0.0, 0.4])
def test_the_gradient_reaches_the_noise_model_and_the_features(name, q):
    noise = NOISE_MODELS[name]().double()
    o, _, z, _ = random_case(False)
    features = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        for parameter in noise.parameters():
            parameter += torch.randn_like(parameter)
    wanted = (o, *noise.parameters(), *([] if name == "fi" else [features]))
    ours = torch.autograd.grad(q_likelihood(o, z, q, "mean", noise.transition_logits(features)), wanted)
    theirs = torch.autograd.grad(q_likelihood(observe(o, noise(features)), z, q), wanted)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", NOISE_MODELS)
def test_transition_logits_are_those_of_log_q(name):
    noise = NOISE_MODELS[name]().double()
    with torch.no_grad():
        for parameter in noise.parameters():
            parameter += torch.randn_like(parameter)
    for features in (None, torch.randn(D).double(), torch.randn(B, D).double(), torch.randn(2, B, D).double()):
        found, expected = noise.transition_logits(features), transition_logits(noise, features)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [-torch.inf, -200.0, -90.0, 0.0, 90.0, 200.0])
@pytest.mark.parametrize("of_transition", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0, NAN])
@pytest.mark.parametrize("q", [0.0, 0.5])
def test_float32_stays_finite_and_is_right_at_extremes(value, of_transition, label, q):
    """An empty bag has the logit -inf; a transition of 200 is what a rate of 1e-87 has."""
    cases = []
    for dtype in (torch.float32, torch.float64):
        o = torch.full((3, 2), value, dtype=dtype, requires_grad=True)
        t = torch.tensor([[of_transition, -of_transition], [-3.0, of_transition]], dtype=dtype, requires_grad=True)
        cases.append(values_and_gradients(q_likelihood(o, torch.full((3, 2), label), q, "mean", t), o, t))
    for single, double in zip(*cases, strict=True):
        assert single.isfinite().all()
        assert torch.allclose(single.double(), double, rtol=1e-5, atol=1e-30)
    reference = readable(torch.full((3, 2), value, dtype=torch.float64), t.detach(), torch.full((3, 2), label), q)
    assert torch.allclose(cases[1][0], reference, rtol=1e-9)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_float32_is_exact_where_the_readable_form_cancels(label):
    """Where p and rho are nearly 1, the readable form loses their difference, and Adam enlarges what is left of it."""
    o, t = torch.linspace(-20, 20, 81).unsqueeze(1), torch.tensor([[-3.5, 0.8]])
    single, double = o.clone().requires_grad_(), o.double().requires_grad_()
    labels = torch.full_like(o, label)
    (ours,) = torch.autograd.grad(q_likelihood(single, labels, 0.0, "sum", t), single)
    (theirs,) = torch.autograd.grad(readable(single, t, labels, 0.0, "sum"), single)
    (exact,) = torch.autograd.grad(readable(double, t.double(), labels, 0.0, "sum"), double)
    assert torch.allclose(ours.double(), exact, rtol=1e-5, atol=0)
    assert not torch.allclose(theirs.double(), exact, rtol=1e-1, atol=0)


def test_certain_transitions_are_the_cross_entropy():
    """q01 = q10 = 0: logits of +-inf, as an identity transition has them."""
    t = torch.tensor([[-torch.inf, torch.inf]]).expand(K, 2)
    o, _, z, u = random_case(False, torch.float32)
    for labels in (z, u, torch.where(u < 0.4, NAN, z)):
        ours, theirs = q_likelihood(o, labels, 0.0, "mean", t), q_likelihood(o, labels, 0.0)
        assert torch.allclose(ours, theirs)
        for a, b in zip(torch.autograd.grad(ours, o), torch.autograd.grad(theirs, o), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def test_unknown_labels_contribute_nothing():
    o, t, _, _ = random_case(True)
    total, count = observed_loss(o, t, torch.full((B, K), NAN))
    gradients = torch.autograd.grad(total, (o, t))
    assert total == count == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_weights_count_examples():
    o, t, z, u = random_case(True)
    labels = torch.where(u < 0.4, NAN, z)
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    total, count = observed_loss(o, t, labels, 0.2, weights)
    losses = readable(o, t, labels, 0.2, "none")
    assert torch.allclose(total, (losses * weights.unsqueeze(1)).sum())
    assert torch.allclose(count, (known(labels) * weights.unsqueeze(1)).sum())


def test_shapes_strides_and_no_bags():
    o, t, z, _ = random_case(True)
    expected = q_likelihood(o, z, 0.0, "sum", t)
    columns = [part.detach().transpose(0, 1).contiguous().transpose(0, 1) for part in (o, t, z)]
    assert torch.allclose(q_likelihood(columns[0], columns[2], 0.0, "sum", columns[1]), expected)
    folded = q_likelihood(o.view(2, 3, K), z.view(2, 3, K), 0.0, "sum", t.view(2, 3, K, 2))
    assert torch.allclose(folded, expected)
    one = q_likelihood(o.view(2, 3, K), z.view(2, 3, K), 0.0, "sum", t[0])
    assert torch.allclose(one, readable(o, t[0], z, 0.0, "sum"))
    empty = q_likelihood(torch.zeros(0, K, requires_grad=True), torch.zeros(0, K), 0.0, "mean", t[0])
    empty.backward()
    assert empty == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    o, t, z, _ = random_case(True, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = q_likelihood(o, z, 0.0, "mean", t)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, q_likelihood(o.float(), z.float(), 0.0, "mean", t.float()))
    assert torch.autograd.grad(loss, o)[0].dtype == dtype


def test_backward_may_be_repeated_and_changes_no_argument():
    o, t, z, u = random_case(True)
    labels = torch.where(u < 0.4, NAN, z)
    copies = [part.detach().clone() for part in (o, t, labels)]
    loss = q_likelihood(o, labels, 0.4, "mean", t)
    first = torch.autograd.grad(loss, (o, t), retain_graph=True)
    second = torch.autograd.grad(3 * loss, (o, t))
    assert all(torch.allclose(3 * a, b) for a, b in zip(first, second, strict=True))
    for before, after in zip(copies, (o, t, labels), strict=True):
        assert torch.equal(before.nan_to_num(-7), after.detach().nan_to_num(-7))


def test_a_wrong_reduction_or_q_is_refused():
    o, t, z, _ = random_case(False)
    with pytest.raises(ValueError, match="reduction must be"):
        q_likelihood(o, z, 0.0, "none", t)
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\]"):
        q_likelihood(o, z, 2.0, "mean", t)
