"""`NoisyLabelLoss`: the parts of everything else in a criterion, what it refuses, and the snippets of docs/loss.md."""

import copy
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import truetag
from truetag import NoisyLabelLoss, optimisation
from truetag.errors import InputError
from truetag.latent import observe, posterior_logits
from truetag.losses import q_likelihood
from truetag.noise_models import make_noise_model

B, K, D = 6, 4, 3
NAN = float("nan")
NOISE = ("none", "fi", "fd", "fd-shared")
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "loss.md").read_text()
SNIPPETS = dict(re.findall(r"\n## ([^\n]*)\n.*?```python\n(.*?)```", PAGE, re.DOTALL))


def made(noise, **settings):
    criterion = NoisyLabelLoss(K, noise, num_features=D, **settings)
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return criterion


def batch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(B, K, generator=generator).mul(3).requires_grad_()
    labels = torch.randint(-1, 2, (B, K), generator=generator).float()
    return logits, labels, torch.randn(B, D, generator=generator)


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("q", [0.0, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "sum_labels"])
def test_it_is_the_composition(noise, q, reduction):
    criterion, (logits, labels, features) = made(noise, q=q, reduction=reduction), batch()
    log_q = None if noise == "none" else criterion.noise_model(features)
    observed = logits if log_q is None else observe(logits, log_q)
    assert torch.allclose(criterion(logits, labels, features), q_likelihood(observed, labels, q, reduction))
    if log_q is not None:
        expected = posterior_logits(logits, log_q, labels).sigmoid()
        assert torch.allclose(criterion.posterior(logits, labels, features), expected)
        rates = torch.stack([log_q[..., 0, 1], log_q[..., 1, 0]], dim=-1).exp()
        assert torch.allclose(criterion.rates(features), rates)
        assert criterion.rates().shape == (K, 2)


def test_without_a_noise_model_labels_are_believed():
    criterion, (logits, labels, _) = made("none"), batch()
    posterior = criterion.posterior(logits, labels)
    assert torch.equal(posterior, torch.where(labels < 0, logits.sigmoid(), labels))
    assert criterion.parameter_groups() == [*criterion.parameters()] == []
    assert not criterion.rates().any()


