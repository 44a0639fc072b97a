"""The run folder: all that training leaves behind and prediction needs. Nothing in it is ever unpickled.

config.json  vocabulary.tsv  preprocessing.json  versions.json
chosen.json               what was chosen before training and why, and the settings that were left open
stage1.safetensors        the trainable part of the classifier after stage 1 (`--from` reuses it)
classifier.safetensors    the classifier
backbone.safetensors      its backbone, if it was frozen: a hard link to a file that runs share
noise_model.safetensors   the noise model's plain state and its name, absent where there is none
targets.safetensors       what was learnt of the labels before training, where anything was
threshold.json            the probability from which predict writes a tag, chosen on the noisy validation tags
history.jsonl  labels.tsv  skipped.jsonl  tensorboard/  metrics/
checkpoints/  lock        while it is trained

A folder that `truetag export` wrote for model hubs opens like a run: its config.json has the settings under "truetag",
and model.safetensors is the classifier, in the names of whoever is to open it.
"""

import dataclasses
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from truetag.data.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from truetag.errors import InputError
from truetag.io.files import link_or_copy, locked, write_json
from truetag.io.fingerprints import fingerprint
from truetag.io.paths import takes_paths
from truetag.io.tensors import State, digest_state, read_tensors, write_tensors
from truetag.io.text import decode, parse_line, require_file, require_text, shown, text_lines
from truetag.media.preprocessing import Preprocessing
from truetag.runs.config import TrainConfig, config_from_dict
from truetag.runs.paths import is_finished, require_finished_run, require_new_folder, require_run
from truetag.runs.settings_file import CHOICES, SETTINGS, requested

_PREDICTING = (
    *("config.json", "preprocessing.json", "vocabulary.tsv"),
    *("classifier.safetensors", "backbone.safetensors", "model.safetensors"),
)
_BACKBONE = "backbone."  # how the names of its tensors begin


@dataclass(frozen=True)
class Run:
    """A run folder and the content of its small files."""

    folder: Path
    config: TrainConfig
    vocabulary: Vocabulary
    preprocessing: Preprocessing

    def save_state(self, name: str, state: State, note: dict[str, Any] | None = None) -> None:
        """Write NAME.safetensors, whole or not at all, with a note of anything that JSON can express."""
        write_tensors(self.folder / f"{name}.safetensors", state, note)

    def load_state(self, name: str) -> State:
        """Read NAME.safetensors.

        Raises:
            InputError: it is missing or broken.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            return read_tensors(path)[0]
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file: the run is not finished; go on with the command that began it and --resume"
            ) from None

    def save_classifier(self, state: State, shared: Path | None) -> None:
        """Write the trained classifier.

        Args:
            state: all of it.
            shared: a folder for frozen backbones, which runs share: each run has a hard link to the file, and stays
                whole when it is moved or when the folder is deleted. None if the backbone was trained.
        """
        note = {}
        if shared is not None:
            backbone = {name: tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}
            state = {name: tensor for name, tensor in state.items() if name not in backbone}
            note["backbone"] = digest = _digest(backbone)
            original = shared / f"{digest}.safetensors"
            if not _holds(original, digest):
                write_tensors(original, backbone)
            link_or_copy(original, self.folder / "backbone.safetensors")
        self.save_state("classifier", state, note)

    def load_classifier_state(self) -> State:
        """Read the trained classifier.

        Raises:
            InputError: a file of it is missing or broken.
        """
        if self.is_exported:
            return self.load_state("model")
        state = self.load_state("classifier")
        digest = read_tensors(self.folder / "classifier.safetensors")[1].get("backbone")
        if digest is not None:
            path = self.folder / "backbone.safetensors"
            if not _holds(path, digest):
                got = "another one" if path.is_file() else "no such file"
                raise InputError(
                    f"{path}: expected the frozen backbone that the run was trained with, got {got}; copy it from the "
                    "run's first place, or from a run with the same backbone and weights"
                )
            state |= self.load_state("backbone")
        return state

    @cached_property
    def digest(self) -> str:
        """A fingerprint of all files that predictions depend on, when it is first asked for."""
        paths = (self.folder / name for name in _PREDICTING)
        return fingerprint(path.read_bytes() for path in paths if path.is_file())

    def has_state(self, name: str) -> bool:
        """Whether NAME.safetensors is there."""
        return (self.folder / f"{name}.safetensors").is_file()

    @property
    def is_exported(self) -> bool:
        """Whether it is a folder that `truetag export` wrote."""
        return self.has_state("model")

    @property
    def is_finished(self) -> bool:
        """Whether training has come to its end."""
        return is_finished(self.folder)

    def require_finished(self) -> None:
        """Refuse a run that cannot predict yet.

        Raises:
            InputError: training has not come to its end.
        """
        require_finished_run(self.folder)

    def record_choice(self, config: TrainConfig, note: dict[str, Any]) -> None:
        """Make config.json what is trained, and chosen.json what was chosen, why, and what was asked for instead."""
        before = dataclasses.asdict(requested_config(self))
        changed = {name: before[name] for name in note["chosen"] if before[name] != getattr(config, name)}
        # in this order: a run that is killed in between still knows what was asked for
        write_json(self.folder / CHOICES, note | {"requested": changed})
        write_json(self.folder / "config.json", dataclasses.asdict(config))

    def save_threshold(self, threshold: float) -> None:
        """Write threshold.json."""
        write_json(self.folder / "threshold.json", {"threshold": threshold})

    def threshold(self) -> float | None:
        """The probability from which a tag counts as predicted; None where training has chosen none.

        Raises:
            InputError: threshold.json is broken.
        """
        path = self.folder / "threshold.json"
        if not path.is_file():
            return None
        value = read_json_object(path).get("threshold")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise InputError(f"{path}: threshold: expected a probability between 0 and 1, got {shown(value)}")
        return float(value)

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl, one per epoch.

        Raises:
            InputError: the file is missing or broken.
        """
        path = self.folder / "history.jsonl"
        require_file(path, "history")
        rows = []
        for line, text in text_lines(path):
            row = parse_line(f"{path}, line {line}", text)
            if row is not None:
                if not {"stage", "epoch"} <= row.keys():
                    raise InputError(f"{path}, line {line}: expected a stage and an epoch, got {shown(row)}")
                rows.append(row)
        return rows


