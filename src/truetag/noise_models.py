"""Noise models: transitions log_q[..., k, i, j] = log p(z=i | y=j) from what people observe to what is true.

Each is a softmax over the observed value i. Each starts near the identity: one that does not can swap the meaning of y
and z, since p(z) is the same when the classifier is turned round and the columns of q are exchanged.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax

INITIAL_MISSING_RATE = 0.1
INITIAL_INCORRECT_RATE = 0.01


class FeatureIndependentNoise(nn.Module):
    """One 2x2 transition a label, q^c_ij = softmax_i(b^c_ij) [Eq. 4].

    >>> FeatureIndependentNoise(2, missing_rate=0.2).missing_rate().detach()
    tensor([0.2000, 0.2000])
    """

    def __init__(
        self,
        num_labels: int,
        missing_rate: float | Float[Tensor, "K"] = INITIAL_MISSING_RATE,
        incorrect_rate: float | Float[Tensor, "K"] = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        self.biases = nn.Parameter(transition(num_labels, missing_rate, incorrect_rate))

    def forward(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "K 2 2"]:
        """log_q [Eq. 4]; the features are not looked at."""
        return log_softmax(self.biases, dim=-2)

    def missing_rate(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "K"]:
        """q01 = p(z=0 | y=1): how often a true tag is missing."""
        return self(features)[..., 0, 1].exp()

    def incorrect_rate(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "K"]:
        """q10 = p(z=1 | y=0): how often a false tag is there."""
        return self(features)[..., 1, 0].exp()


class FeatureDependentNoise(nn.Module):
    """A 2x2 transition a label and image, q^c_ij = softmax_i(u^c_ij . h(I) + b^c_ij) [Eq. 3].

    u starts at zero, so that it starts as FI. It has the classifier's capacity and can explain every observation by
    itself; what keeps it near FI is its own small learning rate and weight decay (`training`).
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        missing_rate: float | Float[Tensor, "K"] = INITIAL_MISSING_RATE,
        incorrect_rate: float | Float[Tensor, "K"] = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_labels, 2, 2, num_features))
        self.biases = nn.Parameter(transition(num_labels, missing_rate, incorrect_rate))

    def forward(self, features: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K 2 2"]:
        """log_q [Eq. 3] for pooled features h(I)."""
        scores = linear(features, self.weights.flatten(0, 2), self.biases.flatten())
        return log_softmax(scores.unflatten(-1, self.biases.shape), dim=-2)

    def missing_rate(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K"]:
        """q01 = p(z=0 | y=1, I); without features, at h = 0."""
        return self._log_q(features)[..., 0, 1].exp()

    def incorrect_rate(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K"]:
        """q10 = p(z=1 | y=0, I); without features, at h = 0."""
        return self._log_q(features)[..., 1, 0].exp()

    def _log_q(self, features: Tensor | None) -> Tensor:
        return log_softmax(self.biases, dim=-2) if features is None else self(features)


class SharedFeatureNoise(nn.Module):
    """Rates of each label, and on the scale of their log-odds what the image adds to those of all labels alike.

    logit q^c_01 = b^c_01 + v_1 . h(I) and logit q^c_10 = b^c_10 + v_0 . h(I): some images are tagged carelessly. FD can
    take over the classifier's work because each label has a u of its own, which can say that the label is there. Here
    2 D weights serve K labels: what they add to one they add to all, so they cannot say which label is there, and the
    votes of K labels on each image determine them. v starts at zero: as FI.

    >>> SharedFeatureNoise(3, 2, missing_rate=0.2).missing_rate(torch.ones(1, 3)).detach()
    tensor([[0.2000, 0.2000]])
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        missing_rate: float | Float[Tensor, "K"] = INITIAL_MISSING_RATE,
        incorrect_rate: float | Float[Tensor, "K"] = INITIAL_INCORRECT_RATE,
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, num_features))
        self.biases = nn.Parameter(transition(num_labels, missing_rate, incorrect_rate))

    def forward(self, features: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K 2 2"]:
        """log_q for pooled features h(I)."""
        scores = linear(features, self.weights)
        kept = torch.zeros_like(scores[..., 0])
        added = torch.stack([kept, scores[..., 1], scores[..., 0], kept], dim=-1).unflatten(-1, (1, 2, 2))
        return log_softmax(self.biases + added, dim=-2)

    def missing_rate(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K"]:
        """q01 = p(z=0 | y=1, I); without features, at h = 0."""
        return self._log_q(features)[..., 0, 1].exp()

    def incorrect_rate(self, features: Float[Tensor, "*B D"] | None = None) -> Float[Tensor, "*R K"]:
        """q10 = p(z=1 | y=0, I); without features, at h = 0."""
        return self._log_q(features)[..., 1, 0].exp()

    def _log_q(self, features: Tensor | None) -> Tensor:
        return log_softmax(self.biases, dim=-2) if features is None else self(features)


def transition(
    num_labels: int, missing_rate: float | Float[Tensor, "K"], incorrect_rate: float | Float[Tensor, "K"]
) -> Float[Tensor, "K 2 2"]:
    """log_q with the given rates, fixed: q01 = missing_rate, q10 = incorrect_rate, scalar or one a label.

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
            raise ValueError(f"{name} must be in [0, 1), got values from {rate.min():g} to {rate.max():g}")
    return torch.stack([1 - incorrect, missing, incorrect, 1 - missing], dim=-1).log().unflatten(-1, (2, 2))
