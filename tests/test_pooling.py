"""Noisy-OR (Sec. 2.4) against probability space, at extremes, with masks; and its neighbours."""

import pytest
import torch

from truetag import pooling
from truetag.pooling import noisy_or


def probability_space(logits, dim):
    return 1 - (1 - logits.sigmoid()).prod(dim)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_noisy_or_is_one_minus_the_product(dim):
    logits = 2 * torch.randn(4, 3, 5, dtype=torch.float64)
    assert torch.allclose(noisy_or(logits, dim).sigmoid(), probability_space(logits, dim), rtol=0, atol=1e-14)


def test_gradient_and_its_gradient():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: noisy_or(x, 1), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: noisy_or(x, 1), (logits,))


def test_one_instance_is_itself():
    logits = torch.linspace(-200, 200, 801).unsqueeze(1)
    assert torch.allclose(noisy_or(logits, 1), logits.squeeze(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [-200.0, -60.0, -50.0, -49.9, -10.0, 0.0, 10.0, 200.0])
@pytest.mark.parametrize("num_instances", [1, 144, 10_000])
def test_ten_thousand_instances_at_extremes_stay_finite(value, num_instances):
    logits = torch.full((2, num_instances), value, requires_grad=True)
    bag = noisy_or(logits, 1)
    bag.sum().backward()
    instance = torch.tensor(value, dtype=torch.float64)
    s = num_instances * instance.exp().log1p()
    expected = s + torch.log(-torch.expm1(-s))
    assert torch.allclose(bag.double(), expected.expand(2), rtol=1e-4, atol=1e-4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    share = instance.sigmoid() / expected.sigmoid()
    assert torch.allclose(logits.grad, share.float().expand_as(logits), rtol=1e-3)


def test_rare_and_frequent_instances_mix():
    logits = torch.tensor([-200.0, -200.0, 1.0], dtype=torch.float64)
    assert noisy_or(logits, 0).item() == pytest.approx(1.0, abs=1e-14)
    rare = torch.tensor([-200.0, -199.0], dtype=torch.float64)
    assert noisy_or(rare, 0).item() == pytest.approx(torch.logsumexp(rare, 0).item(), abs=1e-12)


def test_padding_contributes_nothing_whatever_it_holds():
    logits = torch.randn(2, 3, dtype=torch.float64)
    padded = torch.cat([logits, torch.full((2, 2), float("nan"), dtype=torch.float64)], dim=1).requires_grad_()
    mask = torch.tensor([[True, True, True, False, False]])
    bag = noisy_or(padded, 1, mask)
    assert torch.equal(bag, noisy_or(logits, 1))
    (gradient,) = torch.autograd.grad(bag.sum(), padded)
    assert (gradient[:, 3:] == 0).all()
    assert (gradient[:, :3] > 0).all()


def test_an_empty_bag_is_minus_infinity_with_zero_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[False, False, False], [True, False, False]])
    bag = noisy_or(logits, 1, mask)
    bag[1].backward(retain_graph=True)
    assert bag[0] == -torch.inf
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.tensor([[0.0, 0, 0], [1, 0, 0]]))
    logits.grad = None
    bag.sum().backward()
    assert torch.equal(logits.grad, torch.tensor([[0.0, 0, 0], [1, 0, 0]]))


def test_bags_of_bags_are_bags():
    """Frames of regions, one frame empty: pooling twice is pooling at once."""
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[0, 1] = False
    once = noisy_or(logits.flatten(1), 1, mask.flatten(1))
    assert torch.allclose(noisy_or(noisy_or(logits, 2, mask), 1), once, rtol=0, atol=1e-12)


def test_mean_ignores_padding():
    logits = torch.randn(2, 5, 3)
    mask = torch.tensor([True, True, False, False, False]).view(1, 5, 1)
    assert torch.allclose(pooling.mean(logits, 1, mask), logits[:, :2].mean(1))
    assert torch.allclose(pooling.mean(logits, 1), logits.mean(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_rare_instances(dtype):
    logits = torch.full((1, 100), -20.0, dtype=dtype, requires_grad=True)
    bag = noisy_or(logits, 1)
    assert bag.item() == pytest.approx(-20 + torch.tensor(100.0).log().item(), abs=1e-3)
    (gradient,) = torch.autograd.grad(bag.sum(), logits)
    assert torch.allclose(gradient.float(), torch.full((1, 100), 0.01), rtol=1e-2)


def test_no_instances_at_all_is_an_empty_bag():
    logits = torch.zeros(2, 0, 3, requires_grad=True)
    bag = noisy_or(logits, 1)
    assert (bag == -torch.inf).all()
    assert torch.autograd.grad(bag.sum(), logits)[0].shape == (2, 0, 3)
