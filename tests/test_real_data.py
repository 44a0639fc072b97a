"""Real photos and captions, end to end with real weights; skipped where the data or the weights are absent."""

import json
from dataclasses import replace

import pytest

from truetag.cli import main
from truetag.data.corruption import corrupt
from truetag.data.imports import import_captions
from truetag.data.labels import label_matrix
from truetag.data.manifest import read_manifest
from truetag.data.splits import split
from truetag.data.vocabulary import make_vocabulary, read_vocabulary
from truetag.evaluate import evaluate
from truetag.runs.config import OFFLINE_PACKAGE
from truetag.training.recipes import recipe
from truetag.training.train import train

NUM_PHOTOS = 240


def test_flickr8k_captions_teach_a_tagger(shared_data, tmp_path):
    pytest.importorskip(OFFLINE_PACKAGE)
    source = shared_data / "flickr8k"
    lines = (source / "captions.csv").read_text().splitlines(keepends=True)
    (tmp_path / "captions.csv").write_text("".join(lines[: 1 + 5 * NUM_PHOTOS]))
    import_captions(tmp_path / "captions.csv", source / "images", tmp_path / "all.jsonl")
    split(tmp_path / "all.jsonl", tmp_path / "clean.jsonl", validation_fraction=0.1, test_fraction=0.25)
    make_vocabulary(tmp_path / "clean.jsonl", tmp_path / "words.tsv", size=60, part_of_speech="none")
    realised = corrupt(tmp_path / "clean.jsonl", tmp_path / "noisy.jsonl", swap_captions=1)
    assert realised["captions_swapped"] == pytest.approx(0.2)

    config = replace(recipe("nmn-fi"), weights="offline", freeze_backbone=True, learning_rate=2e-3)
    run = train(config, tmp_path / "noisy.jsonl", tmp_path / "words.tsv", tmp_path / "run")
    metrics = evaluate(run.folder, tmp_path / "clean.jsonl")
    manifest = read_manifest(tmp_path / "clean.jsonl")
    chance = (label_matrix(manifest.in_split("test"), run.vocabulary, "captions") == 1).float().mean().item()
    assert metrics["num_examples"] == NUM_PHOTOS // 4
    assert metrics["mean_ap"] > chance + 0.1
    assert metrics["per_label"]["dog"] > 0.7


def test_table_1_comes_out_of_official_coco_files(shared_data, tmp_path, capsys):
    pytest.importorskip(OFFLINE_PACKAGE)
    settings = ["--backbone", "tf_efficientnet_lite0", "--weights", "offline", "--freeze-backbone", "--resolution=224"]
    settings += ["--standardise", "--optimiser", "adamw", "--num-words", "60", "--stage1-epochs", "10"]
    settings += ["--cache", str(tmp_path / "cache"), "--data", str(shared_data / "coco_mini"), "--out", str(tmp_path)]
    assert main(["reproduce", "table1", *settings]) == 0
    assert "8 runs on 80 photos (and 40 for validation, 39 for the test)" in capsys.readouterr().err
    ours = {line["model"]: line["ours"] for line in json.loads((tmp_path / "table1.json").read_text())}
    rows = read_manifest(tmp_path / "coco" / "manifest.jsonl").in_split("test")
    vocabulary = read_vocabulary(tmp_path / "coco" / "vocabulary.tsv")
    chance = (label_matrix(rows, vocabulary, "captions") == 1).float().mean().item()
    assert ours["VGG16*"][-1] > 100 * chance + 5
    assert ours["MIL*"][-1] > 100 * chance + 5
