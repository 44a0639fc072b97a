"""`Tagger`: what goes in, what comes out, what is refused; pickled, in threads, and against `truetag predict`."""

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import truetag.tagger
from truetag import Tagger
from truetag.data.manifest import iterate_rows
from truetag.errors import InputError
from truetag.latent import posterior_logits
from truetag.models.building import load
from truetag.prediction.tagging import predict
from truetag.runs.noise_model import load_noise_model
from truetag.training.train import train

ALL = {"threshold": 0.0, "function_words": True}


@pytest.fixture(scope="module")
def paths(tiny):
    return sorted((tiny / "photos").glob("test-*.jpg"))


@pytest.fixture(scope="module")
def tagger(tiny_run):
    return Tagger(tiny_run.folder, **ALL)


def as_dicts(batch):
    """Tag -> probability of each row."""
    return [dict(zip(*row, strict=True)) for row in zip(batch["tags"], batch["probabilities"], strict=True)]


def same(batch, other):
    assert batch.keys() == other.keys()
    for mine, theirs in zip(as_dicts(batch), as_dicts(other), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


FORMS = ["paths", "bytes", "dicts of bytes", "dicts of paths", "pictures", "pixels", "ragged pixels"]


def forms(paths):
    """The same photos in each form."""
    contents = [path.read_bytes() for path in paths]
    pictures = [Image.open(path) for path in paths]
    return {
        "paths": {"path": np.array([str(path) for path in paths])},
        "bytes": {"image": np.array(contents, dtype=object)},
        "dicts of bytes": {"image": [{"bytes": content, "path": None} for content in contents]},
        "dicts of paths": {"image": [{"bytes": None, "path": str(path)} for path in paths]},
        "pictures": {"image": pictures},
        "pixels": {"image": np.stack([np.asarray(picture) for picture in pictures])},
        "ragged pixels": {"image": [np.asarray(picture) for picture in pictures]},
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_photo_gets_the_tags_of_predict(tiny_run, tagger, paths, tmp_path, form):
    predict(tiny_run.folder, paths, tmp_path / "p.parquet", **ALL)
    expected = datasets.Dataset.from_parquet(str(tmp_path / "p.parquet"), cache_dir=str(tmp_path))[:]
    batch = tagger(forms(paths)[form])
    for mine, theirs in zip(as_dicts(batch), as_dicts(expected), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
        assert list(mine.values()) == sorted(mine.values(), reverse=True)
    assert list(batch["error"]) == [None] * len(paths)


def test_the_defaults_are_those_of_predict(tiny_run, paths, tmp_path):
    predict(tiny_run.folder, paths, tmp_path / "p.parquet")
    expected = pa.parquet.read_table(tmp_path / "p.parquet")["tags"].to_pylist()
    assert list(Tagger(tiny_run.folder)({"path": [str(path) for path in paths]})["tags"]) == expected


def test_the_size_of_a_batch_does_not_matter(tagger, paths):
    names = [str(path) for path in paths]
    whole = as_dicts(tagger({"path": names}))
    one_by_one = [as_dicts(tagger({"path": [name]}))[0] for name in names]
    many = as_dicts(tagger({"path": names * 5}))
    for index, row in enumerate(whole):
        assert row == pytest.approx(one_by_one[index], abs=1e-6)
        assert row == pytest.approx(many[index + 3 * len(names)], abs=1e-6)


def test_features_given_out_and_in_give_the_same_tags(tagger, paths):
    names = [str(path) for path in paths]
    features = tagger.features({"path": names, "id": np.arange(len(names))})
    chained = tagger(tagger.features({"path": [names[0], "nowhere.jpg"]}))
    assert list(chained["error"]) == [None, "no such file"]
    assert chained["tags"][1] is None
    assert list(features) == ["path", "id", "features", "error"]
    assert features["features"][0].dtype == np.float32
    again = tagger(features)
    same(without(again, "id"), tagger({"path": names}))
    same(tagger({"features": np.stack(features["features"])}), without(again, "id", "path"))


def without(batch, *names):
    return {name: column for name, column in batch.items() if name not in names}


def test_features_of_regions(tiny, tiny_config, paths, tmp_path):
    """Noisy-OR reads all regions of a photo, and so do its features."""
    config = replace(
        tiny_config, resolution=64, pooling="noisy-or", noise_model="none", stage1_epochs=1, stage2_epochs=0
    )
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "mil")
    tagger = Tagger(run.folder, **ALL)
    features = tagger.features({"path": [str(path) for path in paths]})
    assert features["features"][0].size > load(run.folder).classifier.num_features
    same(tagger(without(features, "error")), tagger({"path": [str(path) for path in paths]}))


def test_bad_photos_get_an_error_and_disturb_no_other(tagger, paths, tmp_path):
    good = paths[0].read_bytes()
    column = [good, b"", good[:200], None, b"no photo", {"bytes": None, "path": None}, good]
    batch = tagger({"image": column, "number": np.arange(7)})
    assert [error is None for error in batch["error"]] == [True, False, False, False, False, False, True]
    assert batch["error"][1] == "an empty file"
    assert batch["error"][3] == batch["error"][5] == "no image"
    assert batch["tags"][1] is batch["probabilities"][1] is None
    assert batch["tags"][0] == batch["tags"][6]
    assert batch["number"].tolist() == list(range(7))
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    missing = [str(tmp_path / "nowhere.jpg"), str(tmp_path), str(tmp_path / "broken.mp4"), "", "a\0b", None]
    batch = tagger({"path": missing})
    assert list(batch["tags"]) == [None] * 6
    assert all(batch["error"])
    assert batch["error"][0] == "no such file"
    vectors = tagger.features({"path": [str(paths[0])]})["features"]
    batch = tagger({"features": [vectors[0], None, vectors[0] * np.nan]})
    assert list(batch["error"]) == [None, "no features", "features that are not finite"]


def test_an_empty_batch_has_all_columns(tagger):
    for batch in ({"image": []}, {"path": np.array([], dtype=object)}, {"features": np.zeros((0, 512), np.float32)}):
        answer = tagger(batch | {"tags": []})
        assert {name: len(column) for name, column in answer.items() if name != "path"} == dict.fromkeys(
            ["given_tags", "tags", "probabilities", "posterior", "missing_tags", "missing_posterior", "error"], 0
        )


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"img": [b""]}, r"batch: expected a column features, image, path or video, got \['img'\]"),
        ({}, "batch: expected a column"),
        ([b""], "batch: expected a dict of columns or a pyarrow Table, got list"),
        ({"path": ["a", "b"], "id": [1]}, "batch: expected columns of one length"),
        ({"path": [7]}, "path: expected text, the path of a file, got 7"),
        ({"image": np.zeros((1, 8, 8, 3), np.float32)}, r"image: expected bytes.*got float32 \[8, 8, 3\]"),
        ({"image": np.zeros((1, 3, 8, 8), np.uint8)}, r"image: expected .* \[H, W, 3\].*got uint8 \[3, 8, 8\]"),
        ({"features": np.zeros((2, 7), np.float32)}, r"features: expected \d+ numbers, got \[7\]"),
        ({"features": ["abc"]}, "features: expected .* numbers, got 'abc'"),
        ({"path": ["a"], "tags": ["dog;cat"]}, "tags: expected a list of texts in each row, got 'dog;cat'"),
        ({"path": ["a"], "tags": [[7]]}, "tags: expected a list of texts"),
        ({"path": ["a"], "error": [1]}, "error: expected a text or None in each row, got 1"),
        ({"path": ["a"], "probabilities": [1]}, "expected no column 'probabilities'"),
        ({"path": ["a"], "tags": [[]], "given_tags": [[]]}, "expected no column 'given_tags'"),
    ],
)
def test_mistakes_of_the_job_are_refused(tagger, batch, message):
    with pytest.raises(InputError, match=message):
        tagger(batch)


