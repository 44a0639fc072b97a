"""How a head is trained: one set of names and defaults, which `runs.config.TrainConfig` shares."""

from dataclasses import dataclass
from typing import Literal

from truetag import optimisation

MIN_PROBABILITY = 0.5
"""A label that is wrong with at least this probability is an issue."""


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained. The defaults are those of `runs.config.TrainConfig`, and of the recipe mlcn-star."""

    noise_model: str = "none"
    """What stage 2 adds to the classifier."""
    q: float = 0.0
    """q-likelihood of the observed label; 0 is the likelihood."""
    solver: Literal["adamw", "ridge", "logistic"] = "adamw"
    """Steps of AdamW on the (observed) likelihood; or a head that is solved for (`label_noise.solved_heads`), which
    reads of all that follows `layer_norm` alone: ridge or logistic regression."""
    train_on_posterior: bool = False
    """Train on p(y=1|z,x) instead of z. `relabelling.fit_calibrated` does; `fit_head` ignores it."""
    initial_missing_rate: float = optimisation.INITIAL_MISSING_RATE
    """q01 before stage 2."""
    initial_incorrect_rate: float = optimisation.INITIAL_INCORRECT_RATE
    """q10 before stage 2."""
    stage1_epochs: int = 15
    """Epochs of the classifier alone."""
    stage2_epochs: int = 5
    """Further epochs, with the noise model if there is one. Small data get more epochs: at least 400 steps in all."""
    batch_size: int = 128
    """Examples per step."""
    learning_rate: float | None = None
    """Peak learning rate of the head in stage 1; None: 6e-4 at 1,280 features, more with fewer."""
    stage2_learning_rate: float | None = None
    """The same in stage 2; None: two thirds of stage 1's, or all of it where there is no stage 1."""
    weight_decay: float | None = None
    """Decoupled weight decay (AdamW) of the head's weights; None: follows the learning rate."""
    dropout: float | None = None
    """Probability that a feature is dropped; None: 0.6 from 1,280 features on, less with fewer."""
    noise_learning_rate: float = optimisation.NOISE_LEARNING_RATE
    """Peak learning rate of the noise model's biases."""
    noise_weight_learning_rate: float = optimisation.NOISE_WEIGHT_LEARNING_RATE
    """Peak learning rate of the weights u of "fd"."""
    noise_weight_decay: float = optimisation.NOISE_WEIGHT_DECAY
    """Decay of u towards zero."""
    layer_norm: bool | None = None
    """Normalise each example over its features first, as suits embeddings; None: from 64 features on (of heads
    that are solved for: as left-out scores say)."""


JOINT = HeadSettings(
    noise_model="fi",
    initial_missing_rate=0.1,
    initial_incorrect_rate=0.01,
    noise_learning_rate=1e-2,
    stage1_epochs=0,
    stage2_epochs=15,
)
"""The noise model from the first step, as the recipe `best` trains it together with a q-likelihood."""
