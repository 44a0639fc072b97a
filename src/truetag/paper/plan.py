"""The time and disk space that a reproduction will take: one step is timed on this machine, the rest is counted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from truetag.io.text import file_size
from truetag.losses import q_likelihood
from truetag.models.backbones import load_backbone
from truetag.models.features import feature_spec
from truetag.runs.config import TrainConfig
from truetag.training.train import build_classifier

_TIMED_FRAMES = 2
_STORED_FRAME = 25_000  # bytes
_COPIES_OF_WEIGHTS = 2  # per run: after stage 1 and at the end
_CHECKPOINT_COPIES = 4  # of the run in progress: its weights, its best weights, and two of the optimiser's state


@dataclass(frozen=True)
class Job:
    """One run that is still to be trained: its settings, and whether it reuses the stage 1 of another run."""

    config: TrainConfig
    reuses_stage1: bool


@dataclass(frozen=True)
class Costs:
    """What one frame and one copy of the weights cost."""

    step: float
    """Seconds per frame of a training step."""
    forward: float
    """Seconds per frame of a forward pass alone."""
    weights: int
    """Bytes of one copy of the weights."""
    features: int
    """Bytes of one frame's features."""


def measure(config: TrainConfig, num_labels: int) -> Costs:
    """Time one step on blank photos, without fetching weights."""
    config = replace(config, frames_at_a_time=0)
    backbone, preprocessing = load_backbone(config.backbone, "none", config.resolution)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = build_classifier(config, backbone, preprocessing, num_labels).to(device)
    spec = feature_spec(classifier, config.backbone, "", preprocessing)
    photos = torch.zeros(_TIMED_FRAMES, 1, 3, config.resolution, config.resolution, device=device)
    labels = torch.zeros(_TIMED_FRAMES, num_labels, device=device)

    def step() -> None:
        q_likelihood(classifier(photos)[0], labels, 0.0, "sum_labels").backward()

    def forward() -> None:
        with torch.inference_mode():
            classifier(photos)[0].sum().item()

    seconds = [_time(work) / _TIMED_FRAMES for work in (step, forward)]
    weights = sum(tensor.nbytes for tensor in classifier.state_dict().values())
    features = spec.num_features * spec.num_regions * (2 if spec.dtype == "float16" else 4)
    return Costs(seconds[0], seconds[1], weights, features)


def describe(
    jobs: Sequence[Job], costs: Costs, num_frames: int, num_train: int, num_validation: int, num_test: int
) -> str:
    """One sentence with the number of the remaining runs, their time and their disk space.

    Args:
        jobs: the remaining runs.
        costs: as measured on this machine.
        num_frames: of each bag; 1 for photos.
        num_train: bags to train on.
        num_validation: bags to validate on.
        num_test: bags to score.
    """
    seconds, disk = 0.0, 0
    frozen = [job.config for job in jobs if job.config.freeze_backbone]
    if frozen:
        seconds += costs.forward * num_frames * (num_train + num_validation + num_test)
        disk += costs.features * num_frames * (num_train + num_validation + num_test)
    for job in jobs:
        config = job.config
        epochs = config.stage2_epochs + (0 if job.reuses_stage1 else config.stage1_epochs)
        if not config.freeze_backbone:
            # in chunks of frames, the forward pass runs twice
            second_pass = costs.forward if config.frames_at_a_time else 0.0
            epoch = (costs.step + second_pass) * num_train + costs.forward * num_validation
            seconds += num_frames * (epochs * epoch + costs.forward * num_test)
        disk += _COPIES_OF_WEIGHTS * costs.weights
    disk += _CHECKPOINT_COPIES * costs.weights
    if num_frames > 1:
        disk += _STORED_FRAME * num_frames * (num_train + num_validation + num_test)
    unit = "clips" if num_frames > 1 else "photos"
    return (
        f"{len(jobs)} runs on {num_train:,} {unit} (and {num_validation:,} for validation, {num_test:,} for the test): "
        f"about {_duration(seconds)} on this machine, not counting decoding, and {file_size(disk)} of disk"
    )


def _time(work: Callable[[], None]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
