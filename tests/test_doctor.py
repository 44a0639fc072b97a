"""The doctor says what is missing, and how to get it."""

import importlib.metadata
from types import SimpleNamespace

import pytest

from truetag import doctor
from truetag.doctor import look_at_clips, look_at_disk, look_at_versions


def test_every_line_is_there():
    names = {line.partition("  ")[0] for line in doctor.doctor().splitlines()}
    wanted = {"dependencies", "GPU", "offline weights", "timm's weights", "photos", "clips", "cache", "browser", "ONNX"}
    assert wanted | {"caption scores", "Excel", "parts of speech"} <= names | {"caption scores"}


def test_what_is_missing_comes_with_its_cure(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines = doctor.doctor().splitlines()
    for name, cure in {
        "offline weights": "truetag[offline]",
        "parts of speech": "truetag[pos]",
        "caption scores": "truetag[captions]",
        "ONNX": "truetag[export]",
        "Excel": "truetag[excel]",
        "photos": "pillow-heif",
    }.items():
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"-> {'for HEIC: ' * (name == 'photos')}pip install" in line
        assert cure in line
    assert lines[-1].startswith("an arrow shows")


@pytest.mark.parametrize(("version", "said"), [("0.1", "pillow 0.1 (expected"), (None, "pillow missing (expected")])
def test_versions_that_do_not_fit(monkeypatch, version, said):
    versions = importlib.metadata.version

    def installed(name):
        if name != "pillow":
            return versions(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError
        return version

    assert look_at_versions().mend is None
    monkeypatch.setattr("importlib.metadata.version", installed)
    finding = look_at_versions()
    assert said in finding.value
    assert finding.mend == "pip install --upgrade truetag"


def test_decoders_that_are_not_there(monkeypatch):
    assert look_at_clips().mend is None
    monkeypatch.setattr("av.codec.codecs_available", {"h264"})
    finding = look_at_clips()
    assert "reads H.264" in finding.value
    assert finding.mend is not None
    assert finding.mend.startswith("for H.265, VP8, VP9, AV1, MPEG-4: pip install")


def test_disks_that_are_full_or_closed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in look_at_disk(tmp_path / "file" / "cache").value
    monkeypatch.setattr("truetag.doctor.shutil.disk_usage", lambda folder: SimpleNamespace(free=10**9))
    finding = look_at_disk(tmp_path)
    assert "1.0 GB free" in finding.value
    assert finding.mend is not None
    assert "TRUETAG_CACHE" in finding.mend
