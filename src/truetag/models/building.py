"""Classifiers made: a new one from the settings of a run, and the trained one of a run."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.io.devices import find_device
from truetag.io.text import one_line
from truetag.label_noise.linear_head import uses_layer_norm
from truetag.media.preprocessing import Preprocessing
from truetag.models.backbones import load_backbone
from truetag.models.classifier import Classifier
from truetag.models.exported import state_from_export
from truetag.models.features import feature_spec
from truetag.optimisation import step_sizes
from truetag.runs.config import TrainConfig
from truetag.runs.folder import Run, open_run


def build_classifier(
    config: TrainConfig,
    backbone: nn.Module,
    preprocessing: Preprocessing,
    num_labels: int,
    num_features: int | None = None,
) -> Classifier:
    """A new classifier as the config describes it.

    Args:
        config: the settings of the run.
        backbone: gives the features; a photo that is passed through it shows how many.
        preprocessing: what the backbone expects of a photo.
        num_labels: K.
        num_features: D of embeddings, which no backbone gives.

    Raises:
        InputError: the backbone cannot take photos of this resolution.
    """
    if num_features is not None:
        return make_classifier(config, backbone, num_features, num_labels)
    probe = Classifier(backbone, getattr(backbone, "num_noise_features", 0) + 1, 1, config.pooling)
    try:
        num_features = feature_spec(probe, config.backbone, "", preprocessing).num_features
    except RuntimeError as error:
        got = f"{config.backbone} cannot take photos of {config.resolution} x {config.resolution}"
        raise InputError(f"resolution: {got} ({error})") from None
    backbone.requires_grad_(not config.freeze_backbone)
    return make_classifier(config, backbone, num_features, num_labels)


def load_classifier(run: Run, device: str = "auto") -> Classifier:
    """The trained classifier of a run, in evaluation mode.

    Args:
        run: a finished run.
        device: where it computes: as torch names it ("cpu", "cuda", "cuda:1"), or "auto", a GPU where there is one.

    Raises:
        InputError: the run is not finished, its weights belong to another backbone or vocabulary, or there is no such
            device.
    """
    place = find_device(device)
    backbone, _ = load_backbone(run.config.backbone, "none", run.config.resolution)
    state = run.load_classifier_state()
    try:
        if run.is_exported:
            state = state_from_export(state, backbone)
        num_labels, num_features = len(state["head.bias"]), len(state["head.standardise.mean"])
        classifier = make_classifier(run.config, backbone, num_features, num_labels)
        classifier.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        path = run.folder / ("model.safetensors" if run.is_exported else "classifier.safetensors")
        raise InputError(f"{path}: does not hold a {run.config.backbone} ({one_line(error)})") from None
    if num_labels != len(run.vocabulary):
        raise InputError(f"{run.folder}: the classifier has {num_labels} labels, vocabulary.tsv {len(run.vocabulary)}")
    return classifier.eval().to(place)


class Loaded(NamedTuple):
    """All of a run that prediction needs."""

    classifier: Classifier
    """From photos [B, T, 3, H, W], T frames each, to true logits [B, K] and features [B, D]; in evaluation mode."""
    preprocessing: Preprocessing
    """From an upright RGB photo to [3, H, W]."""
    vocabulary: Vocabulary
    """The K labels."""


def load(run: Path | str) -> Loaded:
    """The classifier, preprocessing and vocabulary of a run, for programs of one's own.

        classifier, preprocessing, vocabulary = truetag.load("runs/best")
        photo = preprocessing(Image.open("a.jpg").convert("RGB"))
        logits, _ = classifier(photo[None, None])
        probabilities = dict(zip(vocabulary.words, logits[0].sigmoid().tolist()))

    Raises:
        InputError: it is no run, or it is not finished.
    """
    opened = open_run(Path(run))
    opened.require_finished()
    return Loaded(load_classifier(opened), opened.preprocessing, opened.vocabulary)


def make_classifier(config: TrainConfig, backbone: nn.Module, num_features: int, num_labels: int) -> Classifier:
    """The classifier of these settings, untrained.

    Args:
        config: the settings of the run.
        backbone: gives the features.
        num_features: D, those for the noise model alone included.
        num_labels: K.
    """
    num_head_features = num_features - getattr(backbone, "num_noise_features", 0)
    return Classifier(
        backbone,
        num_features,
        num_labels,
        config.pooling,
        dropout=step_sizes(num_head_features, dropout=config.dropout).dropout,
        layer_norm=uses_layer_norm(num_head_features, config.layer_norm),
        max_over_frames=config.level == "frame",
        frames_at_a_time=config.frames_at_a_time,
    )