def test_mistakes_are_refused_before_any_batch(tiny_run, tmp_path):
    for arguments, message in (
        ({"run": tmp_path}, "is not a run folder"),
        ({"threshold": 2.0}, "threshold: expected a probability"),
        ({"top_k": 0}, "top_k: expected at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            Tagger(**({"run": tiny_run.folder} | arguments))
    elsewhere = Tagger(tiny_run.folder, device="cuda:77")  # the machine that makes a tagger may have no GPU
    with pytest.raises(InputError, match="device: expected 'auto' or a device that is here, got 'cuda:77'"):
        elsewhere({"path": ["a"]})


def test_the_posterior_is_that_of_the_noise_model(tiny, tiny_run, tagger, paths):
    rows = {row["id"]: row for row in iterate_rows(tiny / "scenes.jsonl")}
    words = tiny_run.vocabulary.words
    given = [[words[0].upper(), "no such word", words[3]], [], None, *[[words[1]]] * (len(paths) - 3)]
    assert len(rows) > len(paths)
    batch = tagger({"path": [str(path) for path in paths], "tags": given})
    classifier, preprocessing, _ = load(tiny_run.folder)
    pixels = torch.stack([preprocessing(Image.open(path).convert("RGB")) for path in paths]).unsqueeze(1)
    with torch.inference_mode():
        logits, h = classifier(pixels)
        log_q = load_noise_model(tiny_run)(h)
        expected = [
            posterior_logits(logits, log_q, torch.full_like(logits, value)).sigmoid().tolist() for value in (0, 1)
        ]
    assert batch["given_tags"].tolist()[:3] == [given[0], [], []]
    assert batch["posterior"][0][[0, 2]] == pytest.approx([expected[1][0][0], expected[1][0][3]], abs=1e-5)
    assert np.isnan(batch["posterior"][0][1])
    assert batch["posterior"][1].shape == (0,)
    assert any(len(row) for row in batch["missing_tags"])
    for number, tags in enumerate(batch["missing_tags"]):
        want = {
            word: expected[0][number][label] for label, word in enumerate(words) if word not in (given[number] or [])
        }
        if number == 0:
            del want[words[0]]
        want = {word: value for word, value in want.items() if value >= 0.5}
        assert dict(zip(tags, batch["missing_posterior"][number], strict=True)) == pytest.approx(want, abs=1e-5)


def test_without_a_noise_model_there_is_no_posterior_and_the_reason_is_given(tiny, tiny_run, paths, tmp_path, capsys):
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    (folder / "noise_model.safetensors").unlink()
    tagger = Tagger(folder)
    for _ in range(2):
        batch = tagger({"path": [str(paths[0])], "tags": [["dog"]]})
    assert list(batch) == ["path", "given_tags", "tags", "probabilities", "error"]
    assert capsys.readouterr().err.count("no noise model, so the given tags get no posterior") == 1


def test_pickled_after_use_it_holds_no_weights_and_loads_once(tiny_run, paths, monkeypatch):
    calls = []
    load_classifier = truetag.tagger.load_classifier
    monkeypatch.setattr("truetag.tagger.load_classifier", lambda *args: calls.append(args) or load_classifier(*args))
    truetag.tagger._load.cache_clear()
    tagger = Tagger(tiny_run.folder)
    batch = {"path": [str(path) for path in paths]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: tagger(batch), range(8)))
    copy = pickle.loads(content := pickle.dumps(tagger))
    assert len(content) < 5000
    same(copy(batch), answers[0])
    for answer in answers[1:]:
        same(answer, answers[0])
    assert len(calls) == 1


def test_another_process_has_another_working_folder(tiny_run, paths, tmp_path, monkeypatch):
    monkeypatch.chdir(paths[0].parent)
    tagger = Tagger(tiny_run.folder)
    (tmp_path / "tagger.pickle").write_bytes(pickle.dumps(tagger))
    code = f"import pickle; print(pickle.load(open('tagger.pickle', 'rb'))({{'path': [{paths[0].name!r}]}})['error'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[None]"


def test_a_run_that_was_replaced_is_refused(tiny_run, paths, tmp_path):
    folder = shutil.copytree(tiny_run.folder, tmp_path / "run")
    tagger = Tagger(folder)
    (folder / "preprocessing.json").write_text((folder / "preprocessing.json").read_text() + "\n")
    with pytest.raises(InputError, match="expected the run that the tagger was made from, got another one"):
        tagger({"path": [str(paths[0])]})


def test_a_table_comes_back_as_a_table_with_the_same_types_whatever_is_in_it(tagger, paths):
    names = [str(path) for path in paths[:2]]
    tables = [
        pa.table({"path": some, "tags": pa.array(given, pa.list_(pa.string()))})
        for some, given in ((names, [["dog"], None]), (["nowhere.jpg"], [None]), (pa.array([], pa.string()), []))
    ]
    answers = [tagger(table) for table in tables]
    assert answers[0].schema == answers[1].schema == answers[2].schema
    assert answers[0].schema.field("posterior").type == pa.list_(pa.float32())
    assert answers[1]["error"].to_pylist() == ["no such file"]
    features = tagger.features(tables[0].drop_columns("tags"))
    again = tagger(features)
    same({name: again[name].to_pylist() for name in again.column_names}, tagger({"path": names}))


@pytest.mark.parametrize("form", ["python", "arrow"])
def test_datasets_map(tagger, paths, tmp_path, form):
    data = datasets.Dataset.from_dict({"image": [str(path) for path in paths], "id": list(range(len(paths)))})
    data = data.cast_column("image", datasets.Image())
    expected = tagger({"path": [str(path) for path in paths]})
    if form == "arrow":
        data = data.with_format("arrow")
    tagged = data.map(tagger, batched=True, batch_size=5, cache_file_name=str(tmp_path / "cache.arrow"))
    for mine, theirs in zip(as_dicts(tagged.with_format(None)[:]), as_dicts(expected), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
