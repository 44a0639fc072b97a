"""Noise models: transitions log_q[..., k, i, j] = log p(z=i | y=j) from the true label to the observed one.

Each is a softmax over the observed value i, and each starts near the identity: one that does not can swap the meaning
of y and z, since p(z) stays the same when the classifier is negated and the columns of q are exchanged.

To add a noise model, write its class, give it a `case` in `make_noise_model`, and test it: `docs/noise_models.md`.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, log_softmax

from truetag.errors import InputError
from truetag.latent import observe
from truetag.optimisation import (
    INITIAL_INCORRECT_RATE,
    INITIAL_MISSING_RATE,
    NOISE_LEARNING_RATE,
    NOISE_WEIGHT_DECAY,
    NOISE_WEIGHT_LEARNING_RATE,
)

_BLOCK = 2**19
"""Weights of FD in a block."""

Rate = float | Float[Tensor, "K"]
ParameterGroup = dict[str, Any]
"""What a torch optimiser takes: "params", "lr" and "weight_decay"."""


@runtime_checkable
class NoiseModel(Protocol):
    """What training, prediction of p(z|I) and storage ask of a noise model, which is an `nn.Module` besides."""

    name: str
    """Its name in settings and in run folders."""

    def __call__(self, features: Any = None) -> Tensor:
        """log_q [K, 2, 2] or [B, K, 2, 2] for pooled features h(I) [B, D]; without features, at h = 0."""
        ...

    def transition_logits(self, features: Any = None) -> Tensor:
        """[..., j] is the logit of p(z=1 | y=j), [K, 2] or [B, K, 2]: log_q without the part that is redundant."""
        ...

    def missing_rate(self, features: Any = None) -> Tensor:
        """q01 = p(z=0 | y=1), [K] or [B, K]."""
        ...

    def incorrect_rate(self, features: Any = None) -> Tensor:
        """q10 = p(z=1 | y=0), [K] or [B, K]."""
        ...

    def parameter_groups(
        self, learning_rate: float = ..., weight_learning_rate: float = ..., weight_decay: float = ...
    ) -> list[ParameterGroup]:
        """Every parameter, with its own learning rate and decay."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As of `nn.Module`."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As of `nn.Module`."""
        ...

    def parameters(self) -> Any:
        """As of `nn.Module`."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As of `nn.Module`."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As of `nn.Module`."""
        ...

    def eval(self) -> Any:
        """As of `nn.Module`."""
        ...


def make_noise_model(
    name: str,
    num_features: int,
    num_labels: int,
    missing_rate: Rate = INITIAL_MISSING_RATE,
    incorrect_rate: Rate = INITIAL_INCORRECT_RATE,
) -> NoiseModel | None:
    """The noise model called `name`, untrained; None for "none".

    Args:
        name: "none", "fi" (Eq. 4), "fd" (Eq. 3) or "fd-shared".
        num_features: D, the size of h(I).
        num_labels: K.
        missing_rate: initial q01, one for all labels or one for each.
        incorrect_rate: initial q10, likewise.

    Raises:
        InputError: there is no noise model of this name.
    """
    match name:
        case "none":
            return None
        case "fi":
            return FeatureIndependentNoise(num_labels, missing_rate, incorrect_rate)
        case "fd":
            return FeatureDependentNoise(num_features, num_labels, missing_rate, incorrect_rate)
        case "fd-shared":
            return SharedFeatureNoise(num_features, num_labels, missing_rate, incorrect_rate)
    raise InputError(f"noise_model: expected none, fi, fd or fd-shared, got {name!r}")


def observed_logits(
    true_logits: Float[Tensor, "B K"], h: Float[Tensor, "B D"], noise_model: NoiseModel | None
) -> Float[Tensor, "B K"]:
    """Logits of p(z=1|I), observe o noise model o classifier [Eq. 5]; without a noise model, the true logits."""
    return true_logits if noise_model is None else observe(true_logits, noise_model(h))


def transition_logits(
    noise_model: NoiseModel, features: Float[Tensor, "*B D"] | None = None
) -> Float[Tensor, "*R K 2"]:
    """[..., j] is the logit of p(z=1 | y=j); the softmax over two values depends on their difference alone."""
    log_q = noise_model(features)
    return log_q[..., 1, :] - log_q[..., 0, :]


def missing_rate(noise_model: NoiseModel, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K"]:
    """q01 = p(z=0 | y=1), how often a true tag is missing; without features, at h = 0."""
    return noise_model(features)[..., 0, 1].exp()


def incorrect_rate(noise_model: NoiseModel, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K"]:
    """q10 = p(z=1 | y=0), how often a false tag is present; without features, at h = 0."""
    return noise_model(features)[..., 1, 0].exp()


class FeatureIndependentNoise(nn.Module):
    """One 2x2 transition per label, q^c_ij = softmax_i(b^c_ij) [Eq. 4].

    >>> FeatureIndependentNoise(2, missing_rate=0.2).missing_rate().detach()
    tensor([0.2000, 0.2000])
    """

    name = "fi"
    missing_rate = missing_rate
    incorrect_rate = incorrect_rate

    def __init__(
        self,
        num_labels: int,
        missing_rate: Rate = INITIAL_MISSING_RATE,
        incorrect_rate: Rate = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        self.biases = nn.Parameter(transition(num_labels, missing_rate, incorrect_rate))

    def forward(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "K 2 2"]:
        """log_q [Eq. 4]; the features are ignored."""
        return log_softmax(self.biases, dim=-2)

    def transition_logits(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "K 2"]:
        """The logits of p(z=1 | y=j); the features are ignored."""
        return _difference(self.biases)

    def parameter_groups(
        self,
        learning_rate: float = NOISE_LEARNING_RATE,
        weight_learning_rate: float = NOISE_WEIGHT_LEARNING_RATE,
        weight_decay: float = NOISE_WEIGHT_DECAY,
    ) -> list[ParameterGroup]:
        """The biases, which do not decay."""
        return [{"params": [self.biases], "lr": learning_rate, "weight_decay": 0.0}]


class FeatureDependentNoise(nn.Module):
    """A 2x2 transition per label and image, q^c_ij = softmax_i(u^c_ij . h(I) + b^c_ij) [Eq. 3].

    u starts at zero, so the model starts as FI. It has the classifier's capacity and could explain every observation by
    itself; its own small learning rate and its decay keep it near FI.
    """

    name = "fd"
    missing_rate = missing_rate
    incorrect_rate = incorrect_rate

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        missing_rate: Rate = INITIAL_MISSING_RATE,
        incorrect_rate: Rate = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_labels, 2, 2, num_features))
        self.biases = nn.Parameter(transition(num_labels, missing_rate, incorrect_rate))

    def forward(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K 2 2"]:
        """log_q [Eq. 3] for pooled features h(I); without features, at h = 0."""
        if features is None:
            return log_softmax(self.biases, dim=-2)
        scores = linear(features, self.weights.flatten(0, 2), self.biases.flatten())  # *B 4K
        return log_softmax(scores.unflatten(-1, self.biases.shape), dim=-2)  # *B K 2 2

    def transition_logits(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K 2"]:
        """The logits of p(z=1 | y=j) with 2K outputs instead of 4K; without features, at h = 0."""
        biases = _difference(self.biases)  # K 2
        if features is None:
            return biases
        scores: Any = _DifferenceLayer.apply(features.reshape(-1, features.shape[-1]), self.weights)  # N K 2
        return biases + scores.view(*features.shape[:-1], *biases.shape)  # *B K 2

    def parameter_groups(
        self,
        learning_rate: float = NOISE_LEARNING_RATE,
        weight_learning_rate: float = NOISE_WEIGHT_LEARNING_RATE,
        weight_decay: float = NOISE_WEIGHT_DECAY,
    ) -> list[ParameterGroup]:
        """The weights u, which learn slowly and decay, and the biases."""
        return [
            {"params": [self.weights], "lr": weight_learning_rate, "weight_decay": weight_decay},
            {"params": [self.biases], "lr": learning_rate, "weight_decay": 0.0},
        ]


class SharedFeatureNoise(nn.Module):
    """Rates of each label, shifted on the log-odds scale by what the image says about all labels alike.

    logit q^c_01 = b^c_01 + v_1 . h(I) and logit q^c_10 = b^c_10 + v_0 . h(I): some images are tagged carelessly. FD can
    take over the classifier's work because each label has a u of its own, which can say that the label is present. Here
    2 D weights serve K labels: what they add to one label they add to all, so they cannot say which label is present,
    and the K labels of each image determine them together. v starts at zero, so the model starts as FI.

    >>> SharedFeatureNoise(3, 2, missing_rate=0.2).missing_rate(torch.ones(1, 3)).detach()
    tensor([[0.2000, 0.2000]])
    """

    name = "fd-shared"
    missing_rate = missing_rate
    incorrect_rate = incorrect_rate

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        missing_rate: Rate = INITIAL_MISSING_RATE,
        incorrect_rate: Rate = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, num_features))
        self.biases = nn.Parameter(transition(num_labels, missing_rate, incorrect_rate))

    def forward(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K 2 2"]:
        """log_q for pooled features h(I); without features, at h = 0."""
        if features is None:
            return log_softmax(self.biases, dim=-2)
        scores = linear(features, self.weights)  # *B 2
        unchanged = torch.zeros_like(scores[..., 0])  # *B
        added = torch.stack([unchanged, scores[..., 1], scores[..., 0], unchanged], dim=-1)  # *B 4
        return log_softmax(self.biases + added.unflatten(-1, (1, 2, 2)), dim=-2)  # *B K 2 2

    def transition_logits(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K 2"]:
        """The logits of p(z=1 | y=j); without features, at h = 0."""
        biases = _difference(self.biases)  # K 2
        if features is None:
            return biases
        incorrect, missing = linear(features, self.weights).unbind(-1)  # *B each
        return biases + torch.stack([incorrect, -missing], dim=-1).unsqueeze(-2)  # *B K 2

    def parameter_groups(
        self,
        learning_rate: float = NOISE_LEARNING_RATE,
        weight_learning_rate: float = NOISE_WEIGHT_LEARNING_RATE,
        weight_decay: float = NOISE_WEIGHT_DECAY,
    ) -> list[ParameterGroup]:
        """The weights v, at a rate with which a step moves v . h about as far as it moves a bias, and the biases."""
        rate = learning_rate / self.weights.shape[1] ** 0.5
        return [
            {"params": [self.weights], "lr": rate, "weight_decay": 0.0},
            {"params": [self.biases], "lr": learning_rate, "weight_decay": 0.0},
        ]


class _DifferenceLayer(torch.autograd.Function):
    """(u_1j - u_0j) . h, by blocks of labels: half the products of Eq. 3, and no copy of all weights."""

    @staticmethod
    def forward(ctx: Any, h: Float[Tensor, "N D"], weights: Float[Tensor, "K 2 2 D"]) -> Float[Tensor, "N K 2"]:
        """The score of z=1 less that of z=0, for j = 0 and 1."""
        ctx.save_for_backward(h, weights)
        scores = weights.new_empty(len(h), len(weights), 2)
        for block in _label_blocks(weights):
            scores[:, block] = linear(h, _difference(weights[block]).flatten(0, 1)).unflatten(-1, (-1, 2))
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of h and of the weights; u_0j has that of u_1j with the other sign."""
        h, weights = ctx.saved_tensors
        by_h = torch.zeros_like(h) if ctx.needs_input_grad[0] else None
        by_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        for block in _label_blocks(weights):
            by_score = gradients[0][:, block].flatten(1)  # N 2k
            if by_h is not None:
                by_h += by_score @ _difference(weights[block]).flatten(0, 1)
            if by_weights is not None:
                by_present = (by_score.T @ h).unflatten(0, (-1, 2))  # k 2 D
                by_weights[block, 1] = by_present
                torch.neg(by_present, out=by_weights[block, 0])
        return by_h, by_weights


