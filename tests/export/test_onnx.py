"""ONNX: the probabilities of PyTorch, for every pooling, for photos and clips, and all that a program needs beside."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from truetag.errors import InputError
from truetag.export import onnx as export_onnx
from truetag.export import requirements
from truetag.export.export import export
from truetag.media.photos import read_photo
from truetag.models.building import load_classifier
from truetag.pooling import noisy_or

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


def run_onnx(folder: Path, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(["prediction", "logits"], {"input": inputs})


@pytest.mark.parametrize(
    ("settings", "clips"),
    [
        ({"pooling": "noisy-or", "layer_norm": True, "frames_at_a_time": 3}, True),
        ({"pooling": "lse", "level": "frame"}, True),
        ({"pooling": "max", "backbone": "test_vit"}, False),
    ],
)
def test_probabilities_are_pytorchs(make_run, tmp_path, settings, clips):
    run = make_run(**settings)
    export(run.folder, tmp_path / "out", "onnx", clips=clips)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "README.md"}  # weights are inside
    classifier = load_classifier(run).cpu()
    for batch, frames in ((1, 1), (7, 5)):
        inputs = torch.randn(batch, frames, 3, 32, 32) if clips else torch.randn(batch, 3, 32, 32)
        with torch.inference_mode():
            logits, _ = classifier(inputs if clips else inputs.unsqueeze(1))
        prediction, onnx_logits = run_onnx(tmp_path / "out", inputs.numpy())
        assert np.abs(prediction - logits.sigmoid().numpy()).max() < 1e-4
        np.testing.assert_allclose(onnx_logits, logits.numpy(), atol=1e-3)
    assert logits.std() > 0.1  # there is something to differ


@pytest.fixture(scope="module")
def photo_model(plain_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "out"
    export(plain_run.folder, folder, "onnx")
    return folder


def test_the_documented_program_gives_the_probabilities_of_the_run(photo_model, plain_run, tiny, tmp_path):
    """The program of docs/export.md, as it stands there, in a process that cannot import truetag."""
    (program,) = re.findall(r"```python\n(# tag_photo.py\n.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert "truetag" not in program
    (tmp_path / "tag_photo.py").write_text(program)
    photo = sorted((tiny / "photos").glob("test-*.jpg"))[0]
    command = [sys.executable, "-S", "tag_photo.py", str(photo_model / "model.onnx"), str(photo)]
    # without site packages' .pth files there is no editable install; the packages themselves are given by their folder
    packages = str(Path(np.__file__).parents[1])
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": packages}, capture_output=True, text=True, check=True
    )
    got = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in result.stdout.splitlines()}
    with torch.inference_mode():
        photos = plain_run.preprocessing(read_photo(photo))[None, None]
        probabilities = load_classifier(plain_run).cpu()(photos)[0][0].sigmoid().tolist()
    left_out = json.loads(export_onnx.metadata(plain_run)["function_words"])
    want = {
        word: probability
        for word, probability in zip(plain_run.vocabulary.words, probabilities, strict=True)
        if probability >= 0.4 and word not in left_out
    }
    assert want
    assert got == pytest.approx(want, abs=1e-3)  # which it prints with three decimals


def test_metadata(photo_model, plain_run):
    session = onnxruntime.InferenceSession(photo_model / "model.onnx")
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about["labels"] == list(plain_run.vocabulary.words)
    assert about["thresholds"] == [0.4] * len(plain_run.vocabulary)
    how = about["preprocessing"]
    assert (how["resolution"], how["interpolation"]) == (32, plain_run.preprocessing.interpolation)
    assert (tuple(how["mean"]), tuple(how["std"])) == (plain_run.preprocessing.mean, plain_run.preprocessing.std)


def test_a_file_that_differs_is_not_written(plain_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "_compare", lambda path, network, inputs: float("nan"))
    with pytest.raises(InputError, match="expected probabilities within"):
        export(plain_run.folder, tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_too_large_for_one_file(plain_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "_LARGEST_FILE", 1000)
    with pytest.raises(InputError, match=r"holds .* got weights of"):
        export(plain_run.folder, tmp_path / "out", "onnx")


def test_without_the_extra(plain_run, tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "PACKAGES", ("onnx", "onnx_that_is_missing"))
    with pytest.raises(InputError, match=r"needs onnx_that_is_missing: pip install 'truetag\[export\]'"):
        export(plain_run.folder, tmp_path / "out", "taggers")


def test_noisy_or_of_rare_and_of_certain_labels(tmp_path):
    """A graph asks for no values, and ONNX has no expm1: logits are right, and finite, all the same."""

    class Pool(torch.nn.Module):
        def forward(self, logits):
            return noisy_or(logits, 1)

    logits = torch.linspace(-200, 60, 2000).view(-1, 1, 1) + torch.randn(2000, 9, 3)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Pool(), (torch.randn(2000, 9, 3),), dynamo=True, verbose=False)
        program.save(tmp_path / "pool.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pool.onnx")
    (pooled,) = session.run(None, {session.get_inputs()[0].name: logits.numpy()})
    np.testing.assert_allclose(pooled, noisy_or(logits.double(), 1).numpy(), rtol=1e-5, atol=4e-4)
