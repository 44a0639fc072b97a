"""What the names in a folder show about a run, before anything of it is read; nothing here imports torch."""

from pathlib import Path

from truetag.errors import InputError

_RESULTS = ("classifier", "model")  # of a run, and of an exported folder


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run, finished or not."""
    return (folder / "config.json").is_file()


def is_finished(folder: Path) -> bool:
    """Whether the run in the folder has come to its end."""
    return any((folder / f"{name}.safetensors").is_file() for name in _RESULTS)


def require_run(folder: Path) -> None:
    """Refuse a folder that holds no run of a tagger.

    Raises:
        InputError: it does not.
    """
    if not is_run(folder):
        kind = "an ONNX model, which other programs run" if (folder / "model.onnx").is_file() else "no config.json"
        raise InputError(f"{folder} is not a run folder: it holds {kind}")
    if (folder / "source.json").is_file():
        raise InputError(f"{folder}: expected the run of a tagger, got a captioner")


def require_finished_run(folder: Path) -> None:
    """Refuse a folder that holds no run, or one that cannot predict yet.

    Raises:
        InputError: it does not, or training has not come to its end.
    """
    require_run(folder)
    if not is_finished(folder):
        raise InputError(f"{folder}: the run is not finished; go on with the command that began it and --resume")


def require_new_folder(folder: Path) -> None:
    """Refuse a folder that is not empty, before any work is done for it.

    Raises:
        InputError: it exists and is not empty.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise InputError(f"out: the name {str(folder)!a} is not UTF-8") from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        has_result = is_finished(folder) or (folder / "captioner.safetensors").is_file()
        unfinished = is_run(folder) and not has_result
        hint = "an unfinished run: give --resume to go on with it, or" if unfinished else "give"
        raise InputError(f"out: {folder} exists already; {hint} a new folder")
