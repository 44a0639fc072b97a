"""Fingerprints: the same for the same content, another for any other."""

import hashlib

import pytest
import torch

from truetag.io.fingerprints import fingerprint, fingerprint_file
from truetag.io.tensors import digest_state


def test_a_fingerprint_is_blake2b_of_all_parts():
    assert fingerprint(["é", b"\x00", memoryview(b"b")]) == hashlib.blake2b("é\0b".encode(), digest_size=16).hexdigest()
    assert fingerprint(["a"], num_bytes=8) == hashlib.blake2b(b"a", digest_size=8).hexdigest()
    assert fingerprint(["a\udce9"]) != fingerprint(["a\udce8"])  # file names in another encoding


def test_a_file_has_the_fingerprint_of_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    assert fingerprint_file(tmp_path / "a") == fingerprint([b"x" * 1_000_000])
    with pytest.raises(FileNotFoundError):
        fingerprint_file(tmp_path / "b")


def test_a_state_has_the_fingerprint_of_its_names_and_values():
    state = {"a": torch.ones(2, 3), "b": torch.zeros(0)}
    assert digest_state(state) == digest_state({name: tensor.clone() for name, tensor in state.items()})
    others = [{"a": torch.ones(2, 3)}, {"c": state["a"], "b": state["b"]}, {"a": 2 * state["a"], "b": state["b"]}]
    assert len({digest_state(state), *map(digest_state, others)}) == 4
    assert digest_state({"a": torch.arange(6.0).view(2, 3).T}) == digest_state(
        {"a": torch.tensor([0.0, 3, 1, 4, 2, 5])}
    )
