"""Scores and labels as a caller has them (tensors, numpy arrays, lists), made into tensors of a checked shape."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Num
from torch import Tensor

from truetag.errors import InputError

ArrayLike = Tensor | np.ndarray | Sequence[Any]


def as_tensor(values: int | ArrayLike, name: str, num_axes: int) -> Tensor:
    """A tensor without gradient, checked to have `num_axes` axes; `name` names the values in the message.

    Raises:
        InputError: it has another number of axes.
    """
    tensor = to_tensor(values)
    if tensor.ndim != num_axes:
        raise InputError(f"{name}: expected {num_axes} axes, got shape {tuple(tensor.shape)}")
    return tensor


def to_tensor(values: int | ArrayLike) -> Tensor:
    """A tensor without gradient, of any shape."""
    # np.array copies: torch warns about arrays that it may not write to
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def as_matrices(
    predicted: Annotated[ArrayLike, "N K"], truth: Annotated[ArrayLike, "N K"], name: str
) -> tuple[Num[Tensor, "N K"] | Bool[Tensor, "N K"], Num[Tensor, "N K"] | Bool[Tensor, "N K"]]:
    """Predictions and labels as two matrices of the same shape.

    Returns:
        Both as tensors, on the device of the predictions.

    Raises:
        InputError: the shapes disagree, or the predictions (called `name` in the message) contain NaN.
    """
    predicted, truth = as_tensor(predicted, name, 2), as_tensor(truth, "labels", 2)
    if predicted.shape != truth.shape:
        raise InputError(
            f"labels: expected the shape of the {name}, {tuple(predicted.shape)}, got {tuple(truth.shape)}"
        )
    if predicted.isnan().any():
        raise InputError(f"{name}: expected numbers, got {int(predicted.isnan().sum())} NaN of {predicted.numel()}")
    return predicted, truth.to(predicted.device)


def known_labels(
    labels: Num[Tensor, "N K"] | Bool[Tensor, "N K"],
) -> tuple[Float64[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """Labels of 1, 0 and -1 or NaN for unknown, taken apart.

    Returns:
        The labels with 0 in place of unknown, and a mask that is True where a label is known.

    Raises:
        InputError: a label is not 1, 0, -1 or NaN.
    """
    labels = labels if labels.is_floating_point() else labels.double()
    positive = labels == 1
    known = positive | (labels == 0)
    others = labels[~known]
    wrong = others[~(others.isnan() | (others == -1))]
    if len(wrong) > 0:
        raise InputError(f"labels: expected 1, 0, or -1 or NaN for unknown, got {wrong[0].item():g}")
    return positive.double(), known
