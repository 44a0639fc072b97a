"""Embeddings made elsewhere: docs/embeddings.md runs as it stands, and a run on them does or refuses every command."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

import truetag
from truetag.cli import main
from truetag.errors import InputError
from truetag.runs.folder import open_run

N, D = 400, 32
NAMES = np.array(["boat", "car", "cat", "dog"])
DOC = (Path(__file__).resolve().parents[1] / "docs" / "embeddings.md").read_text()


def make_files(folder):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)).astype(np.float32)
    truth = X[:, : len(NAMES)] > 0.6
    given = np.where(truth, rng.random(truth.shape) > 0.2, rng.random(truth.shape) < 0.02)
    ids = np.array([f"{row:03}.jpg" for row in range(N)])
    lines = [f"{name},{';'.join(NAMES[g])},{';'.join(NAMES[t])}" for name, g, t in zip(ids, given, truth, strict=True)]
    (folder / "tags.csv").write_text("\n".join(["image,tags,true_tags", *lines]) + "\n")
    order = rng.permutation(N)
    np.savez(folder / "new.npz", ids=ids[:5], features=X[:5])
    return ids[order], X[order]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The commands of the page, run in their order."""
    folder = tmp_path_factory.mktemp("embeddings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("truetag.label_noise.heads.FEWEST_STEPS", 200)
        patch.chdir(folder)
        ids, vectors = make_files(folder)
        (python,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
        exec(python, {"ids": ids, "vectors": vectors})
        commands, _ = re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL)
        for line in commands.splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def refusal(capsys, *arguments):
    code, said = run(capsys, *arguments)
    assert code == 2, said
    assert "Traceback" not in said
    return said


def test_the_run_says_what_it_was_trained_on(folder):
    config = open_run(folder / "run").config
    assert (config.backbone, config.weights, config.freeze_backbone) == ("embeddings", "none", True)
    assert not (folder / "run" / "backbone.safetensors").exists()


def test_each_row_gets_its_own_vector(folder):
    """Logits by hand, from the vectors by id, are those of the command."""
    classifier, _, vocabulary = truetag.load(folder / "run")
    archive = np.load(folder / "clip.npz")
    row_of = {name: row for row, name in enumerate(archive["ids"])}
    table = pd.read_csv(folder / "tags_of_new.csv", dtype=str, keep_default_na=False).set_index("id")
    assert list(table.index) == [f"{row:03}.jpg" for row in range(5)]
    vectors = torch.from_numpy(archive["features"][[row_of[name] for name in table.index]])
    probabilities = classifier(vectors[:, None, None])[0].sigmoid()
    for row, (tags, values) in enumerate(zip(table["tags"], table["probabilities"], strict=True)):
        for tag, value in zip(re.split("[;,] *", tags), re.split("[;,] *", values), strict=True) if tags else ():
            assert probabilities[row, vocabulary.index[tag]].item() == pytest.approx(float(value), abs=1e-5)
    metrics = json.loads((folder / "run" / "metrics" / "data-test.json").read_text())
    assert metrics["mean_ap"] > 0.5  # a third would be chance, and mixed-up rows


def test_the_audit_is_right_by_id(folder):
    truth = pd.read_csv(folder / "tags.csv").set_index("image").fillna("")
    for out in ("audit", "audit_of_run"):
        issues = pd.read_csv(folder / out / "issues.csv")
        top = issues[issues["kind"].isin(["missing", "incorrect"])].head(20)
        is_true = [
            label in truth.loc[name, "true_tags"].split(";")
            for name, label in zip(top["id"], top["label"], strict=True)
        ]
        assert np.mean(np.array(is_true) == (top["kind"] == "missing")) > 0.7
        assert (folder / out / "index.html").is_file()


def test_photos_and_other_widths_are_refused(folder, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "m.jsonl").write_text('{"id": "a", "image": "a.png", "tags": ["cat"]}\n')
    np.savez(tmp_path / "wide.npz", ids=np.array(["a"]), features=np.zeros((1, 2 * D), np.float32))
    trained, out = folder / "run", ("--out", tmp_path / "p.csv")
    wanted = f"expected embeddings of {D} numbers"
    assert f"{wanted}, as the run was trained on, got photos" in refusal(capsys, "predict", trained, tmp_path, *out)
    assert "got 64" in refusal(capsys, "predict", trained, tmp_path / "wide.npz", *out)
    assert wanted in refusal(capsys, "evaluate", trained, tmp_path / "m.jsonl", "--split", "all")
    wide = ("--features", tmp_path / "wide.npz")
    assert "got 64" in refusal(capsys, "evaluate", trained, tmp_path / "m.jsonl", "--split", "all", *wide)
    assert wanted in refusal(capsys, "audit", trained, tmp_path / "m.jsonl", "--out", tmp_path / "audit")
    maps = ("--heatmaps", tmp_path / "maps")
    assert "have no regions" in refusal(capsys, "predict", trained, folder / "new.npz", *out, *maps)
    assert "on embeddings" in refusal(capsys, "features", trained, tmp_path, "--out", tmp_path / "X.npz")


def test_a_run_on_photos_refuses_embeddings(folder, tiny_run, tmp_path, capsys):
    out = ("--out", tmp_path / "p.csv")
    said = "expected photos or clips, which a run on test_resnet reads, got embeddings"
    assert said in refusal(capsys, "predict", tiny_run.folder, folder / "new.npz", *out)
    assert said in refusal(capsys, "evaluate", tiny_run.folder, folder / "data.jsonl")
    assert said in refusal(capsys, "audit", tiny_run.folder, folder / "data.jsonl", "--out", tmp_path / "audit")


def test_a_backbone_beside_embeddings_is_refused(folder, tmp_path, capsys):
    data = ("--data", folder / "data.jsonl", "--vocabulary", folder / "words.tsv", "--out", tmp_path / "run")
    assert "backbone: expected none beside" in refusal(capsys, "train", "mlcn", *data, "--backbone", "resnet18")
    assert "weights: expected none beside" in refusal(capsys, "train", "mlcn", *data, "--weights", "offline")
    assert not (tmp_path / "run").exists()


def test_photos_with_features_beside_them(folder, tiny, tiny_run, tmp_path, capsys):
    """The vectors count, rows without one are listed, and the page shows the photos."""
    manifest = tiny / "swapped.jsonl"
    ids = [row["id"] for row in map(json.loads, manifest.read_text().splitlines()) if "id" in row]
    X = np.random.default_rng(0).normal(size=(len(ids), D)).astype(np.float16)
    np.savez(tmp_path / "x.npz", ids=np.array(ids[1:]), features=X[1:])
    features = ("--features", tmp_path / "x.npz")
    few = ("--stage1-epochs", "1", "--stage2-epochs", "1")
    data = ("--data", manifest, "--vocabulary", tiny / "vocabulary.tsv", "--out", tmp_path / "run", *few)
    code, said = run(capsys, "train", "nmn-fi", *data, *features)
    assert (code, "1 x no features of this id" in said) == (0, True), said
    assert ids[0] in (tmp_path / "run" / "skipped.jsonl").read_text()
    assert run(capsys, "predict", tmp_path / "run", manifest, *features, "--out", tmp_path / "p.jsonl")[0] == 0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == len(ids) - 1
    both = ("compare", tmp_path / "run", tiny_run.folder, "--data", manifest, "--split", "all", "--num-resamples", "9")
    code, said = run(capsys, *both, *features)
    assert (code, f"{len(ids) - 1} examples" in said) == (0, True), said
    assert "--features" in refusal(capsys, *both)
    out = ("--out", tmp_path / "audit", "--min-probability", "0.1")
    assert run(capsys, "audit", tmp_path / "run", manifest, *features, *out)[0] == 0
    assert "data:image/jpeg" in (tmp_path / "audit" / "index.html").read_text()


def test_resuming_needs_the_same_vectors(folder, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "x.npz", **np.load(folder / "clip.npz"))
    few = ("--stage1-epochs", "2", "--stage2-epochs", "0", "--checkpoint-seconds", "0")
    data = ("--data", folder / "data.jsonl", "--vocabulary", folder / "words.tsv", "--out", tmp_path / "run", *few)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("truetag.training.train._choose_threshold", stop)
        assert run(capsys, "train", "mlcn", *data, "--features", tmp_path / "x.npz")[0] == 130
    archive = dict(np.load(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", ids=archive["ids"], features=archive["features"] + 1)
    again = ("train", "mlcn", *data, "--features", tmp_path / "x.npz", "--resume")
    assert "the training data" in refusal(capsys, *again)
    np.savez(tmp_path / "x.npz", **np.load(folder / "clip.npz"))
    assert run(capsys, *again)[0] == 0


def test_the_tagger(folder):
    tagger = truetag.Tagger(folder / "run")
    vectors = np.load(folder / "new.npz")["features"]
    tagged = tagger({"id": ["a", "b"], "features": [vectors[0], None], "tags": [["cat"], []]})
    assert tagged["error"][1] == "no features"
    assert 0 <= tagged["posterior"][0][0] <= 1
    with pytest.raises(InputError, match=f"features: expected {D} numbers, got"):
        tagger({"features": [np.zeros(2 * D)]})
    for call in (tagger, tagger.features):
        with pytest.raises(InputError, match=r"expected a column features, as .* was trained on embeddings, got path"):
            call({"path": ["a.jpg"]})
    with pytest.raises(InputError, match="got photos"):
        truetag.load(folder / "run").classifier(torch.zeros(1, 1, 3, 8, 8))


def test_export(folder, tmp_path, capsys):
    assert run(capsys, "export", folder / "run", "--format", "onnx", "--out", tmp_path / "onnx")[0] == 0
    vectors = np.load(folder / "new.npz")["features"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    expected = truetag.load(folder / "run").classifier(torch.from_numpy(vectors)[:, None, None])[0].sigmoid()
    np.testing.assert_allclose(session.run(["prediction"], {"input": vectors})[0], expected.detach(), atol=1e-5)
    assert "linear head on embeddings" in (tmp_path / "onnx" / "README.md").read_text()
    for kind in ("safetensors", "timm", "taggers"):
        said = refusal(capsys, "export", folder / "run", "--format", kind, "--out", tmp_path / kind)
        assert "expected onnx for a run on embeddings" in said
