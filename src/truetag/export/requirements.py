"""What an export needs beside a run, refused before any work is done; nothing here imports torch."""

import importlib.util
import os

from truetag.errors import InputError
from truetag.io.text import shown

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOKEN = "HF_TOKEN"
"""The environment variable with the token; none is read from anywhere else."""


def require_onnx() -> None:
    """Refuse to begin without the packages that write and run ONNX.

    Raises:
        InputError: one is not installed.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"format: ONNX needs {', '.join(missing)}: pip install 'truetag[export]'")


def require_access(repository: str) -> str:
    """The token for the model hub.

    Raises:
        InputError: the name is not that of a repository, or the environment has no token.
    """
    from huggingface_hub.errors import HFValidationError  # here, as few exports are pushed
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        is_name = repository.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise InputError(f"push_to_hub: expected OWNER/NAME, got {shown(repository)}")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(f"push_to_hub: expected a token in the environment variable {TOKEN}, got none")
    return token
