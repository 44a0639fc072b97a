"""Continuing from runs: the same one that was stopped, or stage 1 of another."""

import dataclasses
from pathlib import Path

from truetag.errors import InputError
from truetag.io.text import one_line
from truetag.models.classifier import Classifier
from truetag.runs.config import TrainConfig, require_same
from truetag.runs.folder import Run, open_run, requested_config

STAGE1_SETTINGS = (
    *("backbone", "weights", "freeze_backbone", "resolution", "num_frames", "layer_norm", "standardise"),
    *("pooling", "level", "seed", "validation_fraction", "validity"),
)


def stopped_run(out: Path, config: TrainConfig, words: tuple[str, ...]) -> Run:
    """The run in `out` that is to continue, with the settings that were asked for.

    Raises:
        InputError: it has another vocabulary or other settings.
    """
    run = open_run(out)
    if run.vocabulary.words != words:
        counts = f"{len(run.vocabulary)} words, now {len(words)}"
        raise InputError(f"resume: {out} was begun with another vocabulary ({counts})")
    require_same(requested_config(run), config, out)
    return dataclasses.replace(run, config=config)


def take_over(classifier: Classifier, run: Run, config: TrainConfig, words: tuple[str, ...]) -> None:
    """Load stage 1 of another run.

    Args:
        classifier: to be given the state.
        run: the other run.
        config: the settings of this one.
        words: the vocabulary of this one.

    Raises:
        InputError: that run has another vocabulary, or differs in a setting that stage 1 depends on.
    """
    if config.noise_model == "auto":
        raise InputError(
            "from: expected a recipe whose noise model is given, got auto, which decides on stage 1 itself"
        )
    if run.vocabulary.words != words:
        raise InputError(f"from: the vocabulary of {run.folder} is not the one given")
    # the seed too: it may have drawn the held-out part, which stage 2 must not choose its epoch on if stage 1 saw it
    for name in STAGE1_SETTINGS:
        old, new = getattr(run.config, name), getattr(config, name)
        if old != new:
            raise InputError(f"from: {run.folder} was trained with {name} {old!r}, this run has {new!r}")
    try:
        missing, unexpected = classifier.load_state_dict(run.load_state("stage1"), strict=False)
    except RuntimeError as error:
        raise InputError(f"from: stage 1 of {run.folder} does not fit this classifier ({one_line(error)})") from None
    odd = [*unexpected, *(name for name in missing if not name.startswith("backbone."))]
    if odd:
        raise InputError(f"from: stage 1 of {run.folder} does not fit this classifier ({odd[0]})")
