"""The bundle that programs for taggers read: model.onnx and tables beside it, in the names that are common there.

selected_tags.csv has a threshold for each tag (`best_threshold`), thresholds.csv one for each category, categories.json
the categories' names, and preprocess.json the steps from a photo to the model's input.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from truetag.data.vocabulary import function_words
from truetag.export.onnx import thresholds, write_onnx
from truetag.io.files import replacing, write_json
from truetag.media.preprocessing import Preprocessing
from truetag.models.classifier import Classifier
from truetag.runs.folder import Run

CATEGORIES = ("general", "function words")
"""By their numbers; function words are those that `truetag predict` does not write."""


def write_bundle(folder: Path, run: Run, classifier: Classifier) -> float:
    """Write the bundle into a folder.

    Args:
        folder: where the files go.
        run: its vocabulary, preprocessing and threshold.
        classifier: on the CPU, in evaluation mode.

    Returns:
        The largest difference of a probability between PyTorch and ONNX Runtime.

    Raises:
        InputError: the classifier cannot be written as ONNX.
    """
    difference = write_onnx(folder / "model.onnx", run, classifier)
    left_out = set(function_words(run.vocabulary))
    categories = [int(word in left_out) for word in run.vocabulary.words]
    limits = thresholds(run)
    tags = zip(run.vocabulary.words, categories, run.vocabulary.counts, limits, strict=True)
    header = ("tag_id", "name", "category", "count", "best_threshold")
    _write_csv(folder / "selected_tags.csv", header, ((number, *tag) for number, tag in enumerate(tags)))
    used = sorted(set(categories))
    _write_csv(
        folder / "thresholds.csv",
        ("category", "name", "threshold"),
        ((number, CATEGORIES[number], limits[categories.index(number)]) for number in used),
    )
    write_json(folder / "categories.json", [{"category": number, "name": CATEGORIES[number]} for number in used])
    steps = preprocessing_steps(run.preprocessing)
    write_json(folder / "preprocess.json", {"test": steps, "val": steps})
    return difference


def preprocessing_steps(preprocessing: Preprocessing) -> list[dict[str, Any]]:
    """The steps from an upright RGB photo to the model's input."""
    side, kind = preprocessing.resolution, preprocessing.interpolation
    return [
        {"type": "resize", "size": [side, side], "interpolation": kind, "max_size": None, "antialias": True},
        {"type": "maybe_to_tensor"},
        {"type": "normalize", "mean": list(preprocessing.mean), "std": list(preprocessing.std)},
    ]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
