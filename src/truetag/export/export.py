"""`truetag export`: a trained classifier as a folder that other programs open; no noise model is ever loaded."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from truetag.errors import InputError
from truetag.export.requirements import require_access, require_onnx
from truetag.io.files import write_text
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.runs.config import EMBEDDINGS
from truetag.runs.paths import require_finished_run, require_new_folder

Format = Literal["onnx", "timm", "safetensors", "taggers"]


@takes_paths
def export(
    run: Path,
    out: Annotated[Path, tyro.conf.arg(aliases=("--to",))],
    format: Format,
    clips: bool = False,
    push_to_hub: str | None = None,
    public: bool = False,
) -> Path:
    """Write the classifier of a run for other programs, with its labels, thresholds, preprocessing and a model card.

    Args:
        run: the run folder.
        out: the folder to make.
        format: `onnx` is one file for ONNX Runtime; `timm` opens in timm and in transformers; `safetensors` holds any
            classifier, those with noisy-OR or layer norm (as of `best`) too, and opens in transformers with
            trust_remote_code and by PyTorchModelHubMixin; `taggers` is ONNX with the tables that tagger programs read.
            truetag itself opens `timm` and `safetensors` like a run.
        clips: the ONNX model takes the frames of clips instead of photos.
        push_to_hub: OWNER/NAME of a repository to bring the folder to; the token is that in HF_TOKEN.
        public: let everybody see the repository.

    Returns:
        The folder.

    Raises:
        InputError: the run is not finished, the format cannot hold it, `out` exists, or the hub refuses.
    """
    if format not in get_args(Format):
        raise InputError(f"format: expected {', '.join(get_args(Format))}, got {format!r}")
    if clips and format != "onnx":
        raise InputError(f"clips: expected with --format onnx only, got {format}")
    if public and push_to_hub is None:
        raise InputError("public: expected together with --push-to-hub, got it alone")
    if format in ("onnx", "taggers"):
        require_onnx()
    token = None if push_to_hub is None else require_access(push_to_hub)
    require_finished_run(run)
    require_new_folder(out)
    # here: what they import takes seconds, and mistakes are told at once
    from truetag.export.card import model_card
    from truetag.export.hub import push_folder, write_safetensors, write_timm
    from truetag.export.onnx import write_onnx
    from truetag.export.taggers import write_bundle
    from truetag.models.building import load_classifier
    from truetag.runs.folder import new_folder, open_run

    opened = open_run(run)
    if opened.config.backbone == EMBEDDINGS and (format != "onnx" or clips):
        got = f"{format} of clips" if clips else format
        raise InputError(f"format: expected onnx for a run on embeddings, which has a head and no backbone, got {got}")
    card = model_card(opened, format)
    classifier = load_classifier(opened).cpu()
    with new_folder(out) as folder:
        match format:
            case "onnx":
                _tell_parity(write_onnx(folder / "model.onnx", opened, classifier, clips))
            case "taggers":
                _tell_parity(write_bundle(folder, opened, classifier))
            case "timm":
                write_timm(folder, opened, classifier)
            case "safetensors":
                write_safetensors(folder, opened, classifier)
        write_text(folder / "README.md", card)
    if push_to_hub is not None and token is not None:
        tell(f"pushed: {push_folder(out, push_to_hub, public, token)}")
    return out


def _tell_parity(difference: float) -> None:
    tell(f"probabilities of ONNX Runtime and PyTorch differ by at most {difference:.1g}")
