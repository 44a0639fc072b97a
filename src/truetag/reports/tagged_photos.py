"""Photos with what is true of them and what runs say of them: right, incorrect and missing words [Fig. 4]."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from truetag.data.bags import read_bags
from truetag.data.labels import label_matrix
from truetag.data.manifest import Manifest
from truetag.media.files import Reading
from truetag.prediction.inference import predict_manifest
from truetag.runs.folder import Run

Kind = Literal["right", "incorrect", "missing"]


@dataclass(frozen=True)
class TaggedPhoto:
    """A photo, its true words, and of each run the words that it gives or fails to give."""

    path: Path
    truth: list[str]
    answers: dict[str, list[tuple[str, Kind]]]


def tag_photos(
    manifest: Manifest,
    runs: Mapping[str, Run],
    truth: Literal["captions", "tags", "true"],
    threshold: float | None = None,
    parts_of_speech: Collection[str] | None = None,
    reading: Reading = Reading(),
) -> list[TaggedPhoto]:
    """Every photo of a (small) manifest with the words of runs of one vocabulary.

    Args:
        manifest: the photos.
        runs: by the name they are shown with.
        truth: what counts as true.
        threshold: a run gives the words of at least this probability; without it, its likeliest ones, as many as are
            true.
        parts_of_speech: only words of these.
        reading: how photos and clips are read.
    """
    vocabulary = next(iter(runs.values())).vocabulary
    true = label_matrix(manifest.rows, vocabulary, truth) == 1
    shown = torch.tensor([not parts_of_speech or part in parts_of_speech for part in vocabulary.parts_of_speech])
    true &= shown
    bags = read_bags(manifest, reading=reading)
    given: dict[str, dict[int, Tensor]] = {}
    for name, run in runs.items():
        prediction = predict_manifest(run, manifest, None, reading)
        probabilities = torch.where(shown, prediction.logits.sigmoid(), -1.0)
        given[name] = {
            place: answer >= (threshold if threshold is not None else _smallest_of(answer, int(true[place].sum())))
            for place, answer in zip(prediction.rows, probabilities, strict=True)
        }
    usable = sorted(set.intersection(*(set(answers) for answers in given.values())))
    return [
        TaggedPhoto(
            bags.paths[place],
            [word for word, holds in zip(vocabulary.words, true[place].tolist(), strict=True) if holds],
            {name: _judge(vocabulary.words, answers[place], true[place]) for name, answers in given.items()},
        )
        for place in usable
    ]


def _smallest_of(probabilities: Tensor, count: int) -> float:
    """The smallest of the `count` largest probabilities."""
    return probabilities.topk(count).values[-1].item() if count else 2.0


def _judge(words: tuple[str, ...], given: Tensor, true: Tensor) -> list[tuple[str, Kind]]:
    """Given words first, then those that are missing."""
    kinds: list[tuple[str, Kind]] = []
    for word, said, holds in zip(words, given.tolist(), true.tolist(), strict=True):
        if said or holds:
            kinds.append((word, "missing" if not said else "right" if holds else "incorrect"))
    return sorted(kinds, key=lambda entry: entry[1] == "missing")
