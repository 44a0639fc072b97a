import json
from pathlib import Path

import numpy as np
import pytest
import torch

from truetag.captioning import train as training
from truetag.captioning.config import CaptionConfig
from truetag.captioning.evaluate import evaluate_captions, format_scores
from truetag.captioning.folder import CaptionerFolder, open_captioner
from truetag.captioning.train import train_captioner
from truetag.captioning.write import write_captions
from truetag.data.manifest import iterate_rows, write_manifest
from truetag.errors import InputError
from truetag.io.tensors import read_tensors

ANIMALS, PLACES = ("dog", "cat", "horse"), ("grass", "water")
WORDS = {*ANIMALS, *PLACES}
SMALL = {"state_size": 24, "frame_size": 16, "word_size": 12, "batch_size": 8, "dropout": 0.1, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 clips of 1 to 4 frames, whose features tell the animal and the place of both captions."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    rows, ids, features = [], [], []
    for index in range(90):
        animal, place = int(rng.integers(3)), int(rng.integers(2))
        captions = [f"A {ANIMALS[animal]} runs in the {PLACES[place]}.", f"the {ANIMALS[animal]} is in {PLACES[place]}"]
        split = "test" if index >= 75 else "validation" if index >= 60 else "train"
        rows.append({"id": f"clip{index}", "image": "none.jpg", "captions": captions, "split": split})
        clear = np.eye(5)[animal] + np.eye(5)[3 + place]
        for _ in range(int(rng.integers(1, 5))):
            ids.append(f"clip{index}")
            features.append(clear + 0.1 * rng.normal(size=5))
    write_manifest(folder / "clips.jsonl", rows)
    np.savez(folder / "features.npz", ids=np.array(ids), features=np.array(features, dtype=np.float32))
    return folder


def train(clips: Path, out: Path, resume: bool = False, **settings) -> CaptionerFolder:
    config = CaptionConfig(**(SMALL | {"epochs": 12} | settings))
    return train_captioner(config, clips / "clips.jsonl", out, features=clips / "features.npz", resume=resume)


@pytest.fixture(scope="module")
def captioner(clips: Path) -> CaptionerFolder:
    return train(clips, clips / "captioner", state_size=64, frame_size=32, dropout=0.0, epochs=20)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "captioner.safetensors")[0]


def test_it_learns_to_say_what_the_features_tell(clips, captioner, capsys):
    metrics = evaluate_captions(captioner.folder, clips / "clips.jsonl", official=False)
    assert metrics["cider"] > 3  # of 10, which no sentence reaches against two different captions
    assert metrics["num_examples"] == 15
    table = format_scores(metrics)
    assert "CIDEr-D" in table
    assert f"{100 * metrics['cider']:.2f}" in table
    on_disk = json.loads((captioner.folder / "metrics" / "clips-test.json").read_text())
    assert on_disk == json.loads(json.dumps(metrics))
    sentences = json.loads((captioner.folder / "metrics" / "clips-test.captions.json").read_text())
    assert len(sentences) == 15
    assert sentences[0].keys() >= {"id", "caption", "log_probability", "cider"}
    captions = {row["id"]: row["captions"][1] for row in iterate_rows(clips / "clips.jsonl")}
    right = [set(row["caption"].split()) & WORDS == set(captions[row["id"]].split()) & WORDS for row in sentences]
    assert sum(right) >= 14
    assert not (captioner.folder / "checkpoints").exists()


def test_what_is_written_is_read_back(clips, captioner, tmp_path):
    count = write_captions(captioner.folder, clips / "clips.jsonl", tmp_path / "c.json", split="test")
    results = json.loads((tmp_path / "c.json").read_text())
    assert count == len(results) == 15
    assert results[0].keys() == {"image_id", "caption"}
    assert any(animal in results[0]["caption"] for animal in ANIMALS)
    write_captions(captioner.folder, clips / "clips.jsonl", tmp_path / "c.csv", split="test")
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines[0] == "id,caption,log_probability"
    assert [line.split(",")[1] for line in lines[1:]] == [row["caption"] for row in results]
    with pytest.raises(InputError, match=r"out: expected a name that ends in .json, .csv, .parquet"):
        write_captions(captioner.folder, clips / "clips.jsonl", tmp_path / "c.txt")


