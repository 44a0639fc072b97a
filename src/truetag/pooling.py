"""From the logits of instances (regions, frames) to the logit of their bag [Sec. 2.4].

Noisy-OR in log space: with s = sum_r log(1 + e^{o_r}) = -log prod_r (1 - p_r), the bag's logit is log(e^s - 1), and its
derivative with respect to o_r is p_r / P. Both stay exact where 1 - prod(1 - p) would round to 0 or to 1.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

# below this s, s = P = sum_r e^{o_r} to double precision, while s itself may underflow in single
_RARE = 1e-20
# the same in exported graphs: ONNX has no expm1, and 1 - e^-s loses a small s; either way a logit is right to 2e-4
_RARE_IN_GRAPHS = 3e-4
# above this logit log(1 + e^o) = o to double precision
_CERTAIN = 40.0


def noisy_or(logits: Float[Tensor, "*S"], dim: int, mask: Bool[Tensor, "*M"] | None = None) -> Float[Tensor, "*R"]:
    """Logit of P = 1 - prod_r (1 - p_r) over `dim` [Sec. 2.4].

    `mask` broadcasts to `logits`; instances where it is False are padding and contribute nothing. An empty bag has the
    logit -inf and a zero gradient. Logits in half precision give a bag logit in single precision.

    >>> noisy_or(torch.zeros(2), dim=0).sigmoid()  # 1 - 1/2 * 1/2
    tensor(0.7500)
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # half precision cannot hold a sum over rare instances
    if mask is not None:
        # not `logits * mask`: padding may hold NaN
        logits = torch.where(mask, logits, -torch.inf)
    if logits.shape[dim] == 0:
        return logits.sum(dim) - torch.inf
    return _NoisyOr.apply(logits, dim)


def mean(logits: Float[Tensor, "*S"], dim: int, mask: Bool[Tensor, "*M"] | None = None) -> Float[Tensor, "*R"]:
    """Mean logit over `dim` (for a linear head, the logit of the mean feature); NaN for an empty bag.

    >>> mean(torch.tensor([1.0, 3.0, 9.0]), dim=0, mask=torch.tensor([True, True, False]))
    tensor(2.)
    """
    if mask is None:
        return logits.mean(dim)
    mask = mask.expand_as(logits)
    return torch.where(mask, logits, 0).sum(dim) / mask.sum(dim)


def maximum(logits: Float[Tensor, "*S"], dim: int, mask: Bool[Tensor, "*M"] | None = None) -> Float[Tensor, "*R"]:
    """Largest logit over `dim`; -inf, with zero gradient, for an empty bag.

    >>> maximum(torch.tensor([1.0, 3.0, 9.0]), dim=0, mask=torch.tensor([True, True, False]))
    tensor(3.)
    """
    if mask is not None:
        logits = torch.where(mask, logits, -torch.inf)
    if logits.shape[dim] == 0:
        return logits.sum(dim) - torch.inf
    return logits.amax(dim)


def log_mean_exp(
    logits: Float[Tensor, "*S"], dim: int, sharpness: Float[Tensor, "*K"], mask: Bool[Tensor, "*M"] | None = None
) -> Float[Tensor, "*R"]:
    """log(mean_r e^{s o_r}) / s over `dim` [Pinheiro and Collobert 2015]: mean for s -> 0, maximum for s -> inf.

    An empty bag has the logit -inf and a zero gradient.

    Args:
        logits: of the instances.
        dim: the axis of the instances.
        sharpness: s > 0; broadcasts to the result.
        mask: broadcasts to `logits`; instances where it is False are padding.

    >>> log_mean_exp(torch.tensor([1.0, 3.0]), dim=0, sharpness=torch.tensor(100.0))
    tensor(2.9931)
    """
    if mask is None:
        mask = torch.ones((), dtype=torch.bool, device=logits.device)
    mask = mask.expand_as(logits)
    count = mask.sum(dim)
    # log-sum-exp over -inf alone has no derivative: an empty bag holds zeros until the last line
    logits = torch.where(mask, logits, torch.where(count.unsqueeze(dim) > 0, -torch.inf, 0))
    sums = torch.logsumexp(logits * sharpness.expand_as(count).unsqueeze(dim), dim)
    return torch.where(count > 0, (sums - count.clamp(min=1).log()) / sharpness, -torch.inf)


class _NoisyOr(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Float[Tensor, "*S"], dim: int) -> Float[Tensor, "*R"]:
        s = softplus(logits, threshold=_CERTAIN).sum(dim)
        bag_logits = s + torch.log(-torch.expm1(-s))
        in_graph = torch.compiler.is_compiling()  # where no value can be asked for
        is_rare = s < (_RARE_IN_GRAPHS if in_graph else _RARE)
        ctx.any_rare = in_graph or bool(is_rare.any())
        if ctx.any_rare:
            bag_logits = torch.where(is_rare, torch.logsumexp(logits, dim), bag_logits)
        ctx.save_for_backward(logits, bag_logits)
        ctx.dim = dim
        return bag_logits

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "*R"]) -> tuple[Float[Tensor, "*S"], None]:
        logits, bag_logits = ctx.saved_tensors
        bag_logits = bag_logits.unsqueeze(ctx.dim)
        if not ctx.any_rare:
            return gradients[0].unsqueeze(ctx.dim) / bag_logits.sigmoid() * logits.sigmoid(), None
        # p_r / P in log space, since both may underflow; in an empty bag the difference would be inf - inf
        share = torch.where(bag_logits == -torch.inf, 0, (logsigmoid(logits) - logsigmoid(bag_logits)).exp())
        return gradients[0].unsqueeze(ctx.dim) * share, None
