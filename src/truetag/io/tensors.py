"""Named tensors on disk, with a note beside them: safetensors, written whole or not at all, never a pickle."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from truetag.errors import InputError
from truetag.io.files import replacing

State = dict[str, Tensor]


def write_tensors(path: Path, state: State, note: dict[str, Any] | None = None) -> None:
    """Write tensors, and a note of anything that JSON can say.

    Raises:
        OSError: the disk is full or read-only.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, {"note": json.dumps(note or {})})
        except SafetensorError as error:
            # it hides the system's error in its text
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
            raise


def digest_state(state: State) -> str:
    """A fingerprint of names and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[State, dict[str, Any]]:
    """The tensors and the note.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is broken.
    """
    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {}).get("note", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, note  # noqa: SIM118  (it is no dict)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error!s:.160})") from None
