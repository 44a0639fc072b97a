"""The q-likelihood between its two limits."""

import pytest
import torch

from truetag.latent import negative_log_likelihood
from truetag.losses import q_likelihood


def test_small_q_is_the_likelihood():
    logits, labels = torch.randn(4, 3, dtype=torch.float64), torch.randint(0, 2, (4, 3))
    expected = negative_log_likelihood(logits, labels)
    assert torch.allclose(q_likelihood(logits, labels, q=1e-6), expected, rtol=1e-4)
    assert torch.equal(q_likelihood(logits, labels, q=0.0), expected)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_is_generalised_cross_entropy(q):
    logits, labels = torch.randn(4, 3, dtype=torch.float64), torch.randint(0, 2, (4, 3))
    p = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid())
    assert torch.allclose(q_likelihood(logits, labels, q), ((1 - p**q) / q).mean())


@pytest.mark.parametrize("q", [0.0, 0.4, 1.0])
def test_of_a_soft_label_it_is_the_expectation(q):
    logits, share = torch.randn(5, 2, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    present, absent = (q_likelihood(logits, torch.full_like(logits, value), q, "none") for value in (1.0, 0.0))
    assert torch.allclose(q_likelihood(logits, share, q, "none"), share * present + (1 - share) * absent)


def test_unknown_labels_contribute_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan, -1.0], [0.0, 1.0, torch.nan]])
    loss = q_likelihood(logits, labels, 0.5, "sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient != 0, labels >= 0)


def test_extremes_stay_finite():
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = q_likelihood(logits, torch.tensor([[1.0, 0.0]]), 0.5)
    assert loss.item() == pytest.approx(2.0)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_q_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"got 1\.5"):
        q_likelihood(torch.zeros(1, 1), torch.zeros(1, 1), 1.5)
