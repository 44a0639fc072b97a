"""Where the metrics of each epoch go besides history.jsonl: TensorBoard's files in the run folder, or another tracker.

The trackers are those of accelerate. TensorBoard's files are written anew when a run is resumed. The others keep what
they have: tracker.json has the run's id there and how many epochs were sent, so that none is sent twice.
"""

import importlib.util
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal, get_args

from truetag.errors import InputError
from truetag.io.files import write_json
from truetag.io.terminal import tell
from truetag.io.text import one_line, read_json

LogTo = Literal["tensorboard", "wandb", "mlflow", "trackio", "none"]
PROJECT = "truetag"
"""The project there, or the experiment, where WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names no other."""


def require_tracker(name: str) -> None:
    """Refuse a tracker whose package is not installed, before any work is done.

    Raises:
        InputError: it is not.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(f"log_to: {name} is not installed: pip install 'truetag[{name}]'")


class Tracker:
    """The epochs of one run in one tracker.

    Args:
        name: one of `LogTo`.
        folder: the run's.
    """

    def __init__(self, name: str, folder: Path) -> None:
        assert name in get_args(LogTo), name
        self.name, self.folder = name, folder
        self.id, self.num_logged = "", 0
        self._tracker: Any = None

    def begin(self, resume: bool) -> None:
        """Start the tracker: anew, or where a run that is resumed left it.

        Raises:
            InputError: it cannot be started.
        """
        if self.name == "none":
            return
        if self.name == "tensorboard":
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        elif resume and self._state.is_file():
            state = read_json(self._state)
            if state["log_to"] == self.name:
                self.id, self.num_logged = state["id"], state["num_logged"]
        self._start()

    def log(self, number: int, stage: int, epoch: int, values: dict[str, float]) -> None:
        """Log one epoch, unless it was logged before the run was resumed.

        A tracker that fails here is told of, and training goes on: history.jsonl has everything.

        Args:
            number: of the epoch, from 1 through all stages.
            stage: its stage.
            epoch: its number in the stage.
            values: the metrics by name.
        """
        if self._tracker is None or number <= self.num_logged:
            return
        self.num_logged = number
        self._save()  # first: an epoch that is lost when the run is killed here is in history.jsonl
        try:
            step = epoch if self.name == "tensorboard" else number
            self._tracker.log({f"stage{stage}/{name}": value for name, value in values.items()}, step=step)
        except Exception as error:  # of another program, perhaps over the network
            tell(f"warning: {self.name} did not take epoch {number} ({one_line(error)}); history.jsonl has it")

    def close(self) -> None:
        """End the tracker, if it was started."""
        if self._tracker is not None:
            self._tracker.finish()
            self._tracker = None

    @property
    def _state(self) -> Path:
        return self.folder / "tracker.json"

    def _save(self) -> None:
        if self.name != "tensorboard":
            write_json(self._state, {"log_to": self.name, "id": self.id, "num_logged": self.num_logged})

    def _start(self) -> None:
        is_new = not self.id
        try:
            self._tracker = self._make()
            self._tracker.start()
            if self.name == "mlflow":
                self.id = self._tracker.tracker.info.run_id
            self._save()
            if self.name != "tensorboard" and is_new:
                self._tracker.store_init_configuration(read_json(self.folder / "config.json"))
        except Exception as error:  # of another program: no account, no network
            self._tracker = None
            raise InputError(f"log_to: {self.name} does not start ({one_line(error)})") from error

    def _make(self) -> Any:
        from accelerate import tracking  # here: it takes a second, and mistakes are told at once

        self.id = self.id or (uuid.uuid4().hex[:12] if self.name in ("wandb", "trackio") else "")
        name = self.folder.resolve().name
        match self.name:
            case "tensorboard":
                return tracking.TensorBoardTracker("tensorboard", self.folder)
            case "wandb":
                project = os.environ.get("WANDB_PROJECT", PROJECT)
                return tracking.WandBTracker(project, name=name, id=self.id, resume="allow", dir=str(self.folder))
            case "trackio":
                return tracking.TrackioTracker(PROJECT, name=f"{name}-{self.id}", resume="allow")
            case _:
                return tracking.MLflowTracker(PROJECT, run_id=self.id or None, run_name=name)
