"""Training photos varied by timm's policies and by erased rectangles; a seed decides how, whatever process does it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from truetag.errors import InputError
from truetag.io.text import one_line
from truetag.media.preprocessing import Preprocessing
from truetag.runs.config import POLICY, TrainConfig

_SHIFT = 0.45
"""The farthest that a policy moves a photo, as a share of its side: timm's."""


@dataclass(frozen=True)
class Augmentation:
    """A policy on the resized photo, then an erased rectangle of its normalised pixels, which becomes 0."""

    preprocessing: Preprocessing
    policy: Any
    """A transform of timm; None for none."""
    erasing: RandomErasing | None

    def __call__(self, photo: Image.Image, flip: bool, seed: int) -> Float[Tensor, "3 H W"]:
        """The varied square, mirrored first if `flip` is true; the same for the same seed."""
        photo = self.preprocessing.resize(photo)
        with _seeded(seed):
            if self.policy is not None:
                photo = self.policy(photo)
            pixels = self.preprocessing(photo, flip)
            return pixels if self.erasing is None else self.erasing(pixels)


def make_augmentation(config: TrainConfig, preprocessing: Preprocessing) -> Augmentation | None:
    """How training photos are varied beyond being mirrored; None where they are not.

    Raises:
        InputError: timm knows no such policy.
    """
    if config.augment == "none" and not config.random_erasing:
        return None
    erasing = RandomErasing(config.random_erasing, device="cpu") if config.random_erasing else None
    return Augmentation(preprocessing, _policy(config.augment, preprocessing), erasing)


def _policy(name: str, preprocessing: Preprocessing) -> Any:
    if name == "none":
        return None
    makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    make = makers.get(name.split("-")[0], auto_augment_transform)
    mean = tuple(min(255, round(255 * value)) for value in preprocessing.mean)
    shift = {"translate_const": int(_SHIFT * preprocessing.resolution), "img_mean": mean}
    filters = {"interpolation": Image.Resampling[preprocessing.interpolation.upper()]}
    try:
        return make(name, shift if name.startswith("augmix") else shift | filters)
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(
            f"augment: expected a policy of timm such as {POLICY}, got {name} ({one_line(error)})"
        ) from None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's generators, which timm draws from, begin at the seed; afterwards they are as they were."""
    before, of_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(of_numpy)
