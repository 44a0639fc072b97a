"""The model card (README.md) of an exported folder: data, estimated noise, scores with their truth, limits, and use."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from truetag.data.vocabulary import function_words
from truetag.export.onnx import thresholds
from truetag.io.text import counted
from truetag.models.backbones import VGG16
from truetag.runs.config import EMBEDDINGS
from truetag.runs.folder import Run
from truetag.runs.metrics import read_label_counts, read_metrics
from truetag.truth import TRUTH_IN_WORDS

NUM_LABELS = 30
"""Labels in the table of the card, the most frequent ones."""
_OPENS = {
    "timm": """```python
import timm
from transformers import pipeline

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # "hf-hub:OWNER/NAME" for a repository
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
classifier = pipeline("image-classification", model="FOLDER", top_k=5)  # probabilities by a sigmoid, label by label
```

`truetag predict FOLDER photos/ --out tags.csv` tags photos with the thresholds below.""",
    "safetensors": """```python
import truetag
from transformers import pipeline
from truetag.export.hub import HubClassifier

classifier, preprocessing, vocabulary = truetag.load("FOLDER")
tags = pipeline("image-classification", model="FOLDER", top_k=5, trust_remote_code=True)  # without truetag
to_logits = HubClassifier.from_pretrained("FOLDER")  # or "OWNER/NAME"; of photos [B, 3, H, W]
```

