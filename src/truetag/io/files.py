"""Files that are written whole or not at all, so that a reader sees the old one or the new one; and locks."""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from truetag.errors import InputError
from truetag.io.terminal import tell


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; on success it is flushed to disk and replaces `path`.

    The temporary file always has the same name: the next attempt overwrites what a killed process left.

    Raises:
        InputError: another process is writing `path`, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new{path.suffix}")
    with naming(path), claimed(path.with_name(f".{path.name}.new.lock"), f"{path} is being written"):
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
    """Remove the half-written files of a killed process: ours, and those of safetensors."""
    for path in (*folder.glob(".*.new*"), *folder.glob(".tmp*")):
        if path.is_file():
            path.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an error of writing it (a full disk): the system leaves the name out."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk: a renamed file survives a power cut only after this."""
    if os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def readable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot express, such as a file name in another encoding."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(readable(text), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def link_or_copy(original: Path, path: Path) -> None:
    """Make `path` a hard link to `original`, or a copy where the file system has none; an older file is replaced."""
    temporary = path.with_name(f".{path.name}.new{path.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(original, temporary)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(original, temporary)
    temporary.replace(path)
    sync_folder(path.parent)


def refuse_overwriting(out: Path, *inputs: Path | None) -> None:
    """Refuse to write a result over one of the files that it is made from.

    Raises:
        InputError: `out` is one of the inputs.
    """
    for path in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise InputError(f"out: {out} is an input; give another name")


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse to replace a file unless that was asked for.

    Raises:
        InputError: `out` exists, and `overwrite` is False.
    """
    if out.exists() and not overwrite:
        raise InputError(f"out: {out} exists; add --overwrite to replace it")


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`; the system releases the lock when the process ends, however it ends.

    While another process holds the lock, wait for it, or refuse at once if there is a `refusal`. PATH.holder names the
    process that holds the lock.

    Raises:
        InputError: another process holds the lock; the message is the refusal and names that process.
    """
    holder = path.with_name(f"{path.name}.holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        name = ""
        with suppress(FileNotFoundError):
            name = holder.read_text(encoding="utf-8", errors="replace").strip()
        if refusal:
            raise InputError(f"{refusal} by {name}" if name else refusal) from None
        tell(f"waiting for {path.parent}, which is in use by {name or 'another process'}")
        lock.acquire()
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def claimed(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, which is removed afterwards.

    Raises:
        InputError: another process holds the lock; the message is the refusal.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{refusal} (is another command at it?)") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
