"""The classifier (MLCN): backbone -> 1x1 convolution to K logits per region -> pooling -> true logits of the bag.

Everything is a bag of T frames with R regions each; a photo is a bag of one frame. The head is a linear layer on each
region, which is what a 1x1 convolution is. With mean pooling it reads the mean feature of a frame instead of each
region: R becomes 1.

Features are standardised before the head: over the channels of a region (`layer_norm`, so that bright photos do not
dominate), then per channel with the statistics of the training data (`standardise`). On frozen features this is worth
about half a point of mAP, and it gives the noise model centred features. The paper does neither.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from truetag import pooling
from truetag.label_noise.linear_head import Head
from truetag.models.backbones import extract_features
from truetag.runs.config import Pooling


class Classifier(nn.Module):
    """p(y|I) for K labels; at test time this is all there is.

    Args:
        backbone: gives the features of regions; its last `num_noise_features`, if it has that attribute, are for the
            noise model alone.
        num_features: D, all of them.
        num_labels: K.
        pooling: how the logits of regions become the logit of their bag.
        dropout: probability that a feature is dropped, from all regions of a frame, before the head while training.
        layer_norm: normalise each region over its channels first.
        max_over_frames: pool the regions of each frame, then take the largest logit over frames [Sec. 3.3].
        frames_at_a_time: hold the activations of so many frames at once; the others are computed twice. 0: all.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_labels: int,
        pooling: Pooling = "mean",
        dropout: float = 0.0,
        layer_norm: bool = True,
        max_over_frames: bool = False,
        frames_at_a_time: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        num_separate = getattr(backbone, "num_noise_features", 0)
        self.num_features, self.num_noise_features = num_features, num_separate or num_features
        self.head = Head(num_features, num_labels, layer_norm, dropout, num_unread=num_separate)
        self.log_sharpness = nn.Parameter(torch.zeros(num_labels)) if pooling == "lse" else None
        self.pooling: Pooling = pooling
        self.max_over_frames, self.frames_at_a_time = max_over_frames, frames_at_a_time

    def forward(
        self,
        inputs: Float[Tensor, "B T ..."],
        mask: Bool[Tensor, "B T"] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B H"]]:
        """True logits and the pooled features h(I) that a feature-dependent noise model reads.

        Args:
            inputs: frames [B, T, 3, H, W] or the features of their regions [B, T, R, D].
            mask: False where a shorter bag is padded with frames, which contribute nothing.
            generator: decides which features are dropped while training.

        Returns:
            The true logits, and h(I).
        """
        frames = inputs.flatten(0, 1) if mask is None else inputs[mask]  # N 3 H W or N R D, with N = BT or less
        regions = self._extract_frames(frames) if inputs.ndim == 5 else frames  # N R D
        regions = self.pool_features(regions)  # N P D, P = 1 for mean pooling and R otherwise
        regions = self.head.standardise(regions)  # N P D
        logits = self.head.logits(regions, generator, shared_axis=1)  # N P K
        h = regions[..., -self.num_noise_features :].mean(1)  # N H
        logits = _in_bags(logits, inputs.shape[:2], mask)  # B T P K
        h = _in_bags(h, inputs.shape[:2], mask)  # B T H
        return self._pool(logits, mask), pooling.mean(h, 1, None if mask is None else mask.unsqueeze(-1))

    def region_logits(self, photos: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N R K"]:
        """The logit of each region of photos: where a label is seen."""
        return self.head(self.extract(photos))

    def extract(self, photos: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N R D"]:
        """Features of the regions of photos."""
        return extract_features(self.backbone, photos)

    def pool_features(self, regions: Float[Tensor, "N R D"]) -> Float[Tensor, "N P D"]:
        """What is worth caching of a photo: its mean feature for mean pooling, all its regions otherwise."""
        return regions.mean(1, keepdim=True) if self.pooling == "mean" else regions

    def set_feature_statistics(self, batches: Iterable[Float[Tensor, "N R D"]]) -> None:
        """Take the mean and the deviation of each channel from training features."""
        self.head.standardise.set_statistics(self.pool_features(regions) for regions in batches)

    def set_prior(self, frequencies: Float[Tensor, "K"], num_instances: float | int) -> None:
        """Start at the labels' frequencies: a bag of `num_instances` equal regions then has just that probability."""
        self.head.set_prior(frequencies, num_instances if self.pooling == "noisy-or" else 1)

    def _extract_frames(self, frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N R D"]:
        if not self.frames_at_a_time or len(frames) <= self.frames_at_a_time:
            return self.extract(frames)
        some = frames.split(self.frames_at_a_time)
        if not torch.is_grad_enabled():
            return torch.cat([self.extract(part) for part in some])
        return torch.cat([checkpoint(self.extract, part, use_reentrant=False) for part in some])  # type: ignore[misc]

    def _pool(self, logits: Float[Tensor, "B T P K"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B K"]:
        if self.max_over_frames:
            frames = self._pool_instances(logits.flatten(0, 1), None)  # BT K
            frames = frames.unflatten(0, logits.shape[:2])  # B T K
            return pooling.maximum(frames, 1, None if mask is None else mask.unsqueeze(-1))
        instances = logits.flatten(1, 2)  # B TP K
        if mask is None:
            return self._pool_instances(instances, None)
        of_regions = mask[:, :, None, None].expand(*logits.shape[:3], 1)  # B T P 1
        return self._pool_instances(instances, of_regions.flatten(1, 2))

    def _pool_instances(
        self, logits: Float[Tensor, "B N K"], mask: Bool[Tensor, "B N 1"] | None
    ) -> Float[Tensor, "B K"]:
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


def _in_bags(
    frames: Float[Tensor, "N ..."], shape: torch.Size, mask: Bool[Tensor, "B T"] | None
) -> Float[Tensor, "B T ..."]:
    """Frames back at their positions in bags, zeros at the padding."""
    if mask is None:
        return frames.unflatten(0, shape)
    return frames.new_zeros(*shape, *frames.shape[1:]).index_put(mask.nonzero(as_tuple=True), frames)