def _digest(state: State) -> str:
    return digest_state(dict(sorted(state.items())))  # a file does not keep the order of tensors


def _holds(path: Path, digest: str) -> bool:
    """Whether a file holds the state with this digest."""
    try:
        return _digest(read_tensors(path)[0]) == digest
    except (FileNotFoundError, InputError):
        return False


def create_run(folder: Path, config: TrainConfig, vocabulary: Vocabulary, preprocessing: Preprocessing) -> Run:
    """Make a run folder, whole or not at all.

    Args:
        folder: to be made.
        config: the settings.
        vocabulary: the labels.
        preprocessing: what the backbone expects of a photo.

    Raises:
        InputError: it exists and is not empty.
    """
    with new_folder(folder) as beside:
        write_json(beside / "config.json", dataclasses.asdict(config))
        write_json(beside / "preprocessing.json", dataclasses.asdict(preprocessing))
        write_json(beside / "versions.json", versions())
        write_vocabulary(beside / "vocabulary.tsv", vocabulary)
    return Run(folder, config, vocabulary, preprocessing)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that appears whole or not at all, at the end of the block.

    Raises:
        InputError: it exists and is not empty.
    """
    require_new_folder(folder)
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed here
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.replace(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def append_history(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to the history.jsonl of a run."""
    with (folder / "history.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def lock_run(folder: Path) -> AbstractContextManager[None]:
    """Hold a run for writing.

    Raises:
        InputError: another process does.
    """
    return locked(folder / "lock", refusal=f"out: {folder} is in use")


@takes_paths
def open_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is not a run folder, or a file of it is broken.
    """
    require_run(folder)
    return Run(
        folder,
        _read_config(folder / "config.json"),
        read_vocabulary(folder / "vocabulary.tsv"),
        _read_preprocessing(folder / "preprocessing.json"),
    )


def requested_config(run: Run) -> TrainConfig:
    """The settings that were asked for, some of which may have been left open (`chosen.json`).

    Raises:
        InputError: chosen.json is broken.
    """
    path = run.folder / CHOICES
    if not path.is_file():
        return run.config
    before = requested(path, read_json_object(path))
    try:
        return config_from_dict(dataclasses.asdict(run.config) | before)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def versions() -> dict[str, str]:
    """The versions that the numbers of a run may depend on."""
    names = ("truetag", "torch", "timm", "accelerate", "datasets", "pillow", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def _read_config(path: Path) -> TrainConfig:
    values = read_json_object(path)
    values = values.get(SETTINGS, values)
    if not isinstance(values, dict):
        raise InputError(f"{path}: {SETTINGS}: expected the settings of a run, got {shown(values)}")
    if missing := [name for name in ("backbone", "resolution", "pooling") if name not in values]:
        raise InputError(f"{path}: expected the settings of a run, {', '.join(missing)} among them")
    try:
        return config_from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_preprocessing(path: Path) -> Preprocessing:
    values = read_json_object(path)
    names = [field.name for field in dataclasses.fields(Preprocessing)]
    if set(values) != set(names):
        raise InputError(f"{path}: expected {', '.join(names)}, got {shown(sorted(values))}")
    side, interpolation = values["resolution"], values["interpolation"]
    if type(side) is not int or not 0 < side < 2**15:
        raise InputError(f"{path}: resolution: expected a side in pixels, got {shown(side)}")
    filters = [kind.name.lower() for kind in Image.Resampling]
    if interpolation not in filters:
        raise InputError(f"{path}: interpolation: expected one of {', '.join(filters)}, got {shown(interpolation)}")
    for name, lowest, kind in (("mean", -1e6, "numbers"), ("std", 1e-6, "numbers above 0")):
        got = values[name] if isinstance(values[name], list) else []
        if len(got) != 3 or not all(type(value) in (int, float) and lowest <= value < 1e6 for value in got):
            raise InputError(f"{path}: {name}: expected three {kind}, got {shown(values[name])}")
    return Preprocessing(side, tuple(values["mean"]), tuple(values["std"]), interpolation)


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a small file of a run.

    Raises:
        InputError: it is missing or no JSON object.
    """
    require_file(path, "file of a run")
    content = path.read_bytes()
    require_text(path, content[:64])
    value = parse_line(str(path), decode(str(path), content))
    if value is None:
        raise InputError(f"{path}: not a JSON object, the file is empty")
    return value
