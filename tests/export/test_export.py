"""`truetag export`: the bundle for taggers, the model card, and mistakes."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from truetag.cli import main
from truetag.data.vocabulary import function_words
from truetag.evaluate import evaluate
from truetag.export.card import model_card
from truetag.export.export import export
from truetag.export.taggers import preprocessing_steps
from truetag.media.preprocessing import Preprocessing


def test_the_bundle_for_taggers(plain_run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    folder = export(plain_run.folder, tmp_path / "out", "taggers")
    tags = list(csv.DictReader((folder / "selected_tags.csv").read_text().splitlines()))
    assert list(tags[0]) == ["tag_id", "name", "category", "count", "best_threshold"]
    assert [tag["name"] for tag in tags] == list(plain_run.vocabulary.words)
    assert [int(tag["count"]) for tag in tags] == list(plain_run.vocabulary.counts)
    assert {float(tag["best_threshold"]) for tag in tags} == {0.4}
    left_out = {tag["name"] for tag in tags if tag["category"] == "1"}
    assert left_out == set(function_words(plain_run.vocabulary)) != set()
    categories = {entry["category"]: entry["name"] for entry in json.loads((folder / "categories.json").read_text())}
    limits = list(csv.DictReader((folder / "thresholds.csv").read_text().splitlines()))
    assert {int(row["category"]): row["name"] for row in limits} == categories == {0: "general", 1: "function words"}
    assert {float(row["threshold"]) for row in limits} == {0.4}
    steps = json.loads((folder / "preprocess.json").read_text())
    assert steps["test"] == steps["val"] == preprocessing_steps(plain_run.preprocessing)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    outputs = session.run(["prediction"], {"input": np.zeros((2, 3, 32, 32), np.float32)})
    assert outputs[0].shape == (2, len(tags))


def test_steps_of_preprocessing():
    assert preprocessing_steps(Preprocessing(48, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bilinear")) == [
        {"type": "resize", "size": [48, 48], "interpolation": "bilinear", "max_size": None, "antialias": True},
        {"type": "maybe_to_tensor"},
        {"type": "normalize", "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]},
    ]


def test_the_card_states_data_noise_scores_and_limits(tiny, tiny_run):
    before = model_card(tiny_run, "safetensors")
    assert "not evaluated" in before
    metrics = evaluate(tiny_run.folder, tiny / "swapped.jsonl", truth="true")
    evaluate(tiny_run.folder, tiny / "swapped.jsonl", truth="captions", split="validation")
    card = model_card(tiny_run, "safetensors")
    assert card.startswith("---\nlibrary_name: truetag\n")
    rates = np.mean(list(metrics["noise"]["missing_rate"].values()))
    assert f"{100 * rates:.1f} % of the true tags are missing" in card
    assert f"| mean average precision | {100 * metrics['mean_ap']:.2f} |" in card
    assert (
        "`swapped-test`: 16 examples of split `test`, against true tags or captions, which training never sees" in card
    )
    assert "`swapped-validation`: 16 examples of split `validation`, against words of the captions" in card
    word, present, *_ = (tiny_run.folder / "labels.tsv").read_text().splitlines()[1].split("\t")
    assert f"| {word} | {present} |" in card
    assert "48 training photos" in card
    assert "No score above was measured against verified labels" not in card


def test_the_card_of_a_run_without_labels_and_scores(plain_run):
    card = model_card(plain_run, "timm")
    assert "| label | threshold |" in card
    assert "were not kept" in card
    assert "No score above was measured against verified labels." in card


def test_mistakes(plain_run, noisy_or_run, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for path in plain_run.folder.iterdir():
        if path.suffix in (".json", ".tsv"):
            (unfinished / path.name).write_bytes(path.read_bytes())
    captioner = tmp_path / "captioner"
    captioner.mkdir()
    (captioner / "config.json").write_text("{}")
    (captioner / "source.json").write_text("{}")
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    (onnx / "model.onnx").write_bytes(b"")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "photo.jpg").write_bytes(b"")
    run, out = str(plain_run.folder), str(tmp_path / "out")
    cases = {
        (str(tmp_path / "nowhere"), "--out", out, "--format", "timm"): "nowhere is not a run folder",
        (str(unfinished), "--out", out, "--format", "timm"): "the run is not finished",
        (str(captioner), "--out", out, "--format", "timm"): "expected the run of a tagger, got a captioner",
        (str(onnx), "--out", out, "--format", "timm"): "it holds an ONNX model",
        (run, "--to", str(taken), "--format", "timm"): "taken exists already",
        (run, "--to", out, "--format", "coreml"): "Expected one of",
        (run, "--to", out): "--format",
        (run, "--to", out, "--format", "timm", "--clips"): "clips: expected with --format onnx only, got timm",
        (run, "--to", out, "--format", "timm", "--public"): "public: expected together with --push-to-hub",
        (str(noisy_or_run.folder), "--to", out, "--format", "timm"): "timm cannot rebuild",
    }
    for arguments, message in cases.items():
        try:
            code = main(["export", *arguments])
        except SystemExit as stop:
            code = stop.code
        shown = capsys.readouterr()
        assert code == 2, arguments
        assert message in shown.out + shown.err
        assert "Traceback" not in shown.out + shown.err
        assert not (tmp_path / "out").exists()
    assert [path.name for path in taken.iterdir()] == ["photo.jpg"]


def test_predict_of_an_onnx_folder_says_what_it_is(tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(b"")
    assert main(["predict", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "p.csv")]) == 2
    assert "it holds an ONNX model, which other programs run" in capsys.readouterr().err


def test_export_from_python():
    """It loads no noise model, and refuses a format that it does not know."""
    code = (
        "import sys; from truetag.export.export import export\n"
        "print([name for name in sys.modules if 'noise_model' in name])\n"
        "try: export('run', 'out', 'coreml')\n"
        "except ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "format: expected onnx, timm, safetensors, taggers, got 'coreml'"]
