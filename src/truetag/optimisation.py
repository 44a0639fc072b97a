"""How a network is optimised: step sizes that follow the number of features, parameter groups, and one schedule.

Both training loops use these: the one in memory (`label_noise.heads`) and the one with checkpoints (`training.stage`).
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

SGD_MOMENTUM = 0.9
WARMUP = 0.1
"""Share of a stage's steps before its peak learning rate."""
STAGE2_SHARE = 2 / 3
"""The peak learning rate of stage 2, as a share of stage 1's."""
INITIAL_MISSING_RATE = 0.3
"""q01 before training. Above most real rates on purpose: the rates move slowly, and from below they hardly leave 0."""
INITIAL_INCORRECT_RATE = 0.03
"""q10 before training."""
NOISE_LEARNING_RATE = 1e-3
"""Peak learning rate of a noise model's biases."""
NOISE_WEIGHT_LEARNING_RATE = 1e-5
"""Peak learning rate of the weights u of FD, far below the head's: or FD would explain every observation by itself."""
NOISE_WEIGHT_DECAY = 3.0
"""Decay of the weights u towards zero, that is of FD towards FI."""
# regularisation was chosen at this width; Adam moves each weight alike, so a logit moves with their number
_REFERENCE_WIDTH, _REFERENCE_RATE, _REFERENCE_DROPOUT = 1280, 6e-4, 0.6
_HIGHEST_RATE = 0.1
_LOWEST_RATE_FOR_DECAY = _REFERENCE_RATE / 100


class StepSizes(NamedTuple):
    """Peak learning rate of a head, its decoupled weight decay, and the dropout of its features."""

    learning_rate: float
    weight_decay: float
    dropout: float


def step_sizes(
    num_features: int,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    dropout: float | None = None,
) -> StepSizes:
    """Step sizes of a linear head on `num_features` features; what is None follows their number.

    Args:
        num_features: D.
        learning_rate: None: 6e-4 at 1,280 features and more with fewer, so that a step moves a logit equally far.
        weight_decay: None: a step shrinks the weights by the share 6e-4, whatever the learning rate.
        dropout: None: 0.6 from 1,280 features on, and with fewer less, by the root of their number.

    >>> step_sizes(1280)
    StepSizes(learning_rate=0.0006, weight_decay=1.0, dropout=0.6)
    """
    share = num_features / _REFERENCE_WIDTH
    if learning_rate is None:
        learning_rate = min(_REFERENCE_RATE / share, _HIGHEST_RATE)
    if weight_decay is None:
        weight_decay = _REFERENCE_RATE / max(learning_rate, _LOWEST_RATE_FOR_DECAY)
    if dropout is None:
        dropout = _REFERENCE_DROPOUT * math.sqrt(min(share, 1))
    return StepSizes(learning_rate, weight_decay, dropout)


def stage2_learning_rate(learning_rate: float, given: float | None, stage1_epochs: int) -> float:
    """Peak learning rate of stage 2: as given, else `STAGE2_SHARE` of stage 1's, or all of it without a stage 1."""
    if given is not None:
        return given
    return learning_rate * STAGE2_SHARE if stage1_epochs else learning_rate


def parameter_groups(
    parameters: Iterable["torch.Tensor"], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters: matrices decay, vectors do not."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim > 1]
    vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = (matrices, weight_decay), (vectors, 0.0)
    return [{"params": params, "lr": learning_rate, "weight_decay": decay} for params, decay in groups if params]


def make_optimiser(
    groups: Sequence[dict[str, Any]], modules: Iterable[Any], kind: Literal["adamw", "sgd"] = "adamw"
) -> "torch.optim.Optimizer":
    """An optimiser of all trainable parameters of `modules`.

    Raises:
        ValueError: a parameter that requires a gradient belongs to no group and would never be trained.
    """
    held = {parameter for group in groups for parameter in group["params"]}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and parameter not in held:
                kind_of_module = type(module).__name__
                raise ValueError(
                    f"parameter_groups: expected every parameter of {kind_of_module}, got none for {name!r}"
                )
    import torch  # here, as the settings of a command are shown without it

    if kind == "adamw":
        return torch.optim.AdamW(list(groups), fused=True)
    return torch.optim.SGD(list(groups), momentum=SGD_MOMENTUM)


def make_schedule(optimiser: "torch.optim.Optimizer", num_steps: int) -> "torch.optim.lr_scheduler.LambdaLR":
    """The learning rates of `optimiser` over `num_steps` steps: see `learning_rate_share`."""
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimiser, lambda step: learning_rate_share(step, num_steps))


def learning_rate_share(step: int, num_steps: int, warmup: float = WARMUP) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the peak rate.

    >>> [round(learning_rate_share(step, 10, warmup=0.2), 2) for step in (0, 2, 6, 10)]
    [0.33, 1.0, 0.5, 0.0]
    """
    warm_steps = warmup * num_steps
    if step < warm_steps:
        return (step + 1) / (warm_steps + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_steps) / max(num_steps - warm_steps, 1)))
