"""Photos from disk: decoded as a viewer would show them, resized, normalised."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class MediaError(Exception):
    """A file that cannot be used as a photo, with the reason; callers skip it, count it and list it."""


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of a photo: its side in pixels, and the mean and standard deviation of its channels.

    The whole photo is kept and squeezed into the square: a tag may belong to its edge.
    """

    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __call__(self, photo: Image.Image, flip: bool = False) -> Float[Tensor, "3 H W"]:
        """The normalised square, mirrored where `flip` is true."""
        size = (self.resolution, self.resolution)
        if photo.size != size:
            photo = photo.resize(size, Image.Resampling[self.interpolation.upper()])
        if flip:
            photo = ImageOps.mirror(photo)
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


def read_photo(path: Path) -> Image.Image:
    """An RGB photo: upright, the first frame of an animation, transparency on white.

    Raises:
        MediaError: the file is missing, empty, not a photo, or broken.
    """
    try:
        with Image.open(path) as photo:
            photo = ImageOps.exif_transpose(photo)
            if photo.mode.startswith("I;16") or photo.mode == "I":  # 16 bits a channel, which convert() would clip
                photo = Image.fromarray((np.asarray(photo, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8))
            if photo.has_transparency_data:
                photo = photo.convert("RGBA")
                background = Image.new("RGBA", photo.size, "white")
                photo = Image.alpha_composite(background, photo)
            return photo.convert("RGB")
    except FileNotFoundError:
        raise MediaError("no such file") from None
    except IsADirectoryError:
        raise MediaError("a folder, not a file") from None
    except Exception as error:  # Pillow's decoders raise many kinds, and one broken file must not end a long run
        raise MediaError(f"cannot be decoded ({type(error).__name__}: {error})") from None
