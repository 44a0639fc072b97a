"""The loss of observed labels straight from true logits [Eq. 5 and Eq. 2], in one pass with its derivatives.

`losses.q_likelihood(latent.observe(true_logits, log_q), labels, q)` computes the same and is the form to read. It
stores every intermediate array for the backward pass; this form works through blocks of rows that fit the processor's
cache, and stores the derivatives alone. With o the true logit, t_j = logit p(z=1 | y=j) the two transition logits, and
L(x) = log(1 + e^-|x|),

    log p(z, y=1) + L(o) = log q_z1 + min(o, 0)
    log p(z, y=0) + L(o) = log q_z0 - max(o, 0)

Their `logaddexp` is log p(z) + L(o), their difference d is the posterior logit, and with rho = sigmoid(d)

    -d log p(z) / do   = p - rho                           [Appendix Eq. 12]
    -d log p(z) / dt_j = -p(y=j|z) d log q_zj / dt_j       where p(y=1|z) = rho
"""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

_BLOCK = 2**16
"""Values in a block on a CPU: fewer cost more calls than they save, more leave the cache."""

_Side = tuple[Float[Tensor, "2 _ K"], Float[Tensor, "2 _ K"]]
"""Of one observed value z, for j = 0 and 1: log q_zj, and its derivative in t_j."""