`truetag predict FOLDER photos/ --out tags.csv` tags photos with the thresholds below.""",
    "onnx": "`model.onnx` gives `prediction` (probabilities) and `logits` for `input`; its metadata has labels, "
    "thresholds and preprocessing as JSON.",
    "taggers": "`model.onnx` gives `prediction` (probabilities) and `logits` for `input`; `preprocess.json` has the "
    "steps from a photo to `input`, `selected_tags.csv` the tags with their thresholds.",
}


def model_card(run: Run, kind: str) -> str:
    """The text of README.md.

    Args:
        run: a finished run; scores and rates are those that `truetag evaluate` left there.
        kind: of the folder: timm, safetensors, onnx or taggers.

    Raises:
        InputError: a file of the run is broken.
    """
    scores = list(read_metrics(run.folder))
    parts = [_header(kind), _opening(run, kind), "## Data", _data(run), "## Noise of the training tags"]
    parts += [_noise(scores), "## Scores", *(map(_scores, scores) if scores else [_NO_SCORES])]
    parts += ["## Labels", _labels(run, scores), "## Limits", _limits(run, scores)]
    return "\n\n".join(parts) + "\n"


_NO_SCORES = "None: the run was not evaluated before it was exported (`truetag evaluate`)."


def _header(kind: str) -> str:
    library = {"timm": "timm", "onnx": "onnx", "taggers": "onnx"}.get(kind, "truetag")
    return f"---\nlibrary_name: {library}\npipeline_tag: image-classification\ntags:\n- multi-label\n- truetag\n---"


def _opening(run: Run, kind: str) -> str:
    config, how = run.config, run.preprocessing
    if config.backbone == EMBEDDINGS:
        return (
            f"# A tagger with {counted(len(run.vocabulary), 'label')}\n\nA linear head on embeddings of the model that "
            "it was trained on; those of another model mean nothing to it. truetag trained it on tags that may be "
            "wrong, and predicts the probability of each label by itself: several may hold, or none.\n\n## Use\n\n"
            f"{_OPENS[kind]}"
        )
    side = f"{how.resolution} x {how.resolution}"
    use = _OPENS[kind]
    if config.backbone == VGG16:  # which has no code for transformers
        use = "\n".join(line for line in use.splitlines() if "pipeline" not in line)
    return (
        f"# A tagger with {counted(len(run.vocabulary), 'label')}\n\n"
        f"{config.backbone} with weights `{Path(config.weights).name}`"
        f"{', frozen,' if config.freeze_backbone else ''} and a linear head, pooled by {config.pooling}. truetag "
        "trained it on tags that may be wrong, and predicts the probability of each label by itself: several labels "
        f"may hold, or none. Photos are resized whole to {side} pixels ({how.interpolation}), and normalised by the "
        f"mean {_rounded(how.mean)} and the deviation {_rounded(how.std)} of values from 0 to 1.\n\n## Use\n\n"
        f"{use}"
    )


def _data(run: Run) -> str:
    rows = read_label_counts(run.folder)
    if not rows:
        return "The counts of the training labels were not kept."
    present, absent, unknown = (sum(row[index] for row in rows.values()) for index in range(3))
    num_bags = max(map(sum, rows.values()))
    return (
        f"{num_bags:,} training photos or clips, with {present / num_bags:.2f} labels present in each on average. Over "
        f"all labels, {present:,} are present, {absent:,} absent and {unknown:,} unknown, mistakes included."
    )


def _noise(scores: list[tuple[str, dict[str, Any]]]) -> str:
    for _, metrics in scores:
        if "noise" in metrics:
            missing, incorrect = (
                100 * fmean(metrics["noise"][name].values()) for name in ("missing_rate", "incorrect_rate")
            )
            return (
                f"Estimated while training, mean over labels: {missing:.1f} % of the true tags are missing, and "
                f"{incorrect:.2f} % of the absent ones are given. The estimates are too low where mistakes follow a "
                "pattern that the photos show."
            )
    return "Not estimated: the run has no noise model, or was not evaluated before it was exported."


def _scores(named: tuple[str, dict[str, Any]]) -> str:
    name, metrics = named
    rows = [
        ("mean average precision", metrics["mean_ap"]),
        ("count-mean average precision", metrics["count_mean_ap"]),
        *((f"{title}, all labels together", metrics[key]) for title, key in _DECISIONS),
        ("expected calibration error", metrics["ece"]),
    ]
    table = "\n".join(f"| {title} | {100 * value:.2f} |" for title, value in rows if value is not None)
    return (
        f"`{name}`: {metrics['num_examples']} examples of split `{metrics['split']}`, against "
        f"{TRUTH_IN_WORDS[metrics['truth']]}; in percent, decisions at p >= {metrics['threshold']:.3f}:\n\n"
        f"| score | |\n|---|---|\n{table}"
    )


_DECISIONS = (("precision", "op"), ("recall", "or"), ("F1", "of1"))


def _labels(run: Run, scores: list[tuple[str, dict[str, Any]]]) -> str:
    metrics = scores[0][1] if scores else {}
    noise = metrics.get("noise", {})
    columns = {
        "present in training": {word: f"{row[0]:,}" for word, row in read_label_counts(run.folder).items()},
        "AP, %": _percents(metrics.get("per_label", {})),
        "missing, %": _percents(noise.get("missing_rate", {})),
        "incorrect, %": _percents(noise.get("incorrect_rate", {})),
        "threshold": dict(zip(run.vocabulary.words, (f"{value:.3f}" for value in thresholds(run)), strict=True)),
    }
    columns = {title: cells for title, cells in columns.items() if cells}
    lines = [f"| label | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for word in run.vocabulary.words[:NUM_LABELS]:
        cells = [_escaped(word), *(column.get(word, "") for column in columns.values())]
        lines.append(f"| {' | '.join(cells)} |")
    rest = len(run.vocabulary) - NUM_LABELS
    return "\n".join(lines) + (f"\n\n{counted(rest, 'further label')} not shown." if rest > 0 else "")


def _limits(run: Run, scores: list[tuple[str, dict[str, Any]]]) -> str:
    limits = [
        "It knows the labels above alone, and photos like those that it was trained on.",
        "It learnt from noisy tags. Mistakes that follow what the photo shows look like the truth, and are learnt.",
        "Labels with few training tags are unreliable, whatever their probability.",
        "One threshold serves all labels, the one with the best F1 on noisy validation tags: choose yours for your use."
        if run.threshold() is not None
        else "No threshold was chosen while training: 0.5 stands for every label.",
    ]
    if not any(metrics["truth"] == "true" for _, metrics in scores):
        limits.append("No score above was measured against verified labels.")
    if words := function_words(run.vocabulary):
        limits.append(f"`truetag predict` leaves out {counted(len(words), 'function word')} that the model has too.")
    return "\n".join(f"- {limit}" for limit in limits)


def _percents(values: dict[str, float | None]) -> dict[str, str]:
    return {word: "" if value is None else f"{100 * value:.1f}" for word, value in values.items()}


def _rounded(values: tuple[float, ...]) -> str:
    return json.dumps([round(value, 4) for value in values])


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("|", "\\|")
