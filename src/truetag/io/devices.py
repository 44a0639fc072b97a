"""Where tensors are computed, by name."""

from typing import Any

import torch

from truetag.errors import InputError


def find_device(name: Any) -> torch.device:
    """The device that torch calls so ("cpu", "cuda", "cuda:1"); for "auto", a GPU where there is one.

    Raises:
        InputError: there is no such device here.

    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:  # what torch raises depends on how it was built
        reason = str(error).partition("\n")[0]
        raise InputError(f"device: expected 'auto' or a device that is here, got {name!r}: {reason}") from None
