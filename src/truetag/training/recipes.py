"""The named recipes: the paper's rows, and `best`, as settings.

Each noise model differs from its baseline in the noise model alone. Step sizes were chosen on held-out *noisy* Flickr8k
tags (part of `train.txt`), never on the photos that results are reported on. Published numbers are COCO mean AP of
Table 1 (VGG16, fine-tuned). What the paper does not say is inferred, and marked so.
"""

import difflib
from dataclasses import fields, replace
from typing import Literal, get_args

from truetag.errors import InputError
from truetag.runs.config import Level, TrainConfig

RecipeName = Literal["mlcn", "mlcn-star", "nmn-fi", "nmn-fd", "mil", "mil-star", "mil-nmn-fi", "mil-nmn-fd"]

SCHEDULE = TrainConfig(
    backbone="vgg16_fcn",
    resolution=565,
    initial_bias=-6.58,
    loss="sum_labels",
    layer_norm=False,
    standardise=False,
    stage1_epochs=3,
    stage2_epochs=2,
    # 1.5e-4, and ten times as much for the head, as in Fang et al. (2015)
    learning_rate=1.5e-3,
    stage2_learning_rate=1.5e-3,
    backbone_learning_rate=0.1,
    # the noise model learns with the rest of the network: one rate, and its gradient reaches the backbone
    noise_learning_rate=1.5e-4,
    noise_weight_learning_rate=1.5e-4,
    detach_features=False,
    select="last",
    # inferred: SGD with momentum as in Fang et al. (2015), the usual decay and dropout of VGG16, and all of the rest
    optimiser="sgd",
    weight_decay=5e-4,
    noise_weight_decay=5e-4,
    dropout=0.5,
    initial_missing_rate=0.1,
    initial_incorrect_rate=0.01,
    batch_size=16,
    flip=False,
)
"""Photos. Clips differ in two settings, `CLIP_SETTINGS`."""

CLIP_SETTINGS = {"batch_size": 1, "frames_at_a_time": 2}
"""The paper trains on one clip per step; how many of its frames are held at once changes memory alone."""


def settings_of(recipe: RecipeName, schedule: TrainConfig, level: Level = "bag") -> TrainConfig:
    """The schedule with what defines a row: pooling, noise model, and whether there is a stage 2."""
    config = replace(
        schedule, pooling="noisy-or" if recipe.startswith("mil") else "mean", level=level, noise_model="none"
    )
    if level == "frame":  # as many frames per step as at the level of clips
        config = replace(config, batch_size=config.batch_size * config.num_frames, frames_at_a_time=0)
    match recipe.removeprefix("mil-"):
        case "mlcn" | "mil":
            return replace(config, stage2_epochs=0)
        case "nmn-fi":
            return replace(config, noise_model="fi")
        case "nmn-fd":
            return replace(config, noise_model="fd")
    return config


def stage1_of(recipe: RecipeName) -> RecipeName | None:
    """The row whose stage 1 is shared; None for that row itself."""
    if recipe in ("mlcn", "mil"):
        return None
    return "mil" if recipe.startswith("mil") else "mlcn"


BEST = TrainConfig(noise_model="auto", validity=True, select="last")
"""Ours: captions weighed by their validity; noise model, q and training labels chosen on held-out noisy labels. The
epoch is not chosen by few noisy validation rows, which cost 0.8 mAP on one of two seeds (Flickr8k, two swaps)."""

RECIPES: dict[str, TrainConfig] = {"best": BEST}
RECIPES |= {name: settings_of(name, TrainConfig()) for name in get_args(RecipeName)}
RECIPES |= {f"paper-{name}": settings_of(name, SCHEDULE) for name in get_args(RecipeName)}

DECIDED = tuple(
    field.name
    for field in fields(TrainConfig)
    if any(getattr(settings, field.name) != field.default for settings in RECIPES.values())
)
"""The settings that tell recipes apart: a file with all of them needs no recipe."""


def recipe(name: str) -> TrainConfig:
    """The settings of a named recipe.

    Raises:
        InputError: there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}{hint}")
