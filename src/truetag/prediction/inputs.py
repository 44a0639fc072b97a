"""What a person asks for, checked before anything is loaded; nothing here imports torch."""

from collections.abc import Sequence
from pathlib import Path

from truetag.data.embeddings import is_embeddings
from truetag.data.manifest import read_header
from truetag.errors import InputError

MANIFEST_SUFFIXES = (".jsonl", ".parquet")


def require_inputs(inputs: Sequence[Path]) -> None:
    """Refuse inputs that are not there, and manifests that are none.

    Raises:
        InputError: there are no inputs, or one of them is not what it should be.
    """
    if not inputs:
        raise InputError("inputs: expected photos, clips, folders or manifests, got none")
    for item in inputs:
        if not item.exists():
            raise InputError(f"inputs: no such photo, clip, folder or manifest: {item}")
        if item.suffix in MANIFEST_SUFFIXES and not item.is_dir() and not is_embeddings(item):
            read_header(item)


def check_choice(threshold: float | None, top_k: int | None) -> None:
    """Refuse what no choice can be made of.

    Raises:
        InputError: the threshold is no probability, or `top_k` is below 1.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold: expected a probability between 0 and 1, got {threshold:g}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k: expected at least 1, got {top_k}")
