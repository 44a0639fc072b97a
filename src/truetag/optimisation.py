"""The optimiser of a stage: its parameter groups, and the learning rate over its steps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from truetag.models.classifier import Classifier
from truetag.noise_models import FeatureDependentNoise, SharedFeatureNoise
from truetag.runs.config import TrainConfig

_SGD_MOMENTUM = 0.9


def make_optimiser(
    classifier: Classifier, noise_model: nn.Module | None, config: TrainConfig, stage: int
) -> torch.optim.Optimizer:
    """Matrices decay, vectors do not; the backbone and the noise model have rates of their own."""
    rate = config.learning_rate if stage == 1 else config.stage2_learning_rate
    groups: list[dict] = []

    def add(parameters: Sequence[Tensor], learning_rate: float, decay: float) -> None:
        chosen = [parameter for parameter in parameters if parameter.requires_grad]
        for matrix in (True, False):
            part = [parameter for parameter in chosen if (parameter.ndim > 1) == matrix]
            if part:
                groups.append({"params": part, "lr": learning_rate, "weight_decay": decay if matrix else 0.0})

    add(list(classifier.head.parameters()), rate, config.weight_decay)
    if classifier.log_sharpness is not None:
        add([classifier.log_sharpness], rate, 0.0)
    add(list(classifier.backbone.parameters()), rate * config.backbone_learning_rate, config.weight_decay)
    if isinstance(noise_model, FeatureDependentNoise):
        add([noise_model.weights], config.noise_weight_learning_rate, config.noise_weight_decay)
    elif isinstance(noise_model, SharedFeatureNoise):  # a step of v . h is about one of a bias
        add([noise_model.weights], config.noise_learning_rate / noise_model.weights.shape[1] ** 0.5, 0.0)
    if noise_model is not None:
        groups.append({"params": [noise_model.biases], "lr": config.noise_learning_rate, "weight_decay": 0.0})
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=_SGD_MOMENTUM)


def learning_rate_share(step: int, num_steps: int, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the peak rate."""
    warm_steps = warmup * num_steps
    if step < warm_steps:
        return (step + 1) / (warm_steps + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_steps) / max(num_steps - warm_steps, 1)))
