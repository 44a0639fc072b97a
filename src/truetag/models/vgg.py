"""The paper's network: VGG16 as a fully convolutional net, 565 x 565 pixels -> 12 x 12 regions [Fang et al. 2015].

    13 convolutions, 5 max-pools -> pool5 (512)   -> averaged: what the noise model reads
        fc6, fc7 as convolutions -> fc7 (4,096)   -> what the head reads, for each region

Pools round up (`ceil_mode`): at 565 pixels pool5 is 18 x 18 and fc7 12 x 12, as in Fang et al.; at 224 nothing changes.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

VGG16 = "vgg16_fcn"
"""Its name as a backbone; its weights are those of timm's `vgg16`."""


class FullyConvolutionalVGG16(nn.Module):
    """timm's `vgg16` without its classification layer, run on photos of any size of 224 pixels or more.

    Each region's features are fc7 (4,096) followed by the photo's average of pool5, the last `num_noise_features`.
    """

    num_noise_features = 512

    def __init__(self, vgg: Any) -> None:
        super().__init__()
        self.features, self.pre_logits = vgg.features, vgg.pre_logits
        self.pretrained_cfg = vgg.pretrained_cfg
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True

    def forward_features(self, photos: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 4608 Y X"]:
        """fc7 of each region, and behind it the photo's average of pool5."""
        pool5 = self.features(photos)
        fc7 = self.pre_logits(pool5)
        return torch.cat([fc7, pool5.mean((2, 3), keepdim=True).expand(-1, -1, *fc7.shape[2:])], dim=1)
