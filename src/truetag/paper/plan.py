"""A reproduction before it is begun: which runs remain, and the time and disk space that they take.

One step is timed on this machine; the rest is counted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.io.text import duration, file_size
from truetag.losses import q_likelihood
from truetag.media.files import Reading
from truetag.models.backbones import load_backbone
from truetag.models.building import build_classifier
from truetag.models.features import feature_spec
from truetag.paper.corpora import Corpus
from truetag.paper.tables import Row
from truetag.runs.config import TrainConfig
from truetag.runs.folder import open_run
from truetag.runs.paths import is_run
from truetag.training.recipes import RecipeName, settings_of, stage1_of

_TIMED_FRAMES = 2
_STORED_FRAME = 25_000  # bytes
_COPIES_OF_WEIGHTS = 2  # per run: after stage 1 and at the end
_CHECKPOINT_COPIES = 4  # of the run in progress: its weights, its best weights, and two of the optimiser's state


@dataclass(frozen=True)
class Reproduction:
    """A table or figure to reproduce: its data, its rows, and how their runs are trained."""

    out: Path
    corpus: Corpus
    rows: tuple[Row, ...]
    config: TrainConfig
    """The schedule; each row sets its own pooling and noise model."""
    reading: Reading
    """How photos and clips are read."""
    repetition: int = 0
    """Which of several seeds this is; the first one keeps its runs where a single one does."""

    def repeated(self, repetition: int) -> "Reproduction":
        """The same with the seed that comes so many after the first."""
        config = replace(self.config, seed=self.config.seed + repetition)
        return replace(self, config=config, repetition=repetition)

    def swapped_manifest(self, num_swapped: int) -> Path:
        """The manifest with so many captions of each photo exchanged."""
        suffix = f"-seed-{self.config.seed}" if self.repetition else ""
        return self.corpus.folder / f"swap{num_swapped}{suffix}.jsonl"

    def run_folder(self, row: Row, recipe: RecipeName) -> Path:
        """The run of a recipe on a row's data."""
        level = "-frame" if row.level == "frame" else ""
        runs = self.out / "runs" / (f"seed-{self.config.seed}" if self.repetition else "")
        return runs / f"{self.corpus.name}-swap{row.num_swapped}{level}" / recipe

    def metrics_path(self, run_folder: Path) -> Path:
        """The scores of a run on the split that the paper reports."""
        return run_folder / "metrics" / f"{self.corpus.manifest.stem}-{self.corpus.scored_split}.json"


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


def remaining_runs(reproduction: Reproduction) -> list[tuple[Row, RecipeName]]:
    """The runs still to be trained, in order and each once: a stage 1 comes before the runs that reuse it."""
    runs: dict[Path, tuple[Row, RecipeName]] = {}
    for row in reproduction.rows:
        for recipe in (row.recipe and stage1_of(row.recipe), row.recipe):
            if recipe is not None:
                runs.setdefault(reproduction.run_folder(row, recipe), (row, recipe))
    return [run for folder, run in runs.items() if not (is_run(folder) and open_run(folder).is_finished)]


def describe_plan(reproductions: Sequence[Reproduction]) -> str:
    """One sentence on the runs that remain, of one seed or several; see `describe`."""
    config, corpus = reproductions[0].config, reproductions[0].corpus
    runs = [run for reproduction in reproductions for run in remaining_runs(reproduction)]
    if not runs:
        return "every run is finished"
    splits = read_manifest(corpus.manifest).rows["split"][:]
    jobs = [Job(settings_of(recipe, config, row.level), stage1_of(recipe) is not None) for row, recipe in runs]
    return describe(
        jobs,
        measure(config, len(read_vocabulary(corpus.vocabulary))),
        num_frames=config.num_frames if corpus.name == "msrvtt" else 1,
        num_train=splits.count("train"),
        num_validation=splits.count("validation"),
        num_test=splits.count(corpus.scored_split),
    )


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
        f"about {duration(seconds)} on this machine, not counting decoding, and {file_size(disk)} of disk"
    )


def _time(work: Callable[[], None]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
