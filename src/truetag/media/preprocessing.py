"""From a decoded photo to what a backbone reads: resized and normalised."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of a photo: its side in pixels, and the mean and standard deviation of its channels.

    The whole photo is squeezed into the square, nothing is cropped: a tag may belong to the edge.
    """

    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __call__(self, photo: Image.Image, flip: bool = False) -> Float[Tensor, "3 H W"]:
        """The normalised square, mirrored if `flip` is true."""
        photo = self.resize(photo)
        if flip:
            photo = ImageOps.mirror(photo)
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)  # [3, H, W]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def resize(self, photo: Image.Image) -> Image.Image:
        """The whole photo, squeezed into the square."""
        size = (self.resolution, self.resolution)
        return photo if photo.size == size else photo.resize(size, Image.Resampling[self.interpolation.upper()])
