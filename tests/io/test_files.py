"""Files and tensors are there whole or not at all, whatever happens in between."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from truetag.errors import InputError
from truetag.io.files import (
    claimed,
    locked,
    readable,
    refuse_existing,
    remove_leftovers,
    replacing,
    write_json,
    write_text,
)
from truetag.io.tensors import read_tensors, write_tensors


@contextmanager
def small_disk():
    """No file may grow beyond 4096 bytes: the system refuses to write as it does when a disk is full.

    That holds for the log of the tests too: only what is tested stands in it.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / ".a.json.new.json").write_text("half of something that was longer than the new content")
    write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_of_one_file_are_refused(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("first")
        with pytest.raises(InputError, match=r"a\.txt is being written"):
            write_text(tmp_path / "a.txt", "second")
    assert (tmp_path / "a.txt").read_text() == "first"


@pytest.mark.parametrize("write", ["text", "tensors"])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, write):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.ones(3)}, {"note": "old"})
    with pytest.raises(OSError, match=r"a\.safetensors") as full, small_disk():
        write_text(path, "x" * 10_000) if write == "text" else write_tensors(path, {"x": torch.ones(10_000)})
    assert full.value.errno == errno.EFBIG
    state, note = read_tensors(path)
    assert torch.equal(state["x"], torch.ones(3))
    assert note == {"note": "old"}
    assert not [item.name for item in tmp_path.iterdir() if item.name.endswith(".new.safetensors")]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_lock_is_held_by_one_and_named(tmp_path):
    with (
        locked(tmp_path / "lock", "taken"),
        pytest.raises(InputError, match=rf"taken by process {os.getpid()} on "),
        locked(tmp_path / "lock", "taken"),
    ):
        pass
    with locked(tmp_path / "lock"):
        pass


HOLDER = """
import sys
from pathlib import Path
from truetag.io.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until its input is closed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_refused_at_once(tmp_path, holder):
    with pytest.raises(InputError, match=rf"^taken by process {holder.pid} on "), locked(tmp_path / "lock", "taken"):
        pass


def test_another_process_waits_and_says_for_whom(tmp_path, holder, monkeypatch):
    messages = []

    def end_holder(text):
        messages.append(text)
        holder.stdin.close()

    monkeypatch.setattr("truetag.io.files.tell", end_holder)
    with locked(tmp_path / "lock"):
        (message,) = messages
        assert message.startswith(f"waiting for {tmp_path}, which is in use by process {holder.pid} on ")


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock", "taken"):
        pass


def test_a_claimed_lock_is_removed(tmp_path):
    with claimed(tmp_path / "lock", "taken"):
        with pytest.raises(InputError, match=r"^taken \(is another"), claimed(tmp_path / "lock", "taken"):
            pass
        assert (tmp_path / "lock").exists()
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    for name in (".a.json.new.json", ".a.json.new.lock", ".tmpAbc"):
        (tmp_path / name).write_text("half")
    write_json(tmp_path / "a.json", 1)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"\xff" * 100, b"\x80\x04K\x01."])
def test_broken_tensors_are_one_clear_error(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors: not a readable safetensors file"):
        read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "b.safetensors")


def test_names_that_are_no_utf8_can_be_written(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text() == readable(name) == r"caf\udce9.jpg"


def test_a_file_is_replaced_only_if_that_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "v.tsv"
    refuse_existing(out, overwrite=False)
    out.write_text("dog")
    refuse_existing(out, overwrite=True)
    with pytest.raises(InputError, match=r"out: .*v\.tsv exists; add --overwrite to replace it"):
        refuse_existing(out, overwrite=False)
