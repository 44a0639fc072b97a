"""The classifier (MLCN): backbone -> 1x1 convolution to K logits a region -> pooling -> true logits of the bag.

Everything is a bag of regions [B, R, D]. The head is a linear layer on each region, which is what a 1x1 convolution is.
With mean pooling the features are averaged first: for a linear head that is the mean of the logits, and R becomes 1.

Regions are standardised before the head: over channels within a region (so that bright photos do not shout), then per
channel with the mean and deviation of the training data. On frozen features this is worth about half a point of mAP,
and it gives the noise model centred features.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import dropout, layer_norm

from truetag import pooling
from truetag.backbones import extract_features
from truetag.config import Pooling

_SMALLEST_FREQUENCY = 1e-4
_SMALLEST_DEVIATION = 1e-2


class Classifier(nn.Module):
    """p(y|I) for K labels; at test time this is all there is."""

    feature_mean: Tensor
    feature_deviation: Tensor

    def __init__(
        self, backbone: nn.Module, num_features: int, num_labels: int, pooling: Pooling = "mean", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(num_features, num_labels)
        nn.init.zeros_(self.head.weight)  # the first prediction is the bias: the label's frequency
        nn.init.zeros_(self.head.bias)
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_deviation", torch.ones(num_features))
        self.pooling: Pooling = pooling
        self.dropout = dropout

    def forward(
        self, inputs: Float[Tensor, "B ..."], mask: Bool[Tensor, "B R"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B D"]]:
        """True logits and the pooled features h(I) that a feature-dependent noise model reads.

        `inputs` are photos [B, 3, H, W] or the features of their regions [B, R, D]; `mask` is False at padding.
        """
        regions = self.extract(inputs) if inputs.ndim == 4 else inputs
        regions = self.standardise(self.pool_features(regions, mask))
        mask = mask if regions.shape[1] > 1 else None
        h = pooling.mean(regions, 1, None if mask is None else mask.unsqueeze(-1))
        logits = self.head(dropout(regions, self.dropout, self.training))
        if self.pooling == "mean":
            return logits.squeeze(1), h
        return pooling.noisy_or(logits, 1, None if mask is None else mask.unsqueeze(-1)), h

    def extract(self, photos: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B R D"]:
        """Features of the regions of photos."""
        return extract_features(self.backbone, photos)

    def pool_features(
        self, regions: Float[Tensor, "B R D"], mask: Bool[Tensor, "B R"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """What is worth caching of a bag: its mean feature for mean pooling, all its regions otherwise."""
        if self.pooling != "mean" or regions.shape[1] == 1:
            return regions
        return pooling.mean(regions, 1, None if mask is None else mask.unsqueeze(-1)).unsqueeze(1)

    def standardise(self, regions: Float[Tensor, "B R D"]) -> Float[Tensor, "B R D"]:
        """Zero mean and unit variance, over channels in each region and then per channel over the training data."""
        regions = layer_norm(regions, regions.shape[-1:])
        return (regions - self.feature_mean) / self.feature_deviation

    @torch.no_grad()
    def set_feature_statistics(self, batches: Iterable[Float[Tensor, "B R D"]]) -> None:
        """Take the per-channel mean and deviation from training features."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for regions in batches:
            regions = layer_norm(self.pool_features(regions), regions.shape[-1:]).flatten(0, 1).double()
            count, total, squares = count + len(regions), total + regions.sum(0), squares + regions.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.feature_mean.copy_(mean)
        self.feature_deviation.copy_(deviation.clamp(min=_SMALLEST_DEVIATION))

    @torch.no_grad()
    def set_prior(self, frequencies: Float[Tensor, "K"], num_regions: int) -> None:
        """Start at the labels' frequencies: a bag of `num_regions` equal regions then has just that probability."""
        frequencies = frequencies.double().clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
        if self.pooling == "noisy-or":
            frequencies = -torch.expm1(torch.log1p(-frequencies) / num_regions)
        self.head.bias.copy_(torch.logit(frequencies))
