"""The head of every classifier here: a linear layer on standardised features. It knows nothing of noise models."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

EMBEDDING_WIDTH = 64
_SMALLEST_FREQUENCY = 1e-4
_SMALLEST_DEVIATION = 1e-2
_SMALLEST_WEIGHT = 1e-30
_ROUNDING = 1e-6


def uses_layer_norm(num_features: int, given: bool | None) -> bool:
    """Whether examples are normalised over their features first: as given, else from `EMBEDDING_WIDTH` features on."""
    return num_features >= EMBEDDING_WIDTH if given is None else given


class Standardisation(nn.Module):
    """Features with zero mean and unit deviation: over the channels of an example (optional), then per channel.

    The second step uses the statistics of the training data (`set_statistics`); before that it changes nothing. The
    last `num_separate` channels, if any, are normalised apart from the others.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, num_features: int, layer_norm: bool, num_separate: int = 0) -> None:
        super().__init__()
        self.layer_norm, self.num_separate = layer_norm, num_separate
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))

    def forward(self, features: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """The standardised features."""
        return (self._normalise(features) - self.mean) / self.deviation

    @torch.no_grad()
    def set_statistics(self, batches: Iterable[Float[Tensor, "*N D"]]) -> None:
        """Take the mean and the deviation of each channel from training features."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            values = self._normalise(batch).flatten(0, -2).double()  # M D
            count, total, squares = count + len(values), total + values.sum(0), squares + values.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        if self.layer_norm:
            deviation = deviation.clamp(min=_SMALLEST_DEVIATION)
        else:  # features may be in any unit; a channel that is constant but for rounding is ignored
            deviation = torch.where(deviation > _ROUNDING * mean.abs(), deviation, torch.inf)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def _normalise(self, features: Tensor) -> Tensor:
        if not self.layer_norm:
            return features
        if not self.num_separate:
            return layer_norm(features, features.shape[-1:])
        parts = features.tensor_split([features.shape[-1] - self.num_separate], -1)
        return torch.cat([layer_norm(part, part.shape[-1:]) for part in parts], -1)


class Head(nn.Module):
    """p(y|x) as a logit: a linear layer on standardised features, with dropout while it trains.

    Its weights start at zero, so that the first prediction is the bias: each label's frequency (`set_prior`).

    Args:
        num_features: D.
        num_labels: K.
        layer_norm: normalise each example over its features first.
        dropout: probability that a feature is dropped while training.
        num_unread: the last features that the linear layer does not read; a noise model does.
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        layer_norm: bool = False,
        dropout: float = 0.0,
        num_unread: int = 0,
    ) -> None:
        super().__init__()
        self.standardise = Standardisation(num_features, layer_norm, num_unread)
        self.weight = nn.Parameter(torch.zeros(num_labels, num_features - num_unread))
        self.bias = nn.Parameter(torch.zeros(num_labels))
        self.dropout = dropout

    def forward(self, features: Float[Tensor, "*N D"]) -> Float[Tensor, "*N K"]:
        """True logits."""
        return self.logits(self.standardise(features))

    def logits(
        self, h: Float[Tensor, "*N D"], generator: torch.Generator | None = None, shared_axis: int | None = None
    ) -> Float[Tensor, "*N K"]:
        """True logits of standardised features h, some of which are dropped while training.

        Args:
            h: standardised features.
            generator: decides which features are dropped; torch's own without it.
            shared_axis: what is dropped is dropped along this whole axis (from all regions of a frame at once: the
                neighbouring regions would reveal it [Tompson et al. 2015]).
        """
        h = h[..., : self.weight.shape[1]]
        if self.training and self.dropout:
            shape = list(h.shape)
            if shared_axis is not None:
                shape[shared_axis] = 1
            # what torch's dropout does, in a third of its time on a CPU
            kept = torch.rand(shape, generator=generator, device=h.device, dtype=h.dtype) >= self.dropout
            h = h * kept / (1 - self.dropout)
        return linear(h, self.weight, self.bias)

    @torch.no_grad()
    def set_prior(self, frequencies: Float[Tensor, "K"], num_instances: float | int = 1) -> None:
        """Start at these probabilities, each that of a noisy-OR bag of `num_instances` equal instances."""
        frequencies = frequencies.double().clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
        instance_frequencies = -torch.expm1(torch.log1p(-frequencies) / num_instances)
        self.bias.copy_(torch.logit(instance_frequencies))


def label_frequencies(labels: Shaped[Tensor, "N K"], weights: Float[Tensor, "N"] | None = None) -> Float[Tensor, "K"]:
    """The share of the known labels that is present; 0 where none is known."""
    is_known = (
        labels >= 0
    )  # not `latent.known`: prediction, which has this head, reaches nothing of the noise model's law
    counted = is_known.float() if weights is None else is_known * weights.float().unsqueeze(-1)
    present = torch.where(is_known, labels, 0).float() * counted
    return present.sum(0) / counted.sum(0).clamp(min=_SMALLEST_WEIGHT)