def observed_loss(
    true_logits: Float[Tensor, "*B K"],
    transition_logits: Float[Tensor, "*Q K 2"],
    labels: Shaped[Tensor, "*B K"],
    q: float = 0.0,
    weights: Float[Tensor, "*W"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss (1 - p(z)^q) / q of the known labels, added up; where q is 0, -log p(z) in nats.

    Computed in float32, or in float64 where the logits are: also from half-precision logits and under autocast. It can
    be differentiated once.

    Args:
        true_logits: of p(y=1|I).
        transition_logits: [..., j] is the logit of p(z=1 | y=j), per label or per bag and label.
        labels: 1, 0, NaN or -1 for unknown; of a soft label (between 0 and 1) the loss is the expectation.
        q: 0 to 1.
        weights: how much each bag [*B], or each label of a bag [*B, K], counts.

    Returns:
        The sum, and the number of known labels, each counting by its weight.
    """
    dtype = torch.promote_types(true_logits.dtype, torch.float32)
    num_labels = true_logits.shape[-1]
    if transition_logits.dim() > 2:
        transition_logits = transition_logits.expand(*true_logits.shape, 2)
    return _ObservedLoss.apply(  # pyright: ignore[reportReturnType]
        true_logits.to(dtype).reshape(-1, num_labels),
        transition_logits.to(dtype).reshape(-1, num_labels, 2).movedim(-1, 0),
        labels.reshape(-1, num_labels),
        q,
        None if weights is None else weights.to(dtype).reshape(-1, num_labels if weights.ndim == labels.ndim else 1),
    )


class _ObservedLoss(torch.autograd.Function):
    """`observed_loss` of flat arrays."""

    @staticmethod
    def forward(
        ctx: Any,
        true_logits: Float[Tensor, "N K"],
        transition_logits: Float[Tensor, "2 R K"],
        labels: Shaped[Tensor, "N K"],
        q: float,
        weights: Float[Tensor, "N W"] | None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The sum and the number of known labels; the derivatives are kept.

        Args:
            ctx: keeps them.
            true_logits: in float32 or float64.
            transition_logits: t_0 and t_1; R is 1 where they are per label alone, else N.
            labels: as of `observed_loss`.
            q: as of `observed_loss`.
            weights: as of `observed_loss`.
        """
        by_logit = torch.zeros_like(true_logits, memory_format=torch.contiguous_format)
        by_transition = torch.zeros_like(transition_logits, memory_format=torch.contiguous_format)
        total, count = true_logits.new_zeros(()), true_logits.new_zeros(())
        num_bags, num_labels = true_logits.shape
        is_shared = transition_logits.shape[1] == 1
        sides = _sides(transition_logits) if is_shared else None
        size = max(_BLOCK // max(num_labels, 1), 1) if true_logits.device.type == "cpu" else max(num_bags, 1)
        for start in range(0, num_bags, size):
            rows = slice(start, start + size)
            z, counted = _fill(labels[rows].to(true_logits.dtype), None if weights is None else weights[rows])
            count += z.numel() if counted is None else counted.sum()
            by = by_logit[rows], by_transition if is_shared else by_transition[:, rows]
            for side, weight in _expectation(z, counted, sides or _sides(transition_logits[:, rows])):
                total += _add_derivatives(true_logits[rows], side, weight, q, *by)
        ctx.save_for_backward(by_logit, by_transition)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The derivatives, times that of what the sum became part of."""
        (by_logit, by_transition), gradient = ctx.saved_tensors, gradients[0]
        return by_logit * gradient, by_transition * gradient, None, None, None


def _sides(transition_logits: Float[Tensor, "2 R K"]) -> tuple[_Side, _Side]:
    """z = 1 and z = 0. A probability of 0 has a finite log, so that it can be weighted by 0."""
    t = transition_logits.contiguous()
    log_present, log_absent = (logsigmoid(values).clamp_(min=torch.finfo(t.dtype).min) for values in (t, -t))
    return (log_present, torch.sigmoid(-t)), (log_absent, torch.sigmoid(t).neg_())


def _fill(
    labels: Float[Tensor, "N K"], weights: Float[Tensor, "N W"] | None
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"] | None]:
    """Labels with 0 where they are unknown, and how much each counts; None where all count 1.

    Masks are floats: on a CPU that takes a quarter of the time of bools.
    """
    if labels.device.type == "cpu" and labels.numel() and labels.min() >= 0:  # not so where one is NaN
        return labels, None if weights is None else weights.expand_as(labels)
    labels = labels.nan_to_num(nan=-1.0)
    counted = labels.clone().ge_(0)
    return labels.clamp_(min=0), counted if weights is None else counted.mul_(weights)


def _expectation(
    z: Float[Tensor, "N K"], counted: Float[Tensor, "N K"] | None, sides: tuple[_Side, _Side]
) -> list[tuple[_Side, Float[Tensor, "N K"] | None]]:
    """The sides that make up the loss, with their weights: both if labels are soft; else one, picked for each label."""
    present, absent = sides
    not_z = 1 - z
    if z.device.type == "cpu" and not torch.dot(z.flatten(), not_z.flatten()):
        log_q, slopes = (torch.lerp(of_0, of_1, z) for of_0, of_1 in zip(absent, present, strict=True))
        return [((log_q, slopes), counted)]
    if counted is not None:
        z, not_z = z * counted, not_z.mul_(counted)
    return [(present, z), (absent, not_z)]


def _add_derivatives(
    o: Float[Tensor, "N K"],
    side: _Side,
    weights: Float[Tensor, "N K"] | None,
    q: float,
    by_logit: Float[Tensor, "N K"],
    by_transition: Float[Tensor, "2 R K"],
) -> Float[Tensor, ""]:
    """The weighted loss of one side, added up; its derivatives are added to the last two arguments."""
    (log_q0, log_q1), slopes = side
    p, not_p = torch.sigmoid(o), torch.sigmoid(-o)
    joint0, joint1 = log_q0 - o.clamp(min=0), log_q1 + o.clamp(max=0)
    d = joint1 - joint0
    rho = torch.sigmoid(d)
    not_rho = torch.sigmoid_(d.neg_())
    # p - rho, exact also where both are nearly 1
    gradient = (p * not_rho).addcmul_(not_p, rho, value=-1)
    # L(d) - L(o) = log(sigmoid(|o|) / sigmoid(|d|)), as a log1p that is exact near 0, too
    log_p = torch.minimum(rho, not_rho).sub_(torch.minimum(p, not_p, out=p))
    log_p = log_p.div_(torch.maximum(rho, not_rho)).log1p_().add_(torch.maximum(joint0, joint1, out=joint0))
    if q:
        factor = log_p.mul_(q).exp()  # p(z)^q
        loss = _dot(log_p.expm1_(), weights) / -q
        weights = factor if weights is None else factor.mul_(weights)
    else:
        loss = -_dot(log_p, weights)
    if weights is not None:
        gradient, rho, not_rho = gradient.mul_(weights), rho.mul_(weights), not_rho.mul_(weights)
    by_logit += gradient
    for j, posterior in enumerate((not_rho, rho)):
        by_transition[j] -= posterior.mul_(slopes[j]).sum_to_size(by_transition[j].shape)
    return loss


def _dot(values: Float[Tensor, "N K"], weights: Float[Tensor, "N K"] | None) -> Float[Tensor, ""]:
    return values.sum() if weights is None else torch.dot(values.flatten(), weights.flatten())
