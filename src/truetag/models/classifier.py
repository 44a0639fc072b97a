"""The classifier (MLCN): backbone -> 1x1 convolution to K logits a region -> pooling -> true logits of the bag.

Everything is a bag of T frames with R regions each; a photo is a bag of one frame. The head is a linear layer on each
region, which is what a 1x1 convolution is. With mean pooling the features of a frame are averaged first: for a linear
head that is the mean of the logits, and R becomes 1.

Regions are standardised before the head: over channels within a region (so that bright photos do not shout), then per
channel with the mean and deviation of the training data. On frozen features this is worth about half a point of mAP,
and it gives the noise model centred features.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import dropout, layer_norm
from torch.utils.checkpoint import checkpoint

from truetag import pooling
from truetag.models.backbones import extract_features
from truetag.runs.config import Pooling

_SMALLEST_FREQUENCY = 1e-4
_SMALLEST_DEVIATION = 1e-2


class Classifier(nn.Module):
    """p(y|I) for K labels; at test time this is all there is.

    Args:
        backbone: gives the features of regions; its last `num_noise_features`, if it has that attribute, are for the
            noise model alone.
        num_features: D, all of them.
        num_labels: K.
        pooling: how the logits of regions become the logit of their bag.
        dropout: probability that a feature is dropped, from all regions of a frame, before the head while training.
        max_over_frames: pool the regions of each frame, then take the largest logit over frames [Sec. 3.3].
        frames_at_a_time: hold the activations of so many frames at once; what is not held is computed twice. 0: all.
    """

    feature_mean: Tensor
    feature_deviation: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_labels: int,
        pooling: Pooling = "mean",
        dropout: float = 0.0,
        max_over_frames: bool = False,
        frames_at_a_time: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        num_noise_features = getattr(backbone, "num_noise_features", 0)
        self.num_head_features = num_features - num_noise_features
        self.num_noise_features = num_noise_features or num_features
        self.head = nn.Linear(self.num_head_features, num_labels)
        nn.init.zeros_(self.head.weight)  # the first prediction is the bias: the label's frequency
        nn.init.zeros_(self.head.bias)
        self.log_sharpness = nn.Parameter(torch.zeros(num_labels)) if pooling == "lse" else None
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_deviation", torch.ones(num_features))
        self.pooling: Pooling = pooling
        self.dropout = dropout
        self.max_over_frames, self.frames_at_a_time = max_over_frames, frames_at_a_time

    def forward(
        self, inputs: Float[Tensor, "B T ..."], mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B H"]]:
        """True logits and the pooled features h(I) that a feature-dependent noise model reads.

        `inputs` are frames [B, T, 3, H, W] or the features of their regions [B, T, R, D]; `mask` is False where a
        shorter bag is padded with frames, which contribute nothing.
        """
        frames = inputs.flatten(0, 1) if mask is None else inputs[mask]
        regions = self._extract_frames(frames) if inputs.ndim == 5 else frames
        regions = self.standardise(self.pool_features(regions))
        logits = self.head(self._drop(regions[..., : self.num_head_features]))
        h = regions[..., -self.num_noise_features :].mean(1)
        logits, h = (_in_bags(values, inputs.shape[:2], mask) for values in (logits, h))
        return self._pool(logits, mask), pooling.mean(h, 1, None if mask is None else mask.unsqueeze(-1))

    def region_logits(self, photos: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N R K"]:
        """The logit of each region of photos: where a label is seen."""
        return self.head(self.standardise(self.extract(photos))[..., : self.num_head_features])

    def extract(self, photos: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N R D"]:
        """Features of the regions of photos."""
        return extract_features(self.backbone, photos)

    def pool_features(self, regions: Float[Tensor, "N R D"]) -> Float[Tensor, "N P D"]:
        """What is worth caching of a photo: its mean feature for mean pooling, all its regions otherwise."""
        return regions.mean(1, keepdim=True) if self.pooling == "mean" else regions

    def standardise(self, regions: Float[Tensor, "N R D"]) -> Float[Tensor, "N R D"]:
        """Zero mean and unit variance, over channels in each region and then per channel over the training data."""
        return (self._normalise(regions) - self.feature_mean) / self.feature_deviation

    @torch.no_grad()
    def set_feature_statistics(self, batches: Iterable[Float[Tensor, "N R D"]]) -> None:
        """Take the per-channel mean and deviation from training features."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for regions in batches:
            regions = self._normalise(self.pool_features(regions)).flatten(0, 1).double()
            count, total, squares = count + len(regions), total + regions.sum(0), squares + regions.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.feature_mean.copy_(mean)
        self.feature_deviation.copy_(deviation.clamp(min=_SMALLEST_DEVIATION))

    @torch.no_grad()
    def set_prior(self, frequencies: Float[Tensor, "K"], num_instances: float | int) -> None:
        """Start at the labels' frequencies: a bag of `num_instances` equal regions then has just that probability."""
        frequencies = frequencies.double().clamp(_SMALLEST_FREQUENCY, 1 - _SMALLEST_FREQUENCY)
        if self.pooling == "noisy-or":
            frequencies = -torch.expm1(torch.log1p(-frequencies) / num_instances)
        self.head.bias.copy_(torch.logit(frequencies))

    def _drop(self, regions: Float[Tensor, "N P D"]) -> Float[Tensor, "N P D"]:
        """Drop a feature from all regions of a frame at once [Tompson et al. 2015]: neighbours would tell it."""
        if not (self.training and self.dropout):
            return regions
        return regions * dropout(regions.new_ones(len(regions), 1, regions.shape[-1]), self.dropout)

    def _normalise(self, regions: Tensor) -> Tensor:
        """Layer normalisation without weights; features of the head and of the noise model apart, if they differ."""
        if self.num_head_features == regions.shape[-1]:
            return layer_norm(regions, regions.shape[-1:])
        parts = regions.tensor_split([self.num_head_features], -1)
        return torch.cat([layer_norm(part, part.shape[-1:]) for part in parts], -1)

    def _extract_frames(self, frames: Tensor) -> Tensor:
        if not self.frames_at_a_time or len(frames) <= self.frames_at_a_time:
            return self.extract(frames)
        some = frames.split(self.frames_at_a_time)
        if not torch.is_grad_enabled():
            return torch.cat([self.extract(part) for part in some])
        return torch.cat([checkpoint(self.extract, part, use_reentrant=False) for part in some])  # type: ignore[misc]

    def _pool(self, logits: Float[Tensor, "B T P K"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B K"]:
        if self.max_over_frames:
            frames = self._pool_instances(logits.flatten(0, 1), None).unflatten(0, logits.shape[:2])
            return pooling.maximum(frames, 1, None if mask is None else mask.unsqueeze(-1))
        instances = None if mask is None else mask[:, :, None, None].expand(*logits.shape[:3], 1).flatten(1, 2)
        return self._pool_instances(logits.flatten(1, 2), instances)

    def _pool_instances(self, logits: Float[Tensor, "B N K"], mask: Bool[Tensor, "B N 1"] | None) -> Tensor:
        match self.pooling:
            case "mean":
                return pooling.mean(logits, 1, mask)
            case "noisy-or":
                return pooling.noisy_or(logits, 1, mask)
            case "max":
                return pooling.maximum(logits, 1, mask)
            case "lse":
                assert self.log_sharpness is not None
                return pooling.log_mean_exp(logits, 1, self.log_sharpness.exp(), mask)


def _in_bags(frames: Float[Tensor, "N ..."], shape: torch.Size, mask: Bool[Tensor, "B T"] | None) -> Tensor:
    """Frames back at their places in bags [B, T, ..], zeros at the padding."""
    if mask is None:
        return frames.unflatten(0, shape)
    return frames.new_zeros(*shape, *frames.shape[1:]).index_put(mask.nonzero(as_tuple=True), frames)