@pytest.mark.parametrize("noise", NOISE[1:])
def test_defaults_are_those_of_train(noise):
    criterion, model = NoisyLabelLoss(K, noise, num_features=D), make_noise_model(noise, D, K)
    assert all(torch.equal(a, b) for a, b in zip(criterion.parameters(), model.parameters(), strict=True))
    assert criterion.q == 0
    for ours, theirs in zip(criterion.parameter_groups(), model.parameter_groups(), strict=True):
        assert (ours["lr"], ours["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])
    expected = torch.tensor([optimisation.INITIAL_MISSING_RATE, optimisation.INITIAL_INCORRECT_RATE]).expand(K, 2)
    assert torch.allclose(criterion.rates(), expected)
    grouped = [parameter for group in criterion.parameter_groups() for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in criterion.parameters()}


def test_the_posterior_of_a_soft_label_is_the_expectation():
    criterion, (logits, _, _) = made("fi"), batch()
    low, high, soft = (criterion.posterior(logits, torch.full((B, K), value)) for value in (0.0, 1.0, 0.3))
    assert torch.allclose(soft, 0.7 * low + 0.3 * high)


@pytest.mark.parametrize("detach", [True, False])
def test_whether_the_gradient_reaches_the_features_is_an_option(detach):
    criterion, (logits, labels, features) = made("fd", detach_features=detach), batch()
    features.requires_grad_()
    criterion(logits, labels, features).backward()
    assert (features.grad is None) == detach
    assert logits.grad is not None
    assert all(parameter.grad is not None for parameter in criterion.parameters())


@pytest.mark.parametrize("as_labels", [torch.Tensor.long, torch.Tensor.bool, torch.Tensor.half, torch.Tensor.double])
def test_labels_of_any_dtype(as_labels):
    criterion, (logits, labels, _) = made("fi"), batch()
    labels = labels.clamp(min=0)
    assert torch.allclose(criterion(logits, as_labels(labels)), criterion(logits, labels))


@pytest.mark.parametrize("noise", NOISE)
def test_half_precision_logits_give_a_loss_in_float32(noise):
    criterion, (logits, labels, features) = made(noise), batch()
    half, expected = logits.detach().bfloat16().requires_grad_(), criterion(logits.bfloat16().float(), labels, features)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(half, labels, features.bfloat16())
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, expected, rtol=1e-2)
    loss.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


def test_more_axes_no_bags_and_nothing_known():
    criterion, (logits, labels, features) = made("fd"), batch()
    folded = criterion(logits.view(2, 3, K), labels.view(2, 3, K), features.view(2, 3, D))
    assert torch.allclose(folded, criterion(logits, labels, features))
    assert criterion(torch.zeros(0, K), torch.zeros(0, K), torch.zeros(0, D)) == 0
    loss = criterion(logits, torch.full((B, K), NAN), features)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("noise", NOISE)
def test_state_copies_and_devices(noise):
    criterion, (logits, labels, features) = made(noise), batch()
    loaded = NoisyLabelLoss(K, noise, num_features=D)
    loaded.load_state_dict(criterion.state_dict())
    for other in (loaded, copy.deepcopy(criterion)):
        assert torch.equal(other(logits, labels, features), criterion(logits, labels, features))
    double = copy.deepcopy(criterion).to(torch.float64)
    assert double(logits.double(), labels, features.double()).dtype == torch.float64
    assert criterion.to("meta").rates().device.type in ("meta", "cpu")


def test_inside_a_compiled_function():
    """The backend "eager" traces as `torch.compile` does, and needs no compiler of C++."""
    code = """if True:
        import torch
        from truetag import NoisyLabelLoss
        logits, labels = torch.randn(6, 4, requires_grad=True), torch.randint(-1, 2, (6, 4)).float()
        features = torch.randn(6, 3)
        for noise in ("none", "fi", "fd", "fd-shared"):
            criterion = NoisyLabelLoss(4, noise, num_features=3)
            step = lambda o: criterion(2 * o, labels, features)
            results = [(loss := f(logits), *torch.autograd.grad(loss, logits))
                       for f in (step, torch.compile(step, backend="eager"))]
            assert all(torch.allclose(a, b) for a, b in zip(*results)), noise
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labels": 0}, "num_labels: expected a whole number of 1 or more, got 0"),
        ({"num_labels": True}, "num_labels: expected a whole number of 1 or more, got True"),
        ({"noise": "fx"}, "noise: expected none, fi, fd or fd-shared, got 'fx'"),
        ({"noise": "fd"}, "num_features of fd: expected a whole number of 1 or more, got None"),
        ({"noise": "fd-shared", "num_features": -1}, "num_features of fd-shared: expected a whole number of 1 or more"),
        ({"q": 1.5}, "q: expected a number from 0 to 1, got 1.5"),
        ({"q": NAN}, "q: expected a number from 0 to 1, got nan"),
        ({"reduction": "none"}, "reduction: expected mean, sum or sum_labels, got 'none'"),
        ({"initial_missing_rate": 1.0}, r"initial_missing_rate: expected values in \[0, 1\), got values from 1 to 1"),
        (
            {"initial_incorrect_rate": torch.zeros(3)},
            r"initial_incorrect_rate: expected one number or 4, got shape \[3\]",
        ),
    ],
)
def test_a_wrong_setting_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        NoisyLabelLoss(**{"num_labels": K} | arguments)


@pytest.mark.parametrize("value", [2.0, 255.0, -0.5, -2.0, float("inf"), float("-inf")])
@pytest.mark.parametrize("noise", ["none", "fi"])
def test_a_value_that_is_no_label_is_refused(value, noise):
    criterion, (logits, labels, _) = made(noise), batch()
    labels[0, 0], labels[1, 1] = value, NAN
    with pytest.raises(InputError, match="labels: expected 1, 0, a number between them, or NaN or -1 for unknown, got"):
        criterion(logits, labels)
    with pytest.raises(InputError, match="labels: expected"):
        criterion.posterior(logits, labels)


def test_shapes_that_disagree_are_refused():
    criterion, (logits, labels, features) = made("fd"), batch()
    with pytest.raises(InputError, match=r"true_logits: expected shape \[.., 4\], got \[6, 3\]"):
        criterion(logits[:, 1:], labels[:, 1:], features)
    with pytest.raises(InputError, match=r"true_logits: expected floating-point numbers, got torch\.int64"):
        criterion(logits.long(), labels, features)
    with pytest.raises(InputError, match=r"labels: expected the shape of the logits, \[6, 4\], got \[5, 4\]"):
        criterion(logits, labels[1:], features)
    with pytest.raises(InputError, match=r"labels: expected the shape of the logits, \[6, 4\], got \[6\]"):
        criterion(logits, labels[:, 0].long(), features)  # class numbers
    with pytest.raises(InputError, match=r"features: expected shape \[6, 3\], as fd reads them, got None"):
        criterion(logits, labels)
    for wrong in (features[:, 1:], features[1:], features.unsqueeze(-1)):
        with pytest.raises(InputError, match=r"features: expected shape \[6, 3\], got"):
            criterion(logits, labels, wrong)
    with pytest.raises(InputError, match=r"features: expected shape \[6, 3\], got \[6, 2\]"):
        criterion.rates(features[:, 1:])


def test_it_learns_rates_and_ranks_better_than_the_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(3000, 8, generator=generator), 2 * torch.randn(8, K, generator=generator)
    truth = torch.rand(3000, K, generator=generator) < (x @ weights - 1).sigmoid()
    labels = (truth & (torch.rand(truth.shape, generator=generator) > 0.4)).float()
    classifier, criterion = nn.Linear(8, K), NoisyLabelLoss(K, noise="fi")
    groups = [
        {"params": [group["params"][0]], "lr": 0.05, "weight_decay": 0.0} for group in criterion.parameter_groups()
    ]
    optimiser = torch.optim.AdamW([{"params": [*classifier.parameters()], "lr": 0.05}, *groups], weight_decay=0.0)
    for _ in range(300):
        optimiser.zero_grad()
        criterion(classifier(x), labels).backward()
        optimiser.step()
    assert torch.allclose(criterion.rates()[:, 0], torch.tensor(0.4), atol=0.06)
    assert (criterion.rates()[:, 1] < 0.05).all()
    hidden = truth & (labels == 0)
    posterior = criterion.posterior(classifier(x), labels)
    assert posterior[hidden].mean() > 3 * posterior[~truth].mean()
    bias = (classifier(x).sigmoid() - (x @ weights - 1).sigmoid()).abs().mean()
    assert bias < 0.05  # the true probabilities, not six tenths of them


def test_it_is_public():
    assert truetag.NoisyLabelLoss is NoisyLabelLoss


def test_the_page_has_its_snippets():
    assert set(SNIPPETS) == {"A plain PyTorch loop", "timm", "Hugging Face Trainer"}


@pytest.mark.parametrize("title", ["A plain PyTorch loop", "timm"])
def test_snippets_run(title):
    names: dict = {}
    exec(SNIPPETS[title], names)
    assert names["loss"].isfinite()
    assert names["criterion"].rates().shape == (names["num_labels"], 2)
    initial = NoisyLabelLoss(names["num_labels"]).rates()
    assert not torch.allclose(names["criterion"].rates(), initial, atol=1e-6)  # its parameters are trained


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_the_snippet_for_the_trainer_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(SNIPPETS["Hugging Face Trainer"], names)
    assert not torch.allclose(names["criterion"].rates(), NoisyLabelLoss(names["num_labels"]).rates(), atol=1e-6)


def test_the_snippet_for_the_trainer_is_python():
    compile(SNIPPETS["Hugging Face Trainer"], "docs/loss.md", "exec")
