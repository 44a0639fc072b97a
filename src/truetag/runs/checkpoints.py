"""Checkpoints: everything that decides the future of a run, so that it continues as if it had never stopped.

A checkpoint is one file, there whole or not at all, named by its position in training, STAGE-EPOCH-STEP.safetensors. It
holds the weights, those of the best epoch so far, and the optimiser; its note holds the schedule, the history and the
skip list.

It holds no state of a random generator, because none outlives a step: (seed, epoch) decides the order of examples, and
before each step the generator of dropout is seeded with (seed, stage, epoch, step, process).
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from truetag.errors import InputError
from truetag.io.files import remove_leftovers
from truetag.io.tensors import State, read_tensors, write_tensors
from truetag.io.terminal import tell


@dataclass
class Position:
    """Where training stands: `step` steps of `epoch` are done; and the best epoch of the stage so far."""

    stage: int
    epoch: int = 1
    step: int = 0
    total_loss: float = 0.0
    """Sum of the losses of the steps of this epoch."""
    best_epoch: int = 0
    """0 is the state that the stage began with."""
    best_score: float = -1.0
    """Of that epoch; the higher the better."""


@dataclass(frozen=True)
class Checkpoint:
    """A position, the weights there and of the best epoch before it, the optimiser, a note in JSON, and averages."""

    position: Position
    network: State
    best: State
    optimiser: State
    note: dict[str, Any] = field(default_factory=dict)
    average: State = field(default_factory=dict)
    """The moving average of the weights; empty without one."""


_PARTS = ("network", "best", "optimiser", "average")


KEPT = 2
"""Checkpoints kept while training: the older one in case the newer is damaged."""


class CheckpointFolder:
    """The last `KEPT` checkpoints of a run; a new one is due every so many seconds."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.saved = time.monotonic()
        self._broken: set[Path] = set()

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self.saved >= self.seconds

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove older ones and any that were found to be broken.

        Raises:
            InputError: the disk is full or read-only; the checkpoints before it are as they were.
        """
        position = checkpoint.position
        state = {f"{part}/{name}": tensor for part in _PARTS for name, tensor in getattr(checkpoint, part).items()}
        path = self.folder / f"{position.stage}-{position.epoch:06d}-{position.step:09d}.safetensors"
        try:
            write_tensors(path, state, checkpoint.note | {"position": vars(position)})
        except OSError as error:
            count = len(self._paths())
            kept = f"{count} earlier ones are kept: --resume goes on from the last" if count else "there is none yet"
            raise InputError(f"{self.folder}: cannot write a checkpoint ({error.strerror}); {kept}") from error
        self._broken.discard(path)
        older = [other for other in self._paths() if other not in self._broken][:-KEPT]
        for other in {*older, *self._broken}:
            other.unlink(missing_ok=True)
        remove_leftovers(self.folder)
        self.saved = time.monotonic()

    def latest(self) -> Checkpoint | None:
        """The last checkpoint that can be read; None where there is none.

        Raises:
            InputError: there are some, and all of them are broken.
        """
        reasons = []
        for path in reversed(self._paths()):
            try:
                state, note = read_tensors(path)
                position = Position(**note.pop("position"))
            except (InputError, FileNotFoundError, KeyError, TypeError) as error:
                reasons.append(f"{path.name} ({error})")
                self._broken.add(path)
                continue
            if reasons:
                tell(f"passed over a broken checkpoint: {'; '.join(reasons)}")
            parts: dict[str, State] = {part: {} for part in _PARTS}
            for name, tensor in state.items():
                part, _, key = name.partition("/")
                parts[part][key] = tensor
            return Checkpoint(position, **parts, note=note)
        if reasons:
            raise InputError(f"resume: no checkpoint in {self.folder} can be read: {'; '.join(reasons)}")
        return None

    def clear(self) -> None:
        """Remove them all: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))


def optimiser_state(optimiser: torch.optim.Optimizer) -> State:
    """The tensors of an optimiser; its settings come from the config and the schedule."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimiser_state(optimiser: torch.optim.Optimizer, tensors: State) -> None:
    """Put `optimiser_state` back into an optimiser over the same parameters."""
    content = optimiser.state_dict()
    content["state"] = {}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for key, tensor in tensors.items():
        index, _, name = key.partition("/")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:  # in its memory format, on which the rounding of a step may depend
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        content["state"].setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict(content)


def load_schedule_state(schedule: Any, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a schedule back where it was, and its learning rates into the optimiser.

    Args:
        schedule: of the learning rates of the optimiser; that of torch, or what accelerate has made of it.
        optimiser: gets the rates.
        state: what the schedule's `state_dict` has given.
    """
    schedule.load_state_dict(state)
    for group, rate in zip(optimiser.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
