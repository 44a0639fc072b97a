"""Runs compared on the same photos; several seeds of a recipe; a run loaded into a program of one's own."""

import dataclasses
import json
import re

import pytest
import torch
from PIL import Image

import truetag
from truetag.cli import main
from truetag.compare import compare
from truetag.data.manifest import write_manifest
from truetag.errors import InputError
from truetag.evaluate import evaluate
from truetag.prediction import predict
from truetag.runs.folder import open_run
from truetag.training.recipes import recipe
from truetag.training.seeds import train_seeds
from truetag.training.train import train

SMALL = {"backbone": "test_resnet", "weights": "none", "resolution": 32, "stage2_epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    rows = []
    for number in range(60):
        tag = ("cat", "dog")[number % 2]
        Image.new("RGB", (16, 16), (0, 4 * number, 250 * (number % 2))).save(folder / f"{number}.png")
        split = ("train", "validation", "test")[number // 2 % 3]
        rows.append({"id": str(number), "image": f"{number}.png", "tags": [tag], "split": split})
    write_manifest(folder / "m.jsonl", rows)
    (folder / "w.txt").write_text("dog\ncat\n")
    long = dataclasses.replace(recipe("mlcn"), **SMALL, stage1_epochs=12)
    short = dataclasses.replace(recipe("mlcn"), **SMALL, stage1_epochs=1, learning_rate=1e-9)
    train(long, folder / "m.jsonl", folder / "w.txt", folder / "long")
    text = train_seeds(short, folder / "m.jsonl", folder / "w.txt", folder / "short", seeds=2)
    (folder / "said.txt").write_text(text)
    return folder


def test_several_seeds_make_several_runs(folder):
    assert sorted(path.name for path in (folder / "short").iterdir()) == ["seed-0", "seed-1"]
    configs = [json.loads((folder / "short" / f"seed-{seed}" / "config.json").read_text()) for seed in (0, 1)]
    assert [config["seed"] for config in configs] == [0, 1]
    said = (folder / "said.txt").read_text()
    assert re.search(r"seeds 0 to 1\); AP on noisy validation tags: \d+\.\d\d ± \d+\.\d\d", said)
    with pytest.raises(InputError, match="seeds: expected at least 1, got 0"):
        train_seeds(recipe("mlcn"), folder / "m.jsonl", folder / "w.txt", folder / "none", seeds=0)


def test_several_seeds_start_from_those_of_another_folder(folder, tmp_path):
    longer = dataclasses.replace(recipe("mlcn-star"), **SMALL, stage1_epochs=1, learning_rate=1e-9)
    data = (folder / "m.jsonl", folder / "w.txt")
    with pytest.raises(InputError, match="from: expected a folder with the runs seed-0, seed-1, got no seed-0"):
        train_seeds(longer, *data, tmp_path / "none", start_from=folder / "long", seeds=2)
    assert not (tmp_path / "none").exists()
    train_seeds(longer, *data, tmp_path / "star", start_from=folder / "short", seeds=2)
    for seed in ("seed-0", "seed-1"):
        first, star = (open_run(path / seed).history() for path in (folder / "short", tmp_path / "star"))
        assert star[:1] == first[:1]


def test_the_scores_are_those_of_evaluate_and_the_first_is_the_reference(folder):
    comparison = compare([folder / "long", folder / "short"], folder / "m.jsonl", out=folder / "c.json")
    alone = [evaluate(folder / "short" / f"seed-{seed}", folder / "m.jsonl") for seed in (0, 1)]
    for name in ("mean_ap", "of1", "cf1", "ece"):
        assert comparison.scores["short"][name] == [metrics[name] for metrics in alone]
    pair = comparison.differences["short"]
    mean = sum(comparison.scores["short"]["mean_ap"]) / 2
    assert pair.difference == pytest.approx(mean - comparison.scores["long"]["mean_ap"][0])
    assert pair.low <= pair.difference <= pair.high
    assert json.loads((folder / "c.json").read_text())["num_examples"] == 20


def test_on_the_command_line(folder, capsys):
    assert main(["compare", str(folder / "long"), str(folder / "short"), "--data", str(folder / "m.jsonl")]) == 0
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert re.match(r"long +\d+\.\d\d", first)
    assert re.search(r"short +\d+\.\d\d ± \d+\.\d\d .*[+-]\d+\.\d\d \[", second)


def test_what_cannot_be_compared(folder, tmp_path):
    with pytest.raises(InputError, match="runs: expected at least two, got 1"):
        compare([folder / "long"], folder / "m.jsonl")
    with pytest.raises(InputError, match="expected a run folder, or a folder of runs"):
        compare([folder / "long", folder], folder / "m.jsonl")
    with pytest.raises(InputError, match="expected different folders"):
        compare([folder / "long", folder / "long"], folder / "m.jsonl")
    (tmp_path / "w.txt").write_text("cat\ndog\n")
    other = dataclasses.replace(recipe("mlcn"), **SMALL, stage1_epochs=1)
    train(other, folder / "m.jsonl", tmp_path / "w.txt", tmp_path / "other")
    with pytest.raises(InputError, match="expected one vocabulary"):
        compare([folder / "long", tmp_path / "other"], folder / "m.jsonl")


def test_a_loaded_run_says_what_predict_writes(folder):
    classifier, preprocessing, vocabulary = truetag.load(folder / "long")
    photo = preprocessing(Image.open(folder / "1.png").convert("RGB"))
    with torch.inference_mode():
        probabilities = classifier(photo[None, None])[0][0].sigmoid()
    predict(folder / "long", folder / "1.png", folder / "p.jsonl", threshold=0.0)
    row = json.loads((folder / "p.jsonl").read_text())
    for word, probability in zip(row["tags"], row["probabilities"], strict=True):
        assert probabilities[vocabulary.words.index(word)] == pytest.approx(probability, abs=1e-5)


def test_features_are_for_runs_on_embeddings(folder):
    runs = [folder / "long", folder / "short"]
    with pytest.raises(InputError, match=r"features: expected none, as no run was trained on embeddings, got .*x\.npz"):
        compare(runs, folder / "m.jsonl", features=folder / "x.npz")
