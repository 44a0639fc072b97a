"""Named tensors on disk, with a note beside them: safetensors, written whole or not at all, never a pickle."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from truetag.errors import InputError
from truetag.io.files import replacing
from truetag.io.fingerprints import fingerprint

State = dict[str, Tensor]


def write_tensors(path: Path, state: State, note: dict[str, Any] | None = None) -> None:
    """Write tensors, and a note of anything that JSON can hold.

    Raises:
        OSError: the disk is full or read-only.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, {"note": json.dumps(note or {})})
        except SafetensorError as error:
            # safetensors hides the system's error in its text
            if system := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(system[1]), os.strerror(int(system[1])), str(path)) from None
            raise


def read_tensors(path: Path) -> tuple[State, dict[str, Any]]:
    """Read a file of `write_tensors`.

    Returns:
        The tensors and the note.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is broken.
    """
    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {}).get("note", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118  (file is no dict)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error!s:.160})") from None


def copy_state(state: State) -> State:
    """The values as they are now, in memory of their own on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def digest_state(state: State) -> str:
    """A fingerprint of names and values."""

    def parts() -> Iterator[str | memoryview]:
        for name, tensor in state.items():
            yield name
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return fingerprint(parts())
