"""Classifiers made: a new one from the settings of a run, and the trained one of a run."""

import torch
from torch import nn

from truetag.errors import InputError
from truetag.io.text import one_line
from truetag.media.photos import Preprocessing
from truetag.models.backbones import load_backbone
from truetag.models.classifier import Classifier
from truetag.models.features import feature_spec
from truetag.runs.config import TrainConfig
from truetag.runs.folder import Run


def build_classifier(
    config: TrainConfig, backbone: nn.Module, preprocessing: Preprocessing, num_labels: int
) -> Classifier:
    """A new classifier as the config describes it.

    Args:
        config: the settings of the run.
        backbone: gives the features; a photo that is passed through it shows how many.
        preprocessing: what the backbone expects of a photo.
        num_labels: K.

    Raises:
        InputError: the backbone cannot take photos of this resolution.
    """
    probe = Classifier(backbone, getattr(backbone, "num_noise_features", 0) + 1, 1, config.pooling)
    try:
        num_features = feature_spec(probe, config.backbone, "", preprocessing).num_features
    except RuntimeError as error:
        got = f"{config.backbone} cannot take photos of {config.resolution} x {config.resolution}"
        raise InputError(f"resolution: {got} ({error})") from None
    backbone.requires_grad_(not config.freeze_backbone)
    return Classifier(
        backbone,
        num_features,
        num_labels,
        config.pooling,
        config.dropout,
        max_over_frames=config.level == "frame",
        frames_at_a_time=config.frames_at_a_time,
    )


def load_classifier(run: Run) -> Classifier:
    """The trained classifier of a run, in evaluation mode, on the GPU if there is one.

    Raises:
        InputError: the run is not finished, or its weights belong to another backbone or vocabulary.
    """
    backbone, _ = load_backbone(run.config.backbone, "none", run.config.resolution)
    state = run.load_state("classifier")
    try:
        num_labels, num_features = len(state["head.bias"]), len(state["feature_mean"])
        max_over_frames = run.config.level == "frame"
        classifier = Classifier(backbone, num_features, num_labels, run.config.pooling, max_over_frames=max_over_frames)
        classifier.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        path = run.folder / "classifier.safetensors"
        raise InputError(f"{path}: does not hold a {run.config.backbone} ({one_line(error)})") from None
    if num_labels != len(run.vocabulary):
        raise InputError(f"{run.folder}: the classifier has {num_labels} labels, vocabulary.tsv {len(run.vocabulary)}")
    return classifier.eval().to("cuda" if torch.cuda.is_available() else "cpu")
