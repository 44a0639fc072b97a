"""The losses that training minimises on observed logits: pure functions of logits and observed labels.

The composition is always objective o observe o noise model o classifier; the baseline has no noise model. The
likelihood itself is `latent.negative_log_likelihood`.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from truetag.latent import Reduction, known, negative_log_likelihood, reduce


def q_likelihood(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], q: float, reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """(1 - p(z)^q) / q of the observed label z; q -> 0 is the likelihood, q = 1 the mean absolute error.

    On observed logits this is the generalised cross entropy of Zhang & Sabuncu (2018) seen through a noise model.

    Args:
        logits: observed logits.
        labels: 1, 0, NaN or -1 for unknown; of a soft label (between 0 and 1) the loss is the expectation.
        q: 0 to 1.
        reduction: as of `negative_log_likelihood`.

    Raises:
        ValueError: `q` is outside [0, 1].

    >>> q_likelihood(torch.tensor([[0.0]]), torch.tensor([[1.0]]), q=1.0)  # 1 - p(z)
    tensor(0.5000)
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must be in [0, 1], got {q}")
    if q == 0:
        return negative_log_likelihood(logits, labels, reduction)
    is_known = known(labels)
    logits = torch.where(is_known, logits, 0)
    labels = torch.where(is_known, labels, 0).to(logits.dtype)
    losses = -labels * torch.expm1(q * logsigmoid(logits)) / q
    losses = losses - (1 - labels) * torch.expm1(q * logsigmoid(-logits)) / q
    return reduce(torch.where(is_known, losses, 0), is_known, reduction)
