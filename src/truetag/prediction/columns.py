"""What the columns of a batch hold, in whichever way Ray Data, `datasets`, Spark or Daft hand photos over.

A wrong column or a value of a wrong kind is a mistake of the job, and an `InputError`. A photo that cannot be used is
not: its row gets a reason.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from truetag.data.bags import MediaBags, bags_of_files, join_bags, starts_of
from truetag.errors import InputError
from truetag.io.text import shown
from truetag.media.files import MediaFiles, Reading, SkipList
from truetag.media.photos import PhotoContent

SOURCES = ("features", "image", "path", "video")
"""The columns that can be tagged; of several, the first one here is."""
Column = Sequence[Any] | np.ndarray
_IMAGES = "bytes, a dict of bytes or path, a PIL image, or uint8 pixels [H, W], [H, W, 3] or [H, W, 4]"


class Photos(NamedTuple):
    """The photos and clips of a batch."""

    bags: MediaBags
    rows: list[int]
    """The row of each bag."""
    errors: dict[int, str]
    """Why other rows have none."""


class Vectors(NamedTuple):
    """The features of a batch."""

    features: list[Float[Tensor, "R D"]]
    rows: list[int]
    """The row of each."""
    errors: dict[int, str]
    """Why other rows have none."""


def find_source(batch: Mapping[str, Any]) -> tuple[str, int]:
    """The column to tag, and the number of rows.

    Raises:
        InputError: no column can be tagged, or the columns have several lengths.
    """
    lengths = {name: len(column) for name, column in batch.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"batch: expected columns of one length, got {shown(lengths)}")
    source = next((name for name in SOURCES if name in batch), None)
    if source is None:
        raise InputError(f"batch: expected a column {', '.join(SOURCES[:-1])} or {SOURCES[-1]}, got {shown([*batch])}")
    return source, lengths[source]


def read_photos(name: str, column: Column, media_root: Path, num_frames: int, reading: Reading = Reading()) -> Photos:
    """The photos and clips of a column; the suffix of a path shows which of the two it leads to.

    Args:
        name: of the column.
        column: its values.
        media_root: where relative paths begin.
        num_frames: frames per clip.
        reading: where frames are cached.

    Raises:
        InputError: a value is of another kind.
    """
    contents: dict[int, PhotoContent] = {}
    paths: dict[int, Path] = {}
    errors: dict[int, str] = {}
    for row, value in enumerate(column):
        found = _locate(name, value) if value is not None else None
        if found is None:
            errors[row] = f"no {name}"
        elif isinstance(found, Path):
            paths[row] = media_root / found
        else:
            contents[row] = found
    skips = SkipList(max_skipped=1.0)
    on_disk = bags_of_files([str(row) for row in paths], [*paths.values()], reading, skips, num_frames)
    names = [str(row) for row in contents]
    in_memory = MediaFiles(names, [Path(row) for row in names], [None] * len(names), [*contents.values()])
    bags = join_bags(
        [on_disk, MediaBags(in_memory.ids, in_memory.paths, in_memory, starts_of(np.ones(len(names), int)))]
    )
    return Photos(bags, [*paths, *contents], errors | {int(entry.id): entry.reason for entry in skips})


def _locate(name: str, value: Any) -> PhotoContent | Path | None:
    """The photo itself, or its path; None where there is neither.

    Raises:
        InputError: the value is of another kind.
    """
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():  # as `datasets` stores images
        content = value.get("bytes")
        value = content if content is not None else value.get("path")
    if value is None:
        return None
    if isinstance(value, str | PurePath):
        return Path(value)
    if name == "image":
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, Image.Image):
            return value
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            if value.ndim == 3 and value.shape[2] == 1:
                value = value[:, :, 0]
            if value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4)):
                return value
    got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else shown(value)
    raise InputError(f"{name}: expected {_IMAGES if name == 'image' else 'text, the path of a file'}, got {got}")


def read_features(column: Column, num_features: int, single: bool = False) -> Vectors:
    """The features of a column: numbers [D], or those of several regions, [R, D] or one after the other.

    Args:
        column: its values.
        num_features: D, what the classifier reads.
        single: whether each value is one vector [D], as of a run on embeddings.

    Raises:
        InputError: a value is not made of numbers, or not of D or a multiple of it.
    """
    features, rows = [], []
    errors: dict[int, str] = {}
    for row, value in enumerate(column):
        if value is None:
            errors[row] = "no features"
            continue
        try:
            numbers = np.array(value, dtype=np.float32)  # a copy: what comes from Arrow cannot be written to
        except (TypeError, ValueError):
            try:
                numbers = np.stack([np.asarray(part, dtype=np.float32) for part in value])  # [R, D], a region at a time
            except (TypeError, ValueError):
                raise InputError(f"features: expected {num_features} numbers, got {shown(value)}") from None
        if single and numbers.size != num_features:
            raise InputError(f"features: expected {num_features} numbers, got {list(numbers.shape)}")
        if not numbers.size or numbers.size % num_features or (numbers.ndim > 1 and numbers.shape[-1] != num_features):
            raise InputError(f"features: expected {num_features} numbers, got {list(numbers.shape)}")
        if not np.isfinite(numbers).all():
            errors[row] = "features that are not finite"
            continue
        features.append(torch.from_numpy(numbers.reshape(-1, num_features)))
        rows.append(row)
    return Vectors(features, rows, errors)


def read_errors(column: Column) -> dict[int, str]:
    """The rows that an earlier step could not use, and why.

    Raises:
        InputError: a value is no text.
    """
    errors = {row: value for row, value in enumerate(column) if value is not None}
    for value in errors.values():
        if not isinstance(value, str):
            raise InputError(f"error: expected a text or None in each row, got {shown(value)}")
    return errors


def read_tags(column: Column) -> list[list[str]]:
    """The tags of each row; none where there is no list.

    Raises:
        InputError: a value is no list of texts.
    """
    tags = []
    for value in column:
        names = [] if value is None else value
        if isinstance(names, str | bytes | Mapping) or not all(isinstance(name, str) for name in names):
            raise InputError(f"tags: expected a list of texts in each row, got {shown(value)}")
        tags.append([str(name) for name in names])
    return tags
