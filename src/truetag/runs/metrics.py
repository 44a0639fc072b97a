"""The scores that `truetag evaluate` leaves in a run: metrics/NAME.json, and the curves of each label beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float64, Int64
from torch import Tensor

from truetag.errors import InputError
from truetag.evaluation.curves import Reliability
from truetag.io.tensors import read_tensors, write_tensors
from truetag.io.text import text_lines
from truetag.runs.folder import read_json_object
from truetag.truth import Metrics

_NEEDED = {"split", "truth", "num_examples", "mean_ap", "count_mean_ap", "op", "or", "of1", "ece", "threshold"}


class Curves(NamedTuple):
    """Of K labels, in the order of the vocabulary; all in 0..1, NaN where nothing can be said."""

    precision: Float64[Tensor, "K P"]
    """The highest precision at a recall of at least 0, 1 / (P - 1), .., 1."""
    reliability: Reliability

    @property
    def num_positives(self) -> Int64[Tensor, "K"]:
        """How many of the scored examples have each label."""
        return (self.reliability.counts * self.reliability.shares.nan_to_num()).sum(1).round().long()


def read_metrics(folder: Path) -> Iterator[tuple[str, Metrics]]:
    """The scores of a run by the names of their files, without the suffix.

    Raises:
        InputError: a file holds something else.
    """
    for path in sorted((folder / "metrics").glob("*.json")):
        metrics = read_json_object(path)
        if missing := _NEEDED - metrics.keys():
            raise InputError(
                f"{path}: expected the scores of `truetag evaluate`, got none for {', '.join(sorted(missing))}"
            )
        yield path.stem, metrics


def write_curves(folder: Path, name: str, curves: Curves) -> None:
    """Write metrics/NAME.curves.safetensors."""
    state = {"precision": curves.precision, **curves.reliability._asdict()}
    write_tensors(_curves_path(folder, name), state)


def read_curves(folder: Path, name: str, num_labels: int) -> Curves | None:
    """The curves behind metrics/NAME.json; None where an earlier version scored the run.

    Raises:
        InputError: the file is broken, or of another number of labels.
    """
    path = _curves_path(folder, name)
    if not path.is_file():
        return None
    state, _ = read_tensors(path)
    names = ("precision", *Reliability._fields)
    if set(state) != set(names) or any(tensor.ndim != 2 or len(tensor) != num_labels for tensor in state.values()):
        raise InputError(f"{path}: expected the curves of {num_labels} labels; `truetag evaluate` writes them")
    return Curves(state["precision"], Reliability(*(state[name] for name in Reliability._fields)))


def _curves_path(folder: Path, name: str) -> Path:
    return folder / "metrics" / f"{name}.curves.safetensors"


def read_label_counts(folder: Path) -> dict[str, tuple[int, int, int]]:
    """How often each label is present, absent and unknown in training; empty where a run has no labels.tsv.

    Raises:
        InputError: a line of it is something else.
    """
    path = folder / "labels.tsv"
    if not path.is_file():
        return {}
    rows = {}
    for number, line in text_lines(path):
        word, *counts = line.rstrip("\r\n").split("\t")
        if number > 1:
            try:
                present, absent, unknown = map(int, counts)
            except ValueError:
                raise InputError(f"{path}, line {number}: expected a word and three counts") from None
            rows[word] = (present, absent, unknown)
    return rows
