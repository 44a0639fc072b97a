"""What the names in a folder show about a run, before anything of it is read; nothing here imports torch."""

from pathlib import Path

from truetag.errors import InputError


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run, finished or not."""
    return (folder / "config.json").is_file()


def require_run(folder: Path) -> None:
    """Refuse a folder that holds no run.

    Raises:
        InputError: it does not.
    """
    if not is_run(folder):
        raise InputError(f"{folder} is not a run folder: it holds no config.json")


def require_finished_run(folder: Path) -> None:
    """Refuse a folder that holds no run, or one that cannot predict yet.

    Raises:
        InputError: it does not, or training has not come to its end.
    """
    require_run(folder)
    if not (folder / "classifier.safetensors").is_file():
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
        results = (folder / f"{name}.safetensors" for name in ("classifier", "captioner"))
        unfinished = is_run(folder) and not any(result.is_file() for result in results)
        hint = "an unfinished run: give --resume to go on with it, or" if unfinished else "give"
        raise InputError(f"out: {folder} exists already; {hint} a new folder")
