"""Prediction: photos, folders and manifests in, every kind of table out; broken files listed; the classifier alone."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import truetag.prediction.tagged_bags
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import Vocabulary, write_vocabulary
from truetag.errors import InputError
from truetag.media.files import Reading
from truetag.media.photos import read_photo
from truetag.models.building import load_classifier
from truetag.prediction.inference import predict_manifest
from truetag.prediction.tagging import predict
from truetag.training.train import train


def test_tags_are_the_classifiers_probabilities(tiny, tiny_run, tmp_path):
    photos = sorted((tiny / "photos").glob("test-*.jpg"))
    assert predict(tiny_run.folder, photos, tmp_path / "p.parquet", threshold=0.0, function_words=True) == len(photos)
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    classifier = load_classifier(tiny_run)
    with torch.inference_mode():
        batch = torch.stack([tiny_run.preprocessing(read_photo(path)) for path in photos])
        expected = classifier(batch.unsqueeze(1))[0].sigmoid()
    for row, path, probabilities in zip(rows, photos, expected, strict=True):
        assert row["id"] == path.name
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        got = dict(zip(row["tags"], row["probabilities"], strict=True))
        want = dict(zip(tiny_run.vocabulary.words, probabilities.tolist(), strict=True))
        assert got == pytest.approx(want, abs=1e-5)


def test_a_folder_a_manifest_and_files_agree(tiny, tiny_run, tmp_path):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for path in (tiny / "photos").glob("test-*.jpg"):
        shutil.copy(path, folder)
    (folder / "notes.txt").write_text("not a photo")
    outputs = {"folder": [tmp_path / "photos"], "files": sorted(folder.glob("*.jpg"))}
    for name, inputs in outputs.items():
        predict(tiny_run.folder, inputs, tmp_path / f"{name}.jsonl", top_k=3)
    predict(tiny_run.folder, [tiny / "scenes.jsonl"], tmp_path / "manifest.jsonl", top_k=3, split="test")
    tags = [
        [json.loads(line)["tags"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("folder", "files", "manifest")
    ]
    assert tags[0] == tags[1] == tags[2]
    assert all(len(row) == 3 for row in tags[0])


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_every_kind_of_table_says_the_same(tiny, tiny_run, tmp_path, suffix):
    photos = sorted((tiny / "photos").glob("test-*.jpg"))[:3]
    out = tmp_path / f"p{suffix}"
    predict(tiny_run.folder, photos, out, top_k=2, function_words=True)
    match suffix:
        case ".csv":
            tags = [row["tags"].split(";") for row in csv.DictReader(out.read_text().splitlines())]
        case ".json":
            tags = [row["tags"] for row in json.loads(out.read_text())]
        case ".jsonl":
            tags = [json.loads(line)["tags"] for line in out.read_text().splitlines()]
        case _:
            tags = [row["tags"] for row in pq.read_table(out).to_pylist()]
    classifier = load_classifier(tiny_run)
    with torch.inference_mode():
        logits, _ = classifier(torch.stack([tiny_run.preprocessing(read_photo(path)) for path in photos]).unsqueeze(1))
    words = tiny_run.vocabulary.words
    assert tags == [[words[label] for label in row] for row in logits.topk(2).indices.tolist()]


def test_broken_photos_are_skipped_and_listed(tiny, tiny_run, tmp_path):
    good = tiny / "photos" / "test-00000.jpg"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:200])
    assert predict(tiny_run.folder, [broken, good], tmp_path / "p.csv") == 1
    (line,) = (tmp_path / "p.csv.skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == str(broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": "p.xlsx"}, "expected a name that ends in"),
        ({"threshold": 2.0}, "between 0 and 1"),
        ({"top_k": 0}, "at least 1"),
        ({"inputs": ["nowhere.jpg"]}, "no such photo"),
        ({"run": "nowhere"}, "not a run folder"),
    ],
)
def test_mistakes_are_named(tiny, tiny_run, tmp_path, arguments, message):
    settings = {"run": tiny_run.folder, "inputs": [tiny / "photos"], "out": tmp_path / "p.csv"} | {
        name: [tmp_path / item for item in value]
        if name == "inputs"
        else tmp_path / value
        if name in ("out", "run")
        else value
        for name, value in arguments.items()
    }
    with pytest.raises(InputError, match=message):
        predict(**settings)
    assert not (tmp_path / "p.csv").exists()


def test_a_frozen_run_predicts_the_same_from_cache_and_from_photos(tiny, tiny_run):
    manifest = read_manifest(tiny / "scenes.jsonl")
    prediction = predict_manifest(tiny_run, manifest, "test")
    assert prediction.rows == list(range(16))
    assert len(prediction.skips) == 0
    assert prediction.features.shape == (16, load_classifier(tiny_run).head.weight.shape[1])
    assert prediction.logits.shape == (16, len(tiny_run.vocabulary))


@pytest.fixture
def frozen_run(tiny, tiny_config, tmp_path):
    config = replace(tiny_config, freeze_backbone=True, noise_model="none", stage2_epochs=0)
    return train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "frozen")


def test_a_frozen_run_tags_from_the_cache_as_from_photos(tiny, frozen_run, tmp_path, monkeypatch):
    """A photo that cannot be read stands between the others, and the second command goes on within the list."""
    photos = sorted((tiny / "photos").glob("*.jpg"))
    inputs = [*photos[:40], tmp_path / "broken.jpg", *photos[40:]]
    inputs[40].write_text("no photo")
    options = {"threshold": 0.0, "function_words": True}
    reading = Reading(cache=tmp_path / "cache")
    predict(frozen_run.folder, inputs[:60], tmp_path / "half.jsonl", reading=reading, **options)  # fills a part
    predict(frozen_run.folder, inputs, tmp_path / "cached.jsonl", reading=reading, **options)
    assert (tmp_path / "cached.jsonl.skipped.jsonl").read_text().count("broken.jpg") == 2  # its id and its path
    monkeypatch.setattr("truetag.models.features.shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    reading = Reading(cache=tmp_path / "no room")
    predict(frozen_run.folder, inputs, tmp_path / "photos.jsonl", reading=reading, **options)
    cached, plain = read_rows(tmp_path / "cached.jsonl"), read_rows(tmp_path / "photos.jsonl")
    assert [row["path"] for row in cached] == [row["path"] for row in plain] == list(map(str, photos))
    for row, expected in zip(cached, plain, strict=True):
        got = dict(zip(row["tags"], row["probabilities"], strict=True))
        assert got == pytest.approx(dict(zip(expected["tags"], expected["probabilities"], strict=True)), abs=2e-6)


def test_photos_that_training_has_cached_are_not_decoded_again(tiny, frozen_run, tmp_path, monkeypatch):
    monkeypatch.setattr("truetag.media.files.read_photo", lambda *arguments: pytest.fail("a photo was decoded"))
    photos = sorted((tiny / "photos").glob("train-*.jpg"))
    assert predict(frozen_run.folder, photos, tmp_path / "p.jsonl") == len(photos)


def test_a_stopped_prediction_from_the_cache_goes_on(tiny, frozen_run, tmp_path, monkeypatch):
    photos, options = sorted((tiny / "photos").glob("*.jpg")), {"threshold": 0.0, "function_words": True}
    predict(frozen_run.folder, photos, tmp_path / "whole.jsonl", **options)
    choose_tags, calls = truetag.prediction.tagged_bags._choose_tags, []

    def stop_at_the_second(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return choose_tags(*arguments)

    monkeypatch.setattr("truetag.prediction.tagged_bags._choose_tags", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        predict(frozen_run.folder, photos, tmp_path / "p.jsonl", **options)
    predict(frozen_run.folder, photos, tmp_path / "p.jsonl", **options)
    assert calls[2] == calls[1]  # the batch that was torn
    assert read_rows(tmp_path / "p.jsonl") == read_rows(tmp_path / "whole.jsonl")


def test_prediction_never_loads_the_noise_model():
    """Not only by the imports as written: in a fresh interpreter the module is not there."""
    code = "import sys, truetag.prediction.tagging; sys.exit('truetag.noise_models' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def copy_of(run, folder, parts=None):
    """A copy of a run, with other parts of speech if they are given."""
    shutil.copytree(run.folder, folder)
    if parts is not None:
        write_vocabulary(folder / "vocabulary.tsv", Vocabulary(run.vocabulary.words, parts, run.vocabulary.counts))
    return folder


def test_the_threshold_of_the_run_is_used_and_said(tiny, tiny_run, tmp_path, capsys):
    folder = copy_of(tiny_run, tmp_path / "run")
    for content, words in (
        ('{"threshold": 0.31}', "threshold: 0.310, which training chose"),
        (None, "0.500, the run has"),
    ):
        (folder / "threshold.json").write_text(content) if content else (folder / "threshold.json").unlink()
        predict(folder, [tiny / "photos"], tmp_path / "p.jsonl")
        assert words in capsys.readouterr().err
        threshold = 0.31 if content else 0.5
        predict(folder, [tiny / "photos"], tmp_path / "q.jsonl", threshold=threshold)
        assert "threshold:" not in capsys.readouterr().err
        assert read_rows(tmp_path / "p.jsonl") == read_rows(tmp_path / "q.jsonl")
        assert any(row["tags"] for row in read_rows(tmp_path / "p.jsonl")) or threshold == 0.5
    (folder / "threshold.json").write_text('{"threshold": 7}')
    with pytest.raises(InputError, match=r"threshold\.json: threshold: expected a probability between 0 and 1, got 7"):
        predict(folder, [tiny / "photos"], tmp_path / "p.jsonl")


def test_function_words_are_left_out_before_the_top_k(tiny, tiny_run, tmp_path, capsys):
    words = tiny_run.vocabulary.words
    parts = ("DT", "PRP", "IN", "Others", *["NN"] * (len(words) - 4))
    folder = copy_of(tiny_run, tmp_path / "run", parts)
    predict(folder, [tiny / "photos"], tmp_path / "p.jsonl", top_k=3)
    predict(folder, [tiny / "photos"], tmp_path / "all.jsonl", threshold=0.0, function_words=True)
    said = capsys.readouterr().err
    assert said.count("4 function words, numbers and letters are not written as tags") == 1
    for row, full in zip(read_rows(tmp_path / "p.jsonl"), read_rows(tmp_path / "all.jsonl"), strict=True):
        assert len(full["tags"]) == len(words)
        assert row["tags"] == [tag for tag in full["tags"] if tag not in words[:4]][:3]


def parts_of(out, count):
    return [out.with_name(f"{out.stem}-{number:05d}-of-{count:05d}{out.suffix}") for number in range(1, count + 1)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_the_parts_joined_in_order_are_the_whole(tiny, tiny_run, tmp_path, suffix):
    """Of a manifest's split, a folder and a photo at once; one photo is broken, in the middle of a part."""
    folder = shutil.copytree(tiny / "photos", tmp_path / "photos")
    (folder / "test-00007.jpg").write_bytes(b"broken")
    inputs = [tiny / "scenes.jsonl", folder, tiny / "photos" / "test-00003.jpg"]
    out, options = tmp_path / f"tags{suffix}", {"split": "test", "top_k": 3}
    count = predict(tiny_run.folder, inputs, out, **options)
    parts = parts_of(out, 5)
    assert (
        sum(predict(tiny_run.folder, inputs, out, shard=f"{number}/5", **options) for number in (3, 1, 5, 2, 4))
        == count
    )
    if suffix == ".parquet":
        assert pa.concat_tables(map(pq.read_table, parts)).to_pylist() == pq.read_table(out).to_pylist()
    else:
        lines = [part.read_text().splitlines(keepends=True) for part in parts]
        header = lines[0][:1] if suffix == ".csv" else []
        assert "".join(header + [line for part in lines for line in part[len(header) :]]) == out.read_text()
    skipped = "".join(p.read_text() for p in sorted(tmp_path.glob("tags-*.skipped.jsonl")))
    assert skipped == (tmp_path / f"{out.name}.skipped.jsonl").read_text()
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_more_parts_than_rows(tiny, tiny_run, tmp_path, capsys):
    """Parts without rows are tables without rows: a job array does not fail for it."""
    photos = sorted((tiny / "photos").glob("test-*.jpg"))[:2]
    out = tmp_path / "tags.parquet"
    assert [predict(tiny_run.folder, photos, out, shard=f"{number}/3") for number in (1, 2, 3)] == [0, 1, 1]
    assert "nothing tagged" in capsys.readouterr().err
    tables = [pq.read_table(part) for part in parts_of(out, 3)]
    assert [len(table) for table in tables] == [0, 1, 1]
    assert tables[0].schema == tables[1].schema


