"""The run folder: all that training leaves behind and prediction needs. Nothing in it is ever unpickled.

config.json  vocabulary.tsv  preprocessing.json  versions.json
stage1.safetensors        the trainable part of the classifier after stage 1 (`--from` reuses it)
classifier.safetensors    the whole classifier: prediction needs nothing else
noise_model.safetensors   the noise model's plain state, absent where there is none
history.jsonl  skipped.jsonl  tensorboard/  metrics/
"""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from truetag.config import TrainConfig, config_from_dict
from truetag.data.bags import Skipped
from truetag.data.media import Preprocessing
from truetag.data.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from truetag.errors import InputError
from truetag.files import replacing, write_json, write_text

State = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """A run folder and what its small files say."""

    folder: Path
    config: TrainConfig
    vocabulary: Vocabulary
    preprocessing: Preprocessing

    def save_state(self, name: str, state: State) -> None:
        """Write NAME.safetensors, whole or not at all."""
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        with replacing(self.folder / f"{name}.safetensors") as path:
            save_file(contiguous, path)

    def load_state(self, name: str) -> State:
        """Read NAME.safetensors.

        Raises:
            InputError: it is missing or broken.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; was the run finished?") from None
        except SafetensorError as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from None

    def has_state(self, name: str) -> bool:
        """Whether NAME.safetensors is there."""
        return (self.folder / f"{name}.safetensors").is_file()

    def append_history(self, record: dict[str, Any]) -> None:
        """Add one line to history.jsonl."""
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl, one an epoch."""
        return [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]


def create_run(folder: Path, config: TrainConfig, vocabulary: Vocabulary, preprocessing: Preprocessing) -> Run:
    """Make a run folder.

    Raises:
        InputError: it exists and is not empty.
    """
    require_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_json(folder / "preprocessing.json", dataclasses.asdict(preprocessing))
    write_json(folder / "versions.json", versions())
    write_vocabulary(folder / "vocabulary.tsv", vocabulary)
    return Run(folder, config, vocabulary, preprocessing)


def require_new_folder(folder: Path) -> None:
    """Refuse a folder that something is in, before any work is done for it.

    Raises:
        InputError: it exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"out: {folder} exists already; give a new folder")


def open_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is not a run folder, or a file of it is broken.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a run folder: it holds no config.json")
    preprocessing = _read_json(folder / "preprocessing.json")
    preprocessing |= {name: tuple(preprocessing[name]) for name in ("mean", "std")}
    return Run(
        folder,
        config_from_dict(_read_json(folder / "config.json")),
        read_vocabulary(folder / "vocabulary.tsv"),
        Preprocessing(**preprocessing),
    )


def versions() -> dict[str, str]:
    """What the numbers of a run may depend on."""
    names = ("truetag", "torch", "timm", "accelerate", "datasets", "pillow", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """List the files that could not be used, one JSON line each."""
    lines = [json.dumps({"path": str(item.path), "reason": item.reason}) + "\n" for item in skipped]
    write_text(path, "".join(lines))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from None
