"""Writing whole or not at all: a reader sees the old file or the new one, never a part; and locks between processes."""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from truetag.errors import InputError
from truetag.io.terminal import tell


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; on success it is flushed to disk and takes the place of `path`.

    What a killed process left of it is written over by the next attempt.

    Raises:
        InputError: another process is writing it, or it is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new{path.suffix}")
    with naming(path), temporary.open("ab") as lock:
        claim(lock, f"{path} is being written")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written: our temporary files, and those of safetensors."""
    for path in (*folder.glob(".*.new*"), *folder.glob(".tmp*")):
        if path.is_file():
            path.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error of writing it (a full disk), which the system does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk: a renamed file survives a power cut only after this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def readable(text: str) -> str:
    """The text with what cannot be written as UTF-8 (a file name of another encoding) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(readable(text), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`, which the system releases when the process ends, however it ends.

    Where another process holds it, wait, or with a `refusal` raise that at once.

    Raises:
        InputError: the refusal, and who holds the lock.
    """
    with path.open("a+") as file:
        if refusal:
            file.seek(0)
            holder = file.read().strip()
            claim(file, f"{refusal} by {holder}" if holder else refusal)
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                tell(f"waiting for {path.parent}, which is in use by {file.read().strip() or 'another process'}")
                fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def refuse_overwriting(out: Path, *inputs: Path | None) -> None:
    """Refuse to write a result over what it is made from.

    Raises:
        InputError: `out` is one of the inputs.
    """
    for path in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise InputError(f"out: {out} is an input; give another name")


def claim(file: IO, refusal: str) -> None:
    """Lock an open file until it is closed.

    Raises:
        InputError: the refusal: another process holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{refusal} (is another command at it?)") from None
