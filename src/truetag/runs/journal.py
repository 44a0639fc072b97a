"""What training writes while it runs: the history, its curves for a tracker, and checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from truetag.errors import InputError
from truetag.io.files import write_json, write_text
from truetag.runs.checkpoints import Checkpoint, CheckpointFolder
from truetag.runs.folder import append_history
from truetag.runs.tracker import Tracker

Epoch = dict[str, Any]
"""One line of the history."""


class Journal:
    """The records of one run; of several processes only one `writes`.

    Args:
        folder: the run's.
        checkpoint_seconds: the time between two checkpoints.
        writes: whether this process writes.
        log_to: the tracker that gets the metrics of each epoch.
    """

    def __init__(
        self, folder: Path, checkpoint_seconds: float, writes: bool = True, log_to: str = "tensorboard"
    ) -> None:
        self.folder, self.writes = folder, writes
        self.history: list[Epoch] = []
        self.checkpoints = CheckpointFolder(folder / "checkpoints", checkpoint_seconds)
        self.resumed: Checkpoint | None = None
        self.origin: dict[str, str | None] = {}
        self._tracker = Tracker(log_to, folder)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.close()

    def begin(self, origin: dict[str, str | None], resume: bool) -> list[list[str]]:
        """Start anew, or return to the last checkpoint and its history. Returns the skip list at that time.

        Args:
            origin: fingerprints of what else the run depends on, by what a person calls it.
            resume: whether there may be a checkpoint.

        Raises:
            InputError: the origin is not what that run was begun with.
        """
        self.origin = origin
        self.resumed = self.checkpoints.latest() if resume else None
        records: list[Epoch] = []
        skipped: list[list[str]] = []
        if self.resumed is not None:
            note = self.resumed.note
            for what, fingerprint in origin.items():
                if note["origin"].get(what) != fingerprint:
                    raise InputError(f"resume: {what} is not what {self.folder} was begun with")
            records, skipped = note["history"], note["skipped"]
        if self.writes:
            write_text(self.folder / "history.jsonl", "")
            self._tracker.begin(resume)
        for record in records:
            self.log(record)
        return skipped

    def resumed_at(self, stage: int) -> Checkpoint | None:
        """The checkpoint that training goes on from, where it lies in `stage`."""
        return self.resumed if self.resumed is not None and self.resumed.position.stage == stage else None

    def log(self, record: Epoch) -> None:
        """Add one epoch to the history."""
        self.history.append(record)
        if not self.writes:
            return
        append_history(self.folder, record)
        stage, epoch = record["stage"], record["epoch"]
        values = {name: value for name, value in record.items() if name not in ("stage", "epoch")}
        self._tracker.log(len(self.history), stage, epoch, values)

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.writes and self.checkpoints.is_due

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, with the history so far."""
        if self.writes:
            checkpoint.note.update(history=self.history, origin=self.origin)
            self.checkpoints.save(checkpoint)

    def diverged(self, what: str, ids: Sequence[str]) -> InputError:
        """The error that names the batch at which training broke down; all its ids go to diverged.json."""
        if self.writes:
            write_json(self.folder / "diverged.json", {"what": what, "ids": list(ids)})
        some = ", ".join(map(repr, ids[:8])) + (f" and {len(ids) - 8} more (diverged.json)" if len(ids) > 8 else "")
        return InputError(
            f"{what}; its batch: {some}. Look at these rows, or begin a new run with a lower learning_rate; the "
            f"checkpoints before it are kept in {self.checkpoints.folder}"
        )
