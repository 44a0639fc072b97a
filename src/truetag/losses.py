"""The losses that training minimises on observed logits: pure functions of logits and observed labels.

The composition is always objective o observe o noise model o classifier; the baseline has no noise model. The
likelihood itself is `latent.negative_log_likelihood`. Training takes objective and `observe` in one step, from true and
transition logits (`likelihood.observed_loss`).
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from truetag.latent import Reduction, known, negative_log_likelihood, normalise, reduce
from truetag.likelihood import observed_loss


def q_likelihood(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    q: float,
    reduction: Reduction = "mean",
    transition_logits: Float[Tensor, "*Q K 2"] | None = None,
    label_weights: Float[Tensor, "K"] | None = None,
) -> Float[Tensor, "*R"]:
    """(1 - p(z)^q) / q of the observed label z; q -> 0 is the likelihood, q = 1 the mean absolute error.

    On observed logits this is the generalised cross entropy of Zhang & Sabuncu (2018) seen through a noise model.

    Args:
        logits: observed logits; true logits where the transitions are given.
        labels: 1, 0, NaN or -1 for unknown; of a soft label (between 0 and 1) the loss is the expectation.
        q: 0 to 1.
        reduction: as of `negative_log_likelihood`; not "none" with transitions, which are meant for training.
        transition_logits: of a noise model; with them Eq. 5 is part of the loss, and nothing of it is stored.
        label_weights: how much each label counts, also in the mean; not with "none".

    Raises:
        ValueError: `q` is outside [0, 1], or `reduction` is none of those.

    >>> q_likelihood(torch.tensor([[0.0]]), torch.tensor([[1.0]]), q=1.0)  # 1 - p(z)
    tensor(0.5000)
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must be in [0, 1], got {q}")
    if transition_logits is not None:
        weights = None if label_weights is None else label_weights.expand(labels.shape)
        total, num_known = observed_loss(logits, transition_logits, labels, q, weights)
        return normalise(total, num_known, logits[..., 0].numel(), reduction)
    if label_weights is not None:
        losses = q_likelihood(logits, labels, q, "none") * label_weights
        return normalise(losses.sum(), (known(labels) * label_weights).sum(), logits[..., 0].numel(), reduction)
    if q == 0:
        return negative_log_likelihood(logits, labels, reduction)
    is_known = known(labels)
    logits = torch.where(is_known, logits, 0)
    labels = torch.where(is_known, labels, 0).to(logits.dtype)
    losses = -labels * torch.expm1(q * logsigmoid(logits)) / q
    losses = losses - (1 - labels) * torch.expm1(q * logsigmoid(-logits)) / q
    return reduce(torch.where(is_known, losses, 0), is_known, reduction)
