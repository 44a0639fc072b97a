"""A captioner on the concepts of a run: photos are clips of one frame; concepts are computed once."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from truetag.captioning import frames as reading_frames
from truetag.captioning.folder import open_captioner
from truetag.captioning.frames import Source
from truetag.captioning.write import moved_source
from truetag.cli import main
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import build_vocabulary, write_vocabulary
from truetag.demo.moving_scenes import draw_clips
from truetag.errors import InputError
from truetag.media.files import Reading, SkipList
from truetag.models.building import load_classifier
from truetag.prediction.inference import predict_manifest
from truetag.training.train import train

SMALL = ["--state-size", "16", "--frame-size", "16", "--word-size", "8", "--epochs", "3", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def captioner(tiny, tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("captioner") / "c"
    cache = ["--cache", str(out.with_name("cache"))]
    command = ["caption", "train", str(tiny / "scenes.jsonl"), "--run", str(tiny_run.folder), "--out", str(out)]
    assert main([*command, *SMALL, *cache]) == 0
    assert main([*command, *SMALL, *cache, "--resume"]) == 0  # finished already
    return out


def test_concepts_are_the_probabilities_of_the_classifier(tiny, tiny_run, tmp_path, monkeypatch):
    manifest = read_manifest(tiny / "scenes.jsonl")
    rows, reading = manifest.in_split("test"), Reading(cache=tmp_path)
    features = Source(tiny_run.folder, None).read(manifest, rows, reading, SkipList())
    logits = predict_manifest(tiny_run, manifest, "test").logits
    np.testing.assert_allclose(features.array, logits.sigmoid().numpy(), atol=1e-3)  # kept in half precision
    assert features.rows == list(range(len(rows)))
    monkeypatch.setattr(reading_frames, "load_classifier", lambda run: pytest.fail("computed again"))
    again = Source(tiny_run.folder, None).read(manifest, rows, reading, SkipList())
    assert again.fingerprint() == features.fingerprint()


def test_frames_of_clips_are_read_one_by_one(tiny_config, tmp_path):
    data = draw_clips(tmp_path, 8, 2, 2, size=32, frames_per_scene=3)
    manifest = read_manifest(data)
    write_vocabulary(tmp_path / "v.tsv", build_vocabulary(manifest.in_split("train"), 10))
    config = replace(
        tiny_config, num_frames=4, stage1_epochs=1, stage2_epochs=0, noise_model="none", pooling="noisy-or"
    )
    cache = Reading(cache=tmp_path / "cache")
    run = train(config, data, tmp_path / "v.tsv", tmp_path / "run", reading=cache)
    rows = manifest.in_split("test")
    features = Source(run.folder, None).read(manifest, rows, cache, SkipList())
    assert np.diff(features.starts).tolist() == [4, 4]
    assert features.array.shape == (8, 10)
    # noisy-OR over frames gives the probability of the clip
    bags = 1 - np.prod(1 - features.array.astype(np.float64).reshape(2, 4, 10), 1)
    logits = predict_manifest(run, manifest, "test", cache).logits
    np.testing.assert_allclose(bags, logits.sigmoid().numpy(), atol=2e-3)
    assert load_classifier(run).pooling == "noisy-or"


def test_sentences_for_new_photos(tiny, captioner, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [row["image"] for row in read_manifest(tiny / "scenes.jsonl").in_split("test")][:3]
    for number, name in enumerate(names):
        shutil.copy(tiny / name, photos / f"{number}{Path(name).suffix}")
    (photos / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    cache = ["--cache", str(tmp_path / "cache")]
    command = ["caption", "write", str(captioner), str(photos), "--out", str(tmp_path / "c.csv"), *cache]
    assert main(command) == 0
    assert "3 captions written" in capsys.readouterr().err
    with (tmp_path / "c.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [Path(row["id"]).stem for row in table] == ["0", "1", "2"]
    assert all(float(row["log_probability"]) < 0 for row in table)
    (skip,) = (json.loads(line) for line in (tmp_path / "c.csv.skipped.jsonl").read_text().splitlines())
    assert skip["path"].endswith("torn.jpg")
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--beam", "0"])
    assert "beam: expected 1 or more, got 0" in capsys.readouterr().err


def test_scores_and_a_page(tiny, captioner, tmp_path, capsys):
    data, page = tiny / "scenes.jsonl", tmp_path / "page.html"
    command = ["caption", "show", str(captioner), str(data), "--out", str(page), "--cache", str(tmp_path / "cache")]
    assert main(command) == 2
    assert "`truetag caption evaluate` writes it" in capsys.readouterr().err
    assert main(["caption", "evaluate", str(captioner), str(data), "--official", "False"]) == 0
    printed = capsys.readouterr().out
    assert "16 examples of split test, against captions" in printed
    assert "METEOR and the official tokenizer need Java" in printed
    assert main(command) == 0
    html = page.read_text()
    assert html.count('src="data:image/jpeg;base64,') == 9
    sentences = json.loads((captioner / "metrics" / "scenes-test.captions.json").read_text())
    best = max(sentences, key=lambda sentence: sentence["cider"])
    assert (best["caption"] or "(nothing)") in html
    # swapped captions are not what sentences are held against
    assert main(["caption", "evaluate", str(captioner), str(tiny / "swapped.jsonl"), "--official", "False"]) == 0
    assert "against captions" in capsys.readouterr().out  # the test rows are not swapped
    arguments = ["--split", "train", "--official", "False"]
    assert main(["caption", "evaluate", str(captioner), str(tiny / "swapped.jsonl"), *arguments]) == 0
    assert "48 examples of split train, against true captions" in capsys.readouterr().out


def test_another_run_is_refused(tiny, tiny_config, tiny_run, captioner, tmp_path, capsys):
    other = train(
        replace(tiny_config, seed=1, stage1_epochs=1), tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "o"
    )
    command = ["caption", "evaluate", str(captioner), str(tiny / "scenes.jsonl"), "--official", "False", "--run"]
    assert main([*command, str(other.folder)]) == 2
    assert "run: expected the run whose concepts" in capsys.readouterr().err
    moved = tmp_path / "moved"
    shutil.copytree(tiny_run.folder, moved)
    assert main([*command, str(moved)]) == 0  # the same one, in another place
    opened = open_captioner(captioner)
    assert opened.source.run is not None
    assert opened.source.run.samefile(tiny_run.folder)
    with pytest.raises(InputError, match=r"features: expected what .* was trained on, which is the concepts of a run"):
        moved_source(opened, None, tmp_path)


def test_the_group_lists_its_commands(capsys):
    assert main(["caption", "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"caption {name}" in listed for name in ("train", "write", "evaluate", "show"))
    assert main(["caption"]) == 2