def _label_blocks(weights: Float[Tensor, "K 2 2 D"]) -> list[slice]:
    """On a CPU, so many labels at a time that their weights fit its cache."""
    size = max(_BLOCK // weights[0].numel(), 1) if weights.device.type == "cpu" else len(weights)
    return [slice(start, start + size) for start in range(0, len(weights), size)]


def _difference(scores: Float[Tensor, "K 2 *S"]) -> Float[Tensor, "K *S"]:
    """The score of z=1 less that of z=0."""
    absent, present = scores.unbind(1)  # whose gradient is one `stack`
    return present - absent


def transition(num_labels: int, missing_rate: Rate, incorrect_rate: Rate) -> Float[Tensor, "K 2 2"]:
    """log_q with the given rates, fixed: q01 = missing_rate, q10 = incorrect_rate, each a scalar or one per label.

    Raises:
        ValueError: a rate is outside [0, 1).

    >>> transition(1, missing_rate=0.5, incorrect_rate=0.25).exp()
    tensor([[[0.7500, 0.5000],
             [0.2500, 0.5000]]])
    """
    missing, incorrect = (
        torch.as_tensor(rate, dtype=torch.get_default_dtype()).expand(num_labels)
        for rate in (missing_rate, incorrect_rate)
    )
    for name, rate in (("missing_rate", missing), ("incorrect_rate", incorrect)):
        if not bool(((rate >= 0) & (rate < 1)).all()):
            raise ValueError(f"{name}: expected values in [0, 1), got values from {rate.min():g} to {rate.max():g}")
    return torch.stack([1 - incorrect, missing, incorrect, 1 - missing], dim=-1).log().unflatten(-1, (2, 2))
