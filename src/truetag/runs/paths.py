"""What the names in a folder show about a run, before anything of it is read; nothing here imports torch."""

from collections.abc import Sequence
from pathlib import Path

from truetag.errors import InputError
from truetag.io.text import shown

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


def runs_in(folder: Path) -> list[Path]:
    """The run in a folder, or its runs seed-0, seed-1, .. of one recipe.

    Raises:
        InputError: there are none.
    """
    if is_run(folder):
        require_run(folder)
        return [folder]
    seeds = sorted((path for path in folder.glob("seed-*") if is_run(path)), key=lambda path: (len(path.name), path))
    if not seeds:
        raise InputError(f"runs: expected a run folder, or a folder of runs seed-0, seed-1, .., got {folder}")
    return seeds


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart.

    Raises:
        InputError: two are the same.
    """
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"runs: expected different folders, got {shown(str(folder))} twice")
    most = max(len(path.parts) for path in paths)
    for count in range(1, most):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


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