def test_a_part_decodes_its_own_clips_alone(tiny_run, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(b"no clip")
    Image.new("RGB", (8, 8)).save(tmp_path / "5.png")
    assert predict(tiny_run.folder, [tmp_path], tmp_path / "p.csv", shard="5/5") == 1
    assert not list(tmp_path.glob("*.skipped.jsonl"))


def test_a_part_goes_on_where_it_was_stopped(tiny, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("truetag.prediction.inference.BATCH_SIZE", 4)
    monkeypatch.setattr("truetag.prediction.tagged_bags.BATCH_SIZE", 4)
    choose_tags, calls = truetag.prediction.tagged_bags._choose_tags, []

    def stop_at_the_second(bags, indices, *others):
        calls.append(indices)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return choose_tags(bags, indices, *others)

    monkeypatch.setattr("truetag.prediction.tagged_bags._choose_tags", stop_at_the_second)
    options = {"split": "test", "shard": "2/2"}
    with pytest.raises(KeyboardInterrupt):
        predict(tiny_run.folder, [tiny / "scenes.jsonl"], tmp_path / "p.jsonl", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["p-00002-of-00002.jsonl.partial.jsonl"]
    predict(tiny_run.folder, [tiny / "scenes.jsonl"], tmp_path / "p.jsonl", **options)
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
    assert len(read_rows(tmp_path / "p-00002-of-00002.jsonl")) == 8


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/2", "", "1.0/4", "٣/4"])
def test_wrong_parts_are_refused(tiny, tiny_run, tmp_path, shard):
    with pytest.raises(
        InputError, match=r"shard: expected NUMBER/COUNT, from 1/COUNT to COUNT/COUNT, such as 3/64, got"
    ):
        predict(tiny_run.folder, [tiny / "photos"], tmp_path / "p.csv", shard=shard)
    assert not list(tmp_path.iterdir())
