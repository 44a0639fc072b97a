"""The folder of a captioner: all that its training leaves behind and that writing needs. Nothing in it is unpickled.

config.json  vocabulary.tsv  versions.json
source.json               what it reads: how many features per frame, and the run or the files that they come from
captioner.safetensors     the network
history.jsonl  skipped.jsonl  tensorboard/  metrics/
checkpoints/  lock        while it is trained
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetag.captioning.config import CaptionConfig
from truetag.captioning.frames import FrameFeatures, Source
from truetag.captioning.sentences import CaptionWords
from truetag.data.vocabulary import read_vocabulary, write_vocabulary
from truetag.errors import InputError
from truetag.io.files import write_json
from truetag.io.tensors import read_tensors, write_tensors
from truetag.io.text import one_line, shown
from truetag.models.captioner import Captioner
from truetag.runs.config import config_from_dict
from truetag.runs.folder import new_folder, read_json_object, versions

_SOURCE_KEYS = {"num_features", "run", "features", "digest"}


@dataclass(frozen=True)
class CaptionerFolder:
    """The folder and the content of its small files."""

    folder: Path
    config: CaptionConfig
    words: CaptionWords
    num_features: int
    """D, of each frame."""
    source: Source
    digest: str | None
    """Of the run whose concepts it reads; None where it reads files."""

    @property
    def is_finished(self) -> bool:
        """Whether training has come to its end."""
        return self._weights.is_file()

    @property
    def _weights(self) -> Path:
        return self.folder / "captioner.safetensors"

    def build(self) -> Captioner:
        """An untrained network of the right shape."""
        config = self.config
        sizes = config.state_size, config.frame_size, config.word_size
        return Captioner(self.num_features, len(self.words), *sizes, config.dropout)

    def save(self, captioner: Captioner) -> None:
        """Write the trained network: the folder is finished."""
        write_tensors(self._weights, captioner.state_dict())

    def load(self) -> Captioner:
        """The trained network, ready to write.

        Raises:
            InputError: training has not come to its end, or the file is broken.
        """
        if not self.is_finished:
            raise InputError(f"{self.folder}: not finished; go on with the command that began it and --resume")
        captioner = self.build()
        try:
            captioner.load_state_dict(read_tensors(self._weights)[0])
        except RuntimeError as error:
            raise InputError(
                f"{self._weights}: does not fit config.json and vocabulary.tsv ({one_line(error)})"
            ) from None
        return captioner.eval()

    def require_fitting(self, features: FrameFeatures, source: Source) -> None:
        """Refuse features that the captioner was not trained on.

        Raises:
            InputError: their width differs, or the run is another one.
        """
        if source.run is not None and self.digest is not None and source.digest != self.digest:
            raise InputError(
                f"run: expected the run whose concepts {self.folder} was trained on, got {source.run}, another one"
            )
        if features.num_features != self.num_features:
            got = f"{features.num_features} from {source.run or source.features}"
            raise InputError(
                f"features: expected {self.num_features} per frame, as {self.folder} was trained on, got {got}"
            )


def create_captioner(
    folder: Path, config: CaptionConfig, words: CaptionWords, num_features: int, source: Source
) -> CaptionerFolder:
    """Make the folder; it appears with all its small files or not at all.

    Args:
        folder: to be made.
        config: the settings.
        words: what the captioner can write.
        num_features: D, of each frame.
        source: where they come from.

    Raises:
        InputError: it exists and is not empty.
    """
    content: dict[str, Any] = {"num_features": num_features, "digest": source.digest}
    with new_folder(folder) as beside:
        for name in ("run", "features"):
            path = getattr(source, name)
            content[name] = None if path is None else os.path.relpath(path, folder)
        write_json(beside / "config.json", dataclasses.asdict(config))
        write_json(beside / "source.json", content)
        write_json(beside / "versions.json", versions())
        write_vocabulary(beside / "vocabulary.tsv", words.vocabulary)
    return CaptionerFolder(folder, config, words, num_features, source, source.digest)


def open_captioner(folder: Path) -> CaptionerFolder:
    """Read the folder of a captioner.

    Raises:
        InputError: it is none, or a file of it is broken.
    """
    path = folder / "source.json"
    if not path.is_file():
        got = "a run of `truetag train`" if (folder / "config.json").is_file() else "no source.json in it"
        raise InputError(f"{folder}: expected the folder of `truetag caption train`, got {got}")
    content = read_json_object(path)
    if not content.keys() >= _SOURCE_KEYS or type(content["num_features"]) is not int:
        raise InputError(f"{path}: expected {', '.join(sorted(_SOURCE_KEYS))}, got {shown(sorted(content))}")
    run, features = (None if content[name] is None else folder / content[name] for name in ("run", "features"))
    words = CaptionWords(read_vocabulary(folder / "vocabulary.tsv"))
    try:
        config = config_from_dict(read_json_object(folder / "config.json"), CaptionConfig)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    return CaptionerFolder(folder, config, words, content["num_features"], Source(run, features), content["digest"])
