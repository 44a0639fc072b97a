"""Published losses that our noise models are compared with: pure functions of logits and observed labels.

Labels are 1, 0, or unknown (NaN or -1); `reduction` is that of `latent.negative_log_likelihood`, called BCE below.
Below, p = sigmoid(logit), z is the observed label, and p_z is its probability, p or 1 - p. Not written again:

    forward correction (Patrini et al. 2017)        negative_log_likelihood(observe(logits, log_q), labels), log_q fixed
    generalised cross entropy (Zhang & Sabuncu 2018)        objectives.q_likelihood(logits, labels, q=0.7)

Unknown labels are filled before a loss is computed, not after: NaN * 0 would leak into the gradient.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from truetag.latent import Reduction, known, negative_log_likelihood, observe, reduce


def weak_negatives(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    negative_weight: float | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """BCE whose negatives weigh 1 / (K - 1), so that all of them count as one positive [WAN, Cole et al. 2021].

    `negative_weight` overrides 1 / (K - 1).

    >>> weak_negatives(torch.zeros(1, 3), torch.tensor([[1, 0, 0]]), reduction="sum")  # log 2 + 2 * log 2 / 2
    tensor(1.3863)
    """
    if negative_weight is None:
        negative_weight = 1 / max(logits.shape[-1] - 1, 1)
    losses = negative_log_likelihood(logits, labels, "none")
    return _reduce(torch.where(labels == 1, losses, negative_weight * losses), labels, reduction)


def label_smoothing(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], smoothing: float = 0.1, reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """BCE with (1 - e) z + e / 2 for z: both values are smoothed towards 1/2 [AN-LS, Cole et al. 2021].

    `smoothing` e is Szegedy et al.'s (2016) with two classes; the code of Cole et al. swaps with e itself, twice ours.

    Raises:
        ValueError: `smoothing` is outside [0, 1].

    >>> label_smoothing(torch.tensor([[19.0]]).log(), torch.ones(1, 1))  # least at p = 0.95: the entropy of 0.05
    tensor(0.1985)
    """
    _check_share("smoothing", smoothing)
    return negative_log_likelihood(logits, _blend(labels, torch.full_like(logits, 0.5), smoothing), reduction)


def focal_loss(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    gamma: float = 2.0,
    alpha: float | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """-(1 - p_z)^gamma log p_z: what is predicted well counts little [Lin et al. 2017].

    With `alpha`, positives weigh alpha and negatives 1 - alpha (0.25 in the paper).

    >>> focal_loss(torch.zeros(1, 1), torch.ones(1, 1))  # log(2) / 4
    tensor(0.1733)
    """
    losses = _focal(_signed(_fill(logits, labels), labels), gamma)
    if alpha is not None:
        losses = torch.where(labels == 1, alpha * losses, (1 - alpha) * losses)
    return _reduce(losses, labels, reduction)


def asymmetric_loss(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """Focal loss whose negatives have their own gamma and are shifted [ASL, Ridnik et al. 2021].

    -(1 - p)^gamma+ log p for positives; -s^gamma- log(1 - s) with s = max(p - margin, 0) for negatives. The defaults
    are those of the authors' class and of timm.

    Raises:
        ValueError: `margin` is outside [0, 1].

    >>> asymmetric_loss(torch.tensor([[-3.0]]), torch.zeros(1, 1))  # p = 0.047 is below the margin
    tensor(0.)
    """
    _check_share("margin", margin)
    logits = _fill(logits, labels)
    probabilities = logits.sigmoid()
    is_counted = probabilities > margin
    # not clamped at 0, where a power below 1 has no derivative
    shifted = torch.where(is_counted, probabilities - margin, 1)
    log_absent = torch.logaddexp(logsigmoid(-logits), logits.new_tensor(margin).log())
    negatives = torch.where(is_counted, -(shifted**gamma_negative) * log_absent, 0)
    return _reduce(torch.where(labels == 1, _focal(logits, gamma_positive), negatives), labels, reduction)


def hill_loss(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    peak: float = 1.5,
    margin: float = 1.0,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """(peak - p) p^2 for negatives, so that the most surprising ones teach less [Hill, Zhang et al. 2021].

    Positives: the focal loss of the logit less `margin`. `peak` is the paper's lambda.

    >>> hill_loss(torch.zeros(1, 1), torch.zeros(1, 1))  # (3/2 - 1/2) / 4
    tensor(0.2500)
    """
    logits = _fill(logits, labels)
    probabilities = logits.sigmoid()
    negatives = (peak - probabilities) * probabilities**2
    return _reduce(torch.where(labels == 1, _focal(logits - margin, gamma), negatives), labels, reduction)


def splc_loss(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    is_warm: bool = True,
    threshold: float = 0.6,
    margin: float = 1.0,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """Focal loss that takes a negative with p > threshold for a positive [self-paced correction, Zhang et al. 2021].

    `is_warm` turns the correction on: published, from the second epoch. `margin` is subtracted from the logits of
    observed positives alone, as in the authors' code.

    >>> certain, absent = torch.tensor([[5.0]]), torch.zeros(1, 1)
    >>> splc_loss(certain, absent, is_warm=False) > 100 * splc_loss(certain, absent)
    tensor(True)
    """
    is_missing = (labels == 0) & (logits.sigmoid() > threshold) & is_warm
    logits = torch.where(labels == 1, logits - margin, logits)
    return focal_loss(logits, torch.where(is_missing, 1, labels), gamma, reduction=reduction)


def symmetric_cross_entropy(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """-alpha log p_z - beta log_zero (1 - p_z): BCE, and BCE with p and z exchanged [Wang et al. 2019].

    `log_zero` stands for log 0, the paper's A.

    >>> symmetric_cross_entropy(torch.zeros(1, 1), torch.ones(1, 1))  # log(2) / 10 + 4 / 2
    tensor(2.0693)
    """
    signed = _signed(_fill(logits, labels), labels)
    return _reduce(-alpha * logsigmoid(signed) - beta * log_zero * (-signed).sigmoid(), labels, reduction)


def soft_bootstrapping(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], beta: float = 0.95, reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """BCE with beta z + (1 - beta) p for z [Reed et al. 2015].

    The target is not detached, as in the paper: its second part is the entropy of p, which is minimised.

    Raises:
        ValueError: `beta` is outside [0, 1].

    >>> soft_bootstrapping(torch.tensor([[2.0]]), torch.zeros(1, 1), beta=0.0)  # the entropy alone
    tensor(0.3653)
    """
    _check_share("beta", beta)
    return negative_log_likelihood(logits, _blend(labels, _fill(logits, labels).sigmoid(), 1 - beta), reduction)


def hard_bootstrapping(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], beta: float = 0.8, reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """BCE with beta z + (1 - beta) [p > 1/2] for z; a decision has no gradient [Reed et al. 2015].

    Raises:
        ValueError: `beta` is outside [0, 1].

    >>> hard_bootstrapping(torch.tensor([[2.0]]), torch.zeros(1, 1), beta=0.0)  # -log p
    tensor(0.1269)
    """
    _check_share("beta", beta)
    return negative_log_likelihood(logits, _blend(labels, (logits > 0).to(logits.dtype), 1 - beta), reduction)


def large_losses(logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], share: float) -> Bool[Tensor, "*B K"]:
    """Which labels 0 of the batch have its largest losses: `share` of them, rounded up [Kim et al. 2022].

    Their LL-Cp is this with share = 0.002 in each epoch after the first, and `torch.where(large, 1, labels)` written
    back into the data. (Their code takes the share of all labels, their paper of those that are 0.)

    Raises:
        ValueError: `share` is outside [0, 1].

    >>> large_losses(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[1, 0, 0, 0]]), share=0.3)
    tensor([[False,  True, False, False]])
    """
    _check_share("share", share)
    is_absent = labels == 0
    # the loss of a label 0 grows with its logit
    scores = torch.where(is_absent, logits.detach(), -torch.inf).flatten()
    ranks = scores.argsort(descending=True, stable=True).argsort()
    return (ranks < share * is_absent.sum()).view_as(labels) & is_absent


def reject_large_losses(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], rejected_share: float, reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """BCE without the largest losses of labels 0 [LL-R, Kim et al. 2022].

    Published: `rejected_share` = 0.002 (epoch - 1), epochs counted from 1. "mean" divides by all known labels, also
    the rejected ones.

    Raises:
        ValueError: `rejected_share` is outside [0, 1].

    >>> reject_large_losses(torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2), rejected_share=0.5, reduction="none")
    tensor([[0.0000, 0.6931]])
    """
    losses = negative_log_likelihood(logits, labels, "none")
    return _reduce(torch.where(large_losses(logits, labels, rejected_share), 0, losses), labels, reduction)


def correct_large_losses(
    logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], corrected_share: float, reduction: Reduction = "mean"
) -> Float[Tensor, "*R"]:
    """BCE that takes labels 0 with the largest losses for 1, in this batch only [LL-Ct, Kim et al. 2022].

    `corrected_share` as in `reject_large_losses`.

    Raises:
        ValueError: `corrected_share` is outside [0, 1].

    >>> correct_large_losses(torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2), corrected_share=0.5, reduction="none")
    tensor([[1.2340e-04, 6.9315e-01]])
    """
    is_large = large_losses(logits, labels, corrected_share)
    return negative_log_likelihood(logits, torch.where(is_large, 1, labels), reduction)


def expected_positives(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    expected: float,
    weight: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """-log p for positives, nothing for negatives, and a penalty on their number [EPR, Cole et al. 2021].

    The penalty is `weight` ((predicted - expected) / K)^2; `expected` is how many positives the known labels of an
    image have, predicted the sum of p over them, averaged over the batch. Every known label carries the penalty, so
    that "mean" is the published loss.

    >>> expected_positives(torch.zeros(1, 4), torch.tensor([[1, 0, 0, 0]]), expected=1.0)  # log(2) / 4 + (1 / 4)^2
    tensor(0.2358)
    """
    filled = _fill(logits, labels)
    predicted = torch.where(known(labels), filled.sigmoid(), 0).sum(-1).mean()
    penalty = weight * ((predicted - expected) / logits.shape[-1]) ** 2
    return _reduce(torch.where(labels == 1, -logsigmoid(filled), 0) + penalty, labels, reduction)


def backward_correction(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    missing_rate: float | Float[Tensor, "K"],
    incorrect_rate: float | Float[Tensor, "K"],
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """BCE with (z - q10) / (1 - q01 - q10) for z: its mean over z is the BCE of y [Patrini et al. 2017].

    Natarajan et al. (2013) for two classes. That target is outside [0, 1], so the loss is not bounded from below.

    Raises:
        ValueError: `missing_rate` + `incorrect_rate` is 1 or more for some label.

    >>> backward_correction(torch.zeros(1, 1), torch.ones(1, 1), missing_rate=0.5, incorrect_rate=0.0)
    tensor(0.6931)
    """
    total = torch.as_tensor(missing_rate + incorrect_rate)
    if bool((total >= 1).any()):
        raise ValueError(f"missing_rate + incorrect_rate must be below 1, got {total.max():g}")
    logits = _fill(logits, labels)
    targets = ((labels == 1).to(logits.dtype) - incorrect_rate) / (1 - missing_rate - incorrect_rate)
    return _reduce(-targets * logsigmoid(logits) - (1 - targets) * logsigmoid(-logits), labels, reduction)


def importance_reweighting(
    logits: Float[Tensor, "*B K"],
    labels: Shaped[Tensor, "*B K"],
    log_q: Float[Tensor, "*Q K 2 2"],
    differentiate_weight: bool = False,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*R"]:
    """BCE of the true logits under observed labels, weighted by p(y=z|I) / p(z|I) [Liu & Tao 2016].

    p(z|I) is `latent.observe`, and the weight is a constant. With `differentiate_weight` it is not, and this is
    T-revision (Xia et al. 2019): there log_q = log_softmax(log T + slack, dim=-2) with a learnable slack that starts at
    0 (published: added to T itself, whose rows then need not sum to one), which learns through the weight alone.

    >>> half_missing = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]).log()  # q01 = 1/2, q10 = 0
    >>> importance_reweighting(torch.zeros(1, 1), torch.ones(1, 1), half_missing)  # (1/2 over 1/4) * log 2
    tensor(1.3863)
    """
    logits = _fill(logits, labels)
    log_likelihood = logsigmoid(_signed(logits, labels))
    weight = (log_likelihood - logsigmoid(_signed(observe(logits, log_q), labels))).exp()
    return _reduce(-(weight if differentiate_weight else weight.detach()) * log_likelihood, labels, reduction)


def anchor_rates(
    probabilities: Float[Tensor, "N K"], quantile: float = 0.97
) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
    """Missing and incorrect rate of each label from p(z=1|I), where y is surely 1 and surely 0 [Patrini et al. 2017].

    With q01 + q10 < 1, p(z=1|I) is 1 - q01 at most and q10 at least, reached at anchors (Liu & Tao 2016: the extremes).
    `quantile` keeps outliers out; it must exceed 1 - the share of images that have the label, else no anchor is left
    and the missing rate comes out near 1 for rare labels.

    Raises:
        ValueError: `quantile` is outside [0.5, 1].

    >>> anchor_rates(torch.tensor([[0.1], [0.2], [0.7]]), quantile=1.0)
    (tensor([0.3000]), tensor([0.1000]))
    """
    if not 0.5 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0.5, 1], got {quantile}")
    return 1 - probabilities.quantile(quantile, dim=0), probabilities.quantile(1 - quantile, dim=0)


def _fill(logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """The logits, 0 where the label is unknown."""
    return torch.where(known(labels), logits, 0)


def _signed(logits: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """The logit of p_z."""
    return torch.where(labels == 1, logits, -logits)


def _focal(logits: Float[Tensor, "*B K"], gamma: float) -> Float[Tensor, "*B K"]:
    """-(1 - p)^gamma log p."""
    return -(gamma * logsigmoid(-logits)).exp() * logsigmoid(logits)


def _blend(labels: Shaped[Tensor, "*B K"], others: Float[Tensor, "*B K"], share: float) -> Float[Tensor, "*B K"]:
    """(1 - share) labels + share others where labels are known; elsewhere they stay unknown."""
    labels = labels.to(others.dtype)
    return torch.where(known(labels), (1 - share) * labels + share * others, labels)


def _reduce(losses: Float[Tensor, "*B K"], labels: Shaped[Tensor, "*B K"], reduction: Reduction) -> Float[Tensor, "*R"]:
    is_known = known(labels)
    return reduce(torch.where(is_known, losses, 0), is_known, reduction)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
