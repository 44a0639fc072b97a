"""Folders for model hubs: of a model that timm builds, or of any classifier; and how they get there.

Both hold model.safetensors and a config.json that serves all readers: timm, transformers, `PyTorchModelHubMixin`, and
truetag itself, for which the folder is a run.
"""

from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from truetag.data.vocabulary import write_vocabulary
from truetag.errors import InputError
from truetag.export.onnx import thresholds
from truetag.io.files import write_json, write_text
from truetag.io.tensors import write_tensors
from truetag.io.text import one_line
from truetag.models.backbones import VGG16, load_backbone, size_arguments
from truetag.models.building import make_classifier
from truetag.models.classifier import Classifier
from truetag.models.exported import HUB_PREFIX, timm_model
from truetag.runs.config import config_from_dict
from truetag.runs.folder import Run, read_json_object
from truetag.runs.settings_file import SETTINGS

_CODE = "modeling_truetag"


class HubClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="truetag",
    tags=["image-classification", "multi-label", "noisy-labels"],
):
    """A classifier that `HubClassifier.from_pretrained(FOLDER or "OWNER/NAME")` loads.

    Args:
        truetag: the settings of its run.
        num_features: D.
        label_names: the K labels.
    """

    def __init__(self, truetag: dict[str, Any], num_features: int, label_names: list[str]) -> None:
        super().__init__()
        config = config_from_dict(truetag)
        backbone, _ = load_backbone(config.backbone, "none", config.resolution)
        self.classifier = make_classifier(config, backbone, num_features, len(label_names))
        self.label_names = label_names

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """True logits of photos [B, 3, H, W] or clips [B, T, 3, H, W]."""
        return self.classifier(inputs if inputs.ndim == 5 else inputs.unsqueeze(1))[0]


def write_timm(folder: Path, run: Run, classifier: Classifier) -> None:
    """Write a folder that opens in timm (`local-dir:`) and in transformers.

    Args:
        folder: where the files go.
        run: its settings, vocabulary, preprocessing and threshold.
        classifier: on the CPU, in evaluation mode.

    Raises:
        InputError: timm cannot rebuild the classifier.
    """
    from timm.models import save_for_hf  # here, as it takes seconds

    model: Any  # timm adds to what modules have
    model, arguments = timm_model(classifier, run.config)
    model.pretrained_cfg = _timm_settings(run, model.pretrained_cfg)
    save_for_hf(model, str(folder), model_config=_config(run), model_args=arguments, safe_serialization=True)
    # timm adds the number of classes, and transformers gives it too: it would be given twice
    config = read_json_object(folder / "config.json")
    config.get("model_args", {}).pop("num_classes", None)
    write_json(folder / "config.json", config)
    _write_run_files(folder, run)


def write_safetensors(folder: Path, run: Run, classifier: Classifier) -> None:
    """Write a folder that `HubClassifier` and truetag open: any classifier, with noisy-OR, layer norm and clips.

    Args:
        folder: where the files go.
        run: its settings, vocabulary, preprocessing and threshold.
        classifier: on the CPU, in evaluation mode.
    """
    state = {HUB_PREFIX + name: tensor for name, tensor in classifier.state_dict().items()}
    write_tensors(folder / "model.safetensors", state)
    config = _config(run) | {"num_features": classifier.num_features}
    if run.config.backbone != VGG16:  # which timm alone cannot build
        config |= _transformers_keys(run, classifier)
        code = resources.files("truetag.export").joinpath(f"{_CODE}.py.txt").read_text(encoding="utf-8")
        write_text(folder / f"{_CODE}.py", code)
    write_json(folder / "config.json", config)
    _write_run_files(folder, run)


def _transformers_keys(run: Run, classifier: Classifier) -> dict[str, Any]:
    """The keys of config.json with which transformers loads the code beside it."""
    settings: Any = classifier.backbone.pretrained_cfg
    return {
        "model_type": "truetag",
        "architectures": ["TruetagForImageClassification"],
        "auto_map": {
            "AutoConfig": f"{_CODE}.TruetagConfig",
            "AutoModelForImageClassification": f"{_CODE}.TruetagForImageClassification",
        },
        "image_processor_type": "TimmWrapperImageProcessor",
        "id2label": dict(enumerate(run.vocabulary.words)),
        "layer_norm": classifier.head.standardise.layer_norm,
        "timm_arguments": size_arguments(settings, run.config.resolution),
        "pretrained_cfg": _timm_settings(run, settings),
    }


def _timm_settings(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """What timm says of a model, with the preprocessing of a run."""
    side = run.preprocessing.resolution
    return {
        **{name: value for name, value in settings.items() if not name.startswith(("label_", "test_"))},
        **{"num_classes": len(run.vocabulary), "input_size": (3, side, side)},
        # squeezed, not cropped: a tag may belong to the edge
        **{"crop_pct": 1.0, "crop_mode": "squash"},
        **{name: getattr(run.preprocessing, name) for name in ("mean", "std", "interpolation")},
    }


def push_folder(folder: Path, repository: str, public: bool, token: str) -> str:
    """Bring a folder to the model hub; a new repository is private unless `public`.

    Args:
        folder: the folder.
        repository: OWNER/NAME.
        public: whether everybody may see it.
        token: of an account that may write there.

    Returns:
        The address of the repository.

    Raises:
        InputError: the hub refuses or is out of reach, or everybody sees the repository and `public` is false.
    """
    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.repo_info(repository).private:
            raise InputError(f"push_to_hub: {repository} is public already; add --public to push there")
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="truetag export")
    except InputError:
        raise
    except Exception as error:  # of the hub, of the network, of whichever library carries it
        raise InputError(
            f"push_to_hub: {repository}: {one_line(error)}; the folder is written: "
            f"`hf upload {repository} {folder} --private` pushes it later"
        ) from error
    return str(address)


def _config(run: Run) -> dict[str, Any]:
    """The keys of config.json that both folders have."""
    words = run.vocabulary.words
    return {
        "label_names": list(words),
        "problem_type": "multi_label_classification",
        "thresholds": dict(zip(words, thresholds(run), strict=True)),
        SETTINGS: asdict(run.config) | {"weights": Path(run.config.weights).name},  # no path of this machine
    }


def _write_run_files(folder: Path, run: Run) -> None:
    """Write the small files that make the folder a run."""
    write_vocabulary(folder / "vocabulary.tsv", run.vocabulary)
    write_json(folder / "preprocessing.json", asdict(run.preprocessing))
    if (threshold := run.threshold()) is not None:
        write_json(folder / "threshold.json", {"threshold": threshold})