@pytest.mark.parametrize("settings", [{}, {"captions": "one", "scheduled_sampling": 0.5, "label_smoothing": 0.1}])
@pytest.mark.parametrize("stop_at", [1, 13, 30])
def test_a_stopped_run_ends_with_the_same_weights(clips, tmp_path, monkeypatch, settings, stop_at):
    settings = {"epochs": 4, "checkpoint_seconds": 0.0} | settings
    undisturbed = train(clips, tmp_path / "a", **settings)
    calls = 0
    make_batch = training.make_batch

    def failing(*arguments):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return make_batch(*arguments)

    monkeypatch.setattr(training, "make_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        train(clips, tmp_path / "b", **settings)
    monkeypatch.setattr(training, "make_batch", make_batch)
    with pytest.raises(InputError, match="unfinished run: give --resume"):
        train(clips, tmp_path / "b", **settings)
    with pytest.raises(InputError, match=r"not finished; go on with the command"):
        evaluate_captions(tmp_path / "b", clips / "clips.jsonl")
    with pytest.raises(InputError, match=r"resume: .* was begun with seed 0, now it is 1"):
        train(clips, tmp_path / "b", resume=True, seed=1, **settings)
    resumed = train(clips, tmp_path / "b", resume=True, **settings)
    expected = weights(undisturbed.folder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed.folder).items())
    histories = [
        [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
        for lines in (
            (folder / "history.jsonl").read_text().splitlines() for folder in (tmp_path / "a", tmp_path / "b")
        )
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 4
    train(clips, tmp_path / "b", resume=True, **settings)  # finished already


def test_the_epoch_that_is_kept(clips, tmp_path):
    kept = {}
    for select in ("cider", "loss", "last"):
        folder = train(clips, tmp_path / select, select=select, epochs=3, seed=2).folder
        kept[select] = weights(folder)["output.bias"]
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in history] == [1, 2, 3]
        assert history[0]["validation_loss"] > history[-1]["validation_loss"]
    assert torch.equal(kept["loss"], kept["last"])  # it still falls


def test_captions_and_features_that_cannot_be_used(clips, tmp_path, capsys):
    rows = [
        {"id": "clip0", "image": "a.jpg", "captions": ["A dog runs.", " ", "?"], "split": "train"},
        {"id": "clip1", "image": "a.jpg", "captions": ["zebra", "a dog " * 200], "split": "train"},
        {"id": "clip2", "image": "a.jpg", "captions": [], "split": "train"},
        {"id": "clip3", "image": "a.jpg", "captions": ["a dog", "dog runs", "a cat"], "split": "train"},
        {"id": "nowhere", "image": "a.jpg", "captions": ["a dog runs"], "split": "train"},
        {"id": "clip5", "image": "a.jpg", "captions": ["a dog runs"], "split": "validation"},
    ]
    data = tmp_path / "odd.jsonl"
    write_manifest(data, rows)
    config = CaptionConfig(**(SMALL | {"epochs": 1, "min_count": 2}))
    folder = train_captioner(config, data, tmp_path / "odd", features=clips / "features.npz")
    printed = capsys.readouterr().err
    assert "2 captions of train rows without a word left out" in printed
    assert "1 train row without captions left out" in printed
    assert "1 caption of unknown words alone not learnt from" in printed
    assert "1 caption of more than 30 words: the first 30 are learnt" in printed
    skipped = [json.loads(line) for line in (folder.folder / "skipped.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in skipped} == {
        "clip2": "no captions",
        "nowhere": "no features of this id",
    }
    assert folder.words.vocabulary.words == ("a", "dog", "runs")

    def refused(text: str, features: Path = clips / "features.npz", rows=rows, **settings) -> None:
        write_manifest(data, rows)
        with pytest.raises(InputError, match=text):
            train_captioner(CaptionConfig(**(SMALL | settings)), data, tmp_path / "no", features=features)
        assert not (tmp_path / "no").exists()

    refused("min_count: expected at least one word that is named 999 times", min_count=999)
    refused("expected captions in its train rows, got none", rows=[row | {"captions": []} for row in rows])
    chinese = [row | {"captions": ["一只狗在水里跑步", "小女孩在公园里玩耍"]} for row in rows]
    refused("captions: expected words with blanks between them, got Chinese", rows=chinese)
    refused("run, features: expected one of them", features=None)
    refused("no such file or folder of features", features=tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes((clips / "features.npz").read_bytes()[:100])
    refused("not a readable numpy file", features=tmp_path / "torn.npz")
    arrays = dict(np.load(clips / "features.npz", allow_pickle=False))
    for change, text in (
        ({"features": arrays["features"][:-1]}, "expected an id for each of"),
        ({"features": np.where(arrays["features"] > 1, np.nan, arrays["features"])}, "expected finite features"),
        ({"ids": np.resize(["clip0", "clip1"], len(arrays["ids"]))}, "expected the frames of a clip one after another"),
        ({"features": arrays["features"][:, :, None]}, r"expected numbers of shape \[frames, features\]"),
    ):
        np.savez(tmp_path / "changed.npz", **(arrays | change))
        refused(text, features=tmp_path / "changed.npz")


def test_a_folder_of_features_is_the_same_as_one_file(clips, captioner, tmp_path):
    arrays = dict(np.load(clips / "features.npz", allow_pickle=False))
    for name in np.unique(arrays["ids"]):
        np.save(tmp_path / f"{name}.npy", arrays["features"][arrays["ids"] == name])
    manifest = clips / "clips.jsonl"
    write_captions(captioner.folder, manifest, tmp_path / "a.csv", split="test")
    write_captions(captioner.folder, manifest, tmp_path / "b.csv", features=tmp_path, split="test")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    np.save(tmp_path / "clip80.npy", np.zeros((0, 5)))
    write_captions(captioner.folder, manifest, tmp_path / "c.csv", features=tmp_path, split="test")
    (skip,) = (json.loads(line) for line in (tmp_path / "c.csv.skipped.jsonl").read_text().splitlines())
    assert (skip["id"], skip["reason"]) == ("clip80", "no frames")
    np.save(tmp_path / "clip80.npy", np.zeros((1, 4)))
    with pytest.raises(InputError, match="expected 5 features per frame, as in the first clip, got 4 in 'clip80'"):
        write_captions(captioner.folder, manifest, tmp_path / "d.csv", features=tmp_path, split="test")
    for name in np.unique(arrays["ids"]):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"features: expected 5 per frame, as .* was trained on, got 3 from"):
        write_captions(captioner.folder, manifest, tmp_path / "d.csv", features=tmp_path, split="test")
    with pytest.raises(InputError, match=r"run: expected what .* was trained on, which is features"):
        write_captions(captioner.folder, manifest, tmp_path / "d.csv", run=tmp_path)


def test_what_is_no_captioner_is_refused(clips, tmp_path):
    with pytest.raises(InputError, match=r"expected the folder of `truetag caption train`, got no source.json in it"):
        open_captioner(tmp_path)
    for settings, text in (
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1"),
        ({"state_size": 0}, "state_size: expected 1 or more"),
        ({"gradient_clip": -1.0}, "gradient_clip: expected 0 or more"),
        ({"scheduled_sampling": 2.0}, "scheduled_sampling: expected a number from 0 to 1"),
    ):
        with pytest.raises(InputError, match=text):
            CaptionConfig(**settings)
