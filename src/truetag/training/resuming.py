"""Going on from runs: the same one that was stopped, or stage 1 of another."""

import dataclasses
from pathlib import Path

from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.io.text import one_line
from truetag.models.classifier import Classifier
from truetag.runs.config import MACHINE_SETTINGS, TrainConfig
from truetag.runs.folder import Run, open_run

STAGE1_SETTINGS = (
    *("backbone", "weights", "freeze_backbone", "resolution", "num_frames"),
    *("pooling", "level", "seed", "validation_fraction", "validity"),
)


def stopped_run(out: Path, config: TrainConfig, vocabulary: Vocabulary) -> Run:
    """The run in `out` that is to go on.

    Raises:
        InputError: it has another vocabulary or other settings.
    """
    run = open_run(out)
    if run.vocabulary.words != vocabulary.words:
        counts = f"{len(run.vocabulary)} words, now {len(vocabulary)}"
        raise InputError(f"resume: {out} was begun with another vocabulary ({counts})")
    for field in dataclasses.fields(config):
        theirs, ours = getattr(run.config, field.name), getattr(config, field.name)
        if theirs != ours and field.name not in MACHINE_SETTINGS:
            raise InputError(f"resume: {out} was begun with {field.name} {theirs!r}, now it is {ours!r}")
    return dataclasses.replace(run, config=config)


def take_over(classifier: Classifier, source: Run, config: TrainConfig, vocabulary: Vocabulary) -> None:
    """Load stage 1 of another run.

    Raises:
        InputError: that run has another vocabulary, or differs in a setting that stage 1 depends on.
    """
    if source.vocabulary.words != vocabulary.words:
        raise InputError(f"from: the vocabulary of {source.folder} is not the one given")
    # the seed too: it may have drawn the held-out part, which stage 2 must not choose its epoch on if stage 1 saw it
    for name in STAGE1_SETTINGS:
        theirs, ours = getattr(source.config, name), getattr(config, name)
        if theirs != ours:
            raise InputError(f"from: {source.folder} was trained with {name} {theirs!r}, this run has {ours!r}")
    try:
        missing, unexpected = classifier.load_state_dict(source.load_state("stage1"), strict=False)
    except RuntimeError as error:
        raise InputError(f"from: stage 1 of {source.folder} does not fit this classifier ({one_line(error)})") from None
    if unexpected or any(not name.startswith("backbone.") for name in missing):
        raise InputError(
            f"from: stage 1 of {source.folder} does not fit this classifier ({[*unexpected, *missing][0]})"
        )
