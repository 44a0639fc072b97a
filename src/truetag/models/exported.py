"""The classifier in the names that others give its weights: as a model of timm's own, and back from there."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truetag.errors import InputError
from truetag.io.tensors import State
from truetag.label_noise.linear_head import Head
from truetag.models.backbones import VGG16, size_arguments
from truetag.models.classifier import Classifier
from truetag.runs.config import TrainConfig

HUB_PREFIX = "classifier."
"""Before the names of the classifier's weights, where they are those of a module that holds it."""
TOLERANCE = 1e-3
"""The largest difference of a logit, by rounding alone, at which timm's model counts as the same."""
# how timm pools: as the model does by itself; or, in place of a class token, the mean of the regions
_POOLING: tuple[dict[str, Any], ...] = ({}, {"global_pool": "avg", "fc_norm": False})


def timm_model(classifier: Classifier, config: TrainConfig) -> tuple[nn.Module, dict[str, Any]]:
    """The model of timm's that gives photos the logits of a classifier; the standardisation is folded into its head.

    Args:
        classifier: on the CPU, in evaluation mode.
        config: the settings that it was built with.

    Returns:
        The model, in evaluation mode, and the arguments with which timm builds it.

    Raises:
        InputError: timm has no such model; the message says why.
    """
    import timm  # here, as it takes seconds

    if classifier.pooling != "mean":
        raise _not_timm(f"it pools regions by {classifier.pooling}")
    if config.backbone == VGG16:
        raise _not_timm(f"its backbone is {VGG16}")
    if classifier.head.standardise.layer_norm:
        raise _not_timm("its head has a layer norm, which `train --layer-norm False` leaves out")
    weight, bias = folded_layer(classifier.head)
    settings: Any = classifier.backbone.pretrained_cfg  # timm adds it
    sizes = size_arguments(settings, config.resolution)
    photos = torch.randn(2, 3, config.resolution, config.resolution, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, _ = classifier(photos.unsqueeze(1))
        for pooling in _POOLING:
            try:
                model = timm.create_model(config.backbone, num_classes=len(bias), **sizes, **pooling).eval()
            except TypeError:  # it does not know these arguments
                continue
            layer = model.get_classifier()  # pyright: ignore[reportCallIssue]  (timm adds it)
            if not isinstance(layer, nn.Linear) or layer.bias is None or layer.weight.shape != weight.shape:
                continue
            model.load_state_dict(classifier.backbone.state_dict(), strict=False)  # all but the last layer
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            if torch.allclose(model(photos), expected, rtol=0, atol=TOLERANCE):
                return model, sizes | pooling
    raise _not_timm(f"{config.backbone} does more in timm than to average its features before the last layer")


def folded_layer(head: Head) -> tuple[Float[Tensor, "K D"], Float[Tensor, "K"]]:
    """Weight and bias of the linear layer that does the same to features as a head without layer norm."""
    mean, deviation = head.standardise.mean.double(), head.standardise.deviation.double()
    weight = head.weight.detach().double() / deviation
    return weight.float(), (head.bias.detach().double() - weight @ mean).float()


def state_from_export(state: State, backbone: nn.Module) -> State:
    """The weights of a classifier from those of an exported folder.

    Args:
        state: as `export/hub` wrote it.
        backbone: of the classifier; knows the name of timm's last layer.

    Raises:
        KeyError: the last layer is not there.
    """
    if f"{HUB_PREFIX}head.standardise.mean" in state:
        return {name.removeprefix(HUB_PREFIX): tensor for name, tensor in state.items()}
    settings: Any = backbone.pretrained_cfg  # timm adds it
    layer = settings["classifier"]
    weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
    rest = {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith(f"{layer}.")}
    num_features = weight.shape[1]
    statistics = {"mean": torch.zeros(num_features), "deviation": torch.ones(num_features)}
    return (
        rest
        | {"head.weight": weight, "head.bias": bias}
        | {f"head.standardise.{name}": tensor for name, tensor in statistics.items()}
    )


def _not_timm(reason: str) -> InputError:
    return InputError(
        f"format: timm cannot rebuild this classifier, as {reason}; --format safetensors or onnx holds it"
    )
