"""The law: the hidden truth, what is observed of it, and what an observation says about it, all in log space.

Every probability is a logit. With o the true logit and log_q[..., i, j] = log p(z=i | y=j), whose columns (over i)
sum to one, dividing both sides of Eq. 5 by p(y=0) gives

    observed logit  =  log(q11 e^o + q10)  -  log(q01 e^o + q00)
    posterior logit =  o + log q_z1 - log q_z0

so Eq. 5 is two `logaddexp`, Bayes' rule is one addition, and nothing is ever clamped.
Unknown labels are NaN or -1; they contribute to no loss, no gradient and no posterior.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

Reduction = Literal["mean", "sum", "none", "sum_labels"]


def observe(true_logits: Float[Tensor, "*B K"], log_q: Float[Tensor, "*Q K 2 2"]) -> Float[Tensor, "*B K"]:
    """Logit of p(z=1|I) = sum_j q_1j p(y=j|I) [Eq. 5].

    `log_q` is [K, 2, 2] (feature-independent) or [B, K, 2, 2] (feature-dependent).

    >>> never_wrong = torch.eye(2).log().expand(1, 2, 2)
    >>> observe(torch.tensor([[0.7]]), never_wrong)
    tensor([[0.7000]])
    """
    log_odds_present = torch.logaddexp(log_q[..., 1, 1] + true_logits, log_q[..., 1, 0])
    log_odds_absent = torch.logaddexp(log_q[..., 0, 1] + true_logits, log_q[..., 0, 0])
    return log_odds_present - log_odds_absent


def posterior_logits(
    true_logits: Float[Tensor, "*B K"],
    log_q: Float[Tensor, "*Q K 2 2"],
    observed_labels: Shaped[Tensor, "*B K"],
) -> Float[Tensor, "*B K"]:
    """Logit of rho = p(y=1 | z, I) [Appendix Eq. 2]; where the label is unknown, the true logit itself.

    >>> half_missing = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]).log()  # q01 = 1/2, q10 = 0
    >>> posterior_logits(torch.zeros(1, 1), half_missing, torch.zeros(1, 1)).sigmoid()  # the tag is absent: 1/2 -> 1/3
    tensor([[0.3333]])
    """
    evidence_present = log_q[..., 1, 1] - log_q[..., 1, 0]
    evidence_absent = log_q[..., 0, 1] - log_q[..., 0, 0]
    evidence = torch.where(observed_labels == 1, evidence_present, evidence_absent)
    return true_logits + torch.where(known(observed_labels), evidence, 0)


def negative_log_likelihood(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """Cross entropy in nats of labels under logits [Eq. 1 for true, Eq. 2 and Appendix Eq. 7 for observed logits].

    Labels are 1, 0, any value between (soft labels), or unknown. "mean" averages over the known labels (0 if there are
    none), "sum" adds them up, "none" keeps one value per label (0 if unknown), and "sum_labels" is the paper's: the sum
    over labels, averaged over the batch.

    >>> negative_log_likelihood(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, float("nan")]]))
    tensor(0.6931)
    """
    is_known = known(labels)
    # filled before the cross entropy, not after: NaN * 0 would leak into the gradient
    logits = torch.where(is_known, logits, 0)
    labels = torch.where(is_known, labels, 0).to(logits.dtype)
    # not `(1 - z) o - logsigmoid(o)`: the logit of an empty bag is -inf, and inf - inf is NaN
    losses = -torch.where(labels > 0, labels * logsigmoid(logits), 0)
    losses = losses - torch.where(labels < 1, (1 - labels) * logsigmoid(-logits), 0)
    return reduce(torch.where(is_known, losses, 0), is_known, reduction)


def reduce(losses: Float[Tensor, "*B K"], is_known: Bool[Tensor, "*B K"], reduction: Reduction) -> Float[Tensor, "*R"]:
    """Reduce losses that are 0 at unknown labels; see `negative_log_likelihood`.

    Raises:
        ValueError: `reduction` is not one of the four.
    """
    if reduction == "none":
        return losses
    return normalise(losses.sum(), is_known.sum(), losses[..., 0].numel(), reduction)


def normalise(
    total: Float[Tensor, ""], num_known: Shaped[Tensor, ""], num_bags: int, reduction: Reduction
) -> Float[Tensor, ""]:
    """The sum of all losses, divided as `reduction` says.

    Args:
        total: the sum.
        num_known: how many labels are known, each counting by its weight.
        num_bags: B.
        reduction: as of `negative_log_likelihood`, but not "none".

    Raises:
        ValueError: `reduction` is not one of the four.
    """
    match reduction:
        case "sum":
            return total
        case "mean":
            return total / torch.where(num_known > 0, num_known, 1)
        case "sum_labels":
            return total / max(num_bags, 1)
        case _:
            raise ValueError(f"reduction must be 'mean', 'sum', 'none' or 'sum_labels', got {reduction!r}")


def known(labels: Shaped[Tensor, "*S"]) -> Bool[Tensor, "*S"]:
    """Where a label is known: neither NaN nor negative."""
    return labels >= 0
