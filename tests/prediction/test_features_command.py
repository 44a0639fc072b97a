"""`truetag features`: each photo's features under its id, in each format, and nothing half-written."""

import json

import numpy as np
import pytest
import timm
import torch

from truetag.data.embeddings import open_embeddings
from truetag.errors import InputError
from truetag.media.files import Reading
from truetag.media.photos import read_photo
from truetag.models.building import load_classifier
from truetag.prediction.features import features

ARGUMENTS = {"weights": "none", "resolution": 32}


@pytest.mark.parametrize("name", ["X.npy", "X.npz", "X.parquet"])
def test_the_features_of_a_run_by_id(tiny, tiny_run, tmp_path, name):
    assert features(str(tiny_run.folder), [tiny / "photos"], tmp_path / name) == 80
    opened = open_embeddings(tmp_path / name)
    classifier = load_classifier(tiny_run)
    for row in (0, 33, 79):
        photo = tiny_run.preprocessing(read_photo(tiny / "photos" / opened.ids[row], None))
        with torch.no_grad():
            expected = classifier.extract(photo.unsqueeze(0)).mean(1)[0]
        np.testing.assert_allclose(opened.array[row], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_photos_that_cannot_be_used_are_listed(tiny, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(sorted((tiny / "photos").iterdir())[:3]):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    (folder / "1.png").write_bytes(b"no photo")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    weights = {"weights": str(tmp_path / "weights.pth"), "resolution": 32}
    assert features("test_resnet", [folder], tmp_path / "X.npz", **weights) == 2
    assert open_embeddings(tmp_path / "X.npz").ids == ["0.png", "2.png"]
    (line,) = (tmp_path / "X.npz.skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "1.png"


def test_a_stopped_command_leaves_nothing_and_goes_on(tiny, tmp_path, monkeypatch):
    reading = Reading(cache=tmp_path / "cache")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("truetag.prediction.features._write", stop)
        with pytest.raises(KeyboardInterrupt):
            features(
                "test_resnet", [tiny / "photos"], tmp_path / "X.npy", weights="none", resolution=32, reading=reading
            )
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("model", "out", "options", "message"),
    [
        ("test_resnet", "X.csv", ARGUMENTS, "out: expected a name that ends in .npy, .npz, .parquet"),
        ("test_resnett", "X.npy", ARGUMENTS, "not a timm model"),
        ("test_resnet", "X.npy", {"weights": "nowhere.pth", "resolution": 32}, "no such file nowhere.pth"),
        ("test_resnet", "X.npy", {"weights": "none", "resolution": 0}, "expected numbers above 0"),
        ("test_resnet", "old.npy", ARGUMENTS, "old.npy exists; add --overwrite"),
    ],
)
def test_mistakes_are_told(tiny, tmp_path, model, out, options, message):
    (tmp_path / "old.npy").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        features(model, [tiny / "photos"], tmp_path / out, **options)


def test_a_folder_that_is_no_run_is_no_model(tiny, tmp_path):
    with pytest.raises(InputError, match="model: expected a run or the name of a timm model"):
        features(str(tiny / "photos"), [tiny / "photos"], tmp_path / "X.npy")
