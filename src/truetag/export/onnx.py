"""The classifier as one ONNX file, with all that a program without truetag needs beside the pixels.

    input       [batch, 3, H, W] photos, [batch, frames, 3, H, W] clips, or [batch, D] embeddings, for a run on such;
                batch and frames are free
    prediction  [batch, K] probabilities
    logits      [batch, K]

The metadata (`metadata_props`) has JSON under labels, thresholds, function_words and preprocessing.
"""

import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truetag.data.vocabulary import function_words
from truetag.errors import InputError
from truetag.evaluation.decisions import DEFAULT_THRESHOLD
from truetag.io.text import file_size, one_line
from truetag.models.classifier import Classifier
from truetag.runs.config import EMBEDDINGS
from truetag.runs.folder import Run

TOLERANCE = 1e-4
"""The largest difference of a probability between PyTorch and ONNX Runtime."""
_LARGEST_FILE = 2**31 - 2**20  # protobuf's limit, less the graph


class _Probabilities(nn.Module):
    """Probabilities and logits of photos, clips or embeddings, without padding."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: Float[Tensor, "B ..."]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        match inputs.ndim:
            case 2:
                bags = inputs[:, None, None]  # B 1 1 D
            case 4:
                bags = inputs.unsqueeze(1)  # B 1 3 H W
            case _:
                bags = inputs
        logits, _ = self.classifier(bags)
        return logits.sigmoid(), logits


def write_onnx(path: Path, run: Run, classifier: Classifier, clips: bool = False) -> float:
    """Write the classifier as ONNX, and run it once to compare it with PyTorch.

    Args:
        path: the file to write; the weights are inside.
        run: its vocabulary, preprocessing and threshold.
        classifier: on the CPU, in evaluation mode.
        clips: take the frames of clips instead of photos.

    Returns:
        The largest difference of a probability, over random inputs.

    Raises:
        InputError: the classifier is too large for one file, cannot be expressed, or does not give the same.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in classifier.state_dict().values())
    if size > _LARGEST_FILE:
        raise InputError(f"format: an ONNX file holds {file_size(_LARGEST_FILE)}, got weights of {file_size(size)}")
    classifier.frames_at_a_time = 0  # which saves memory while training, and depends on the number of frames
    network, side = _Probabilities(classifier).eval(), run.preprocessing.resolution
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 3, side, side) if clips else (2, 3, side, side)
    if run.config.backbone == EMBEDDINGS:
        shape = (2, classifier.num_features)
    free = {0: "batch", 1: "frames"} if clips else {0: "batch"}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about the exporter's own code
            program: Any = torch.onnx.export(
                network,
                (torch.randn(shape, generator=generator),),
                dynamo=True,
                verbose=False,
                input_names=["input"],
                output_names=["prediction", "logits"],
                dynamic_shapes=(free,),
            )
        program.model.metadata_props.update(metadata(run, clips))
        program.save(path, external_data=False)
    except Exception as error:  # of the exporter's many passes
        raise InputError(f"format: {run.config.backbone} cannot be expressed in ONNX ({one_line(error)})") from error
    finally:
        logger.setLevel(level)
    # sizes of batch and bag other than the exported ones
    inputs = torch.randn((5, 4, *shape[2:]) if clips else (5, *shape[1:]), generator=generator)
    difference = _compare(path, network, inputs)
    if not difference <= TOLERANCE:
        raise InputError(
            f"format: expected probabilities within {TOLERANCE:g} of PyTorch's in ONNX, got {difference:.2g} "
            f"for {run.config.backbone}"
        )
    return difference


def metadata(run: Run, clips: bool = False) -> dict[str, str]:
    """What the file says of itself: names of labels, thresholds, preprocessing, each as JSON."""
    layout = "batch, frames, channel, y, x" if clips else "batch, channel, y, x"
    preprocessing = asdict(run.preprocessing) | {
        "size": "the whole photo, upright, is resized to a square of this side in pixels; nothing is cropped",
        "values": "RGB; (value / 255 - mean) / std",
        "layout": layout,
    }
    values = {
        "labels": run.vocabulary.words,
        "thresholds": thresholds(run),
        "function_words": function_words(run.vocabulary),
        "preprocessing": preprocessing,
    }
    if run.config.backbone == EMBEDDINGS:
        values["preprocessing"] = {"values": "embeddings as the run was trained on", "layout": "batch, feature"}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def thresholds(run: Run) -> list[float]:
    """The probability from which each label counts as predicted."""
    chosen = run.threshold()
    return [DEFAULT_THRESHOLD if chosen is None else chosen] * len(run.vocabulary)


@torch.inference_mode()
def _compare(path: Path, network: nn.Module, inputs: Float[Tensor, "B ..."]) -> float:
    """The largest difference of a probability between PyTorch and ONNX Runtime; infinite where logits differ more."""
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probabilities, logits = map(torch.from_numpy, session.run(["prediction", "logits"], {"input": inputs.numpy()}))
    expected, expected_logits = network(inputs)
    if not torch.allclose(logits, expected_logits, rtol=1e-3, atol=1e-2):  # where probabilities are all 0 or 1
        return torch.inf
    return float((probabilities - expected).abs().max())
