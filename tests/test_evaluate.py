"""The metrics file: its promised keys, its truths, and its numbers against scikit-learn."""

import json
import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from truetag.data.labels import label_matrix
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.errors import InputError
from truetag.evaluate import evaluate, format_metrics
from truetag.latent import observe
from truetag.media.files import Reading
from truetag.prediction.inference import predict_manifest
from truetag.runs.noise_model import load_noise_model

PROMISED = {
    "split",
    "truth",
    "num_examples",
    "num_labels",
    "num_labels_without_positives",
    "mean_ap",
    "count_mean_ap",
    "by_pos",
    "per_label",
    "op",
    "or",
    "of1",
    "cp",
    "cr",
    "cf1",
    "threshold",
    "ece",
    "observed",
}


def test_metrics_file_has_the_promised_keys(tiny, tiny_run):
    metrics = evaluate(tiny_run.folder, tiny / "scenes.jsonl", truth="captions")
    assert metrics.keys() >= PROMISED
    assert json.loads((tiny_run.folder / "metrics" / "scenes-test.json").read_text()) == metrics
    assert metrics["per_label"].keys() == set(tiny_run.vocabulary.words)
    assert sum(part["count"] for part in metrics["by_pos"].values()) == metrics["num_labels"] == 20
    assert 0 < metrics["count_mean_ap"] < 1


def test_numbers_are_scikit_learns(tiny, tiny_run):
    manifest = read_manifest(tiny / "scenes.jsonl")
    logits, h, _, _ = predict_manifest(tiny_run, manifest, "test")
    labels = label_matrix(manifest.in_split("test"), tiny_run.vocabulary, "true")
    noise_model = load_noise_model(tiny_run)
    assert noise_model is not None
    with torch.inference_mode():
        observed_logits = observe(logits, noise_model(h))
    metrics = evaluate(tiny_run.folder, tiny / "scenes.jsonl", truth="true")
    assert metrics["truth"] == "true"
    assert metrics["count_mean_ap"] is None
    for scores, got in ((logits, metrics["mean_ap"]), (observed_logits, metrics["observed"]["mean_ap"])):
        expected = [
            average_precision_score(labels[:, place], scores[:, place])
            for place in range(labels.shape[1])
            if (labels[:, place] == 1).any()
        ]
        assert got == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    without = sum(not (labels[:, place] == 1).any() for place in range(labels.shape[1]))
    assert metrics["num_labels_without_positives"] == without


def test_truth_is_the_best_that_rows_have(tiny, tiny_run, tmp_path):
    assert evaluate(tiny_run.folder, tiny / "scenes.jsonl")["truth"] == "true"
    rows = [
        {name: value for name, value in row.items() if name != "true_tags"} | {"image": str(tiny / row["image"])}
        for row in iterate_rows(tiny / "scenes.jsonl")
    ]
    write_manifest(tmp_path / "captions.jsonl", rows)
    assert (
        evaluate(tiny_run.folder, tmp_path / "captions.jsonl", reading=Reading(allow_outside=True))["truth"]
        == "captions"
    )
    write_manifest(tmp_path / "tags.jsonl", [row | {"captions": None, "tags": ["sky"]} for row in rows])
    assert evaluate(tiny_run.folder, tmp_path / "tags.jsonl", reading=Reading(allow_outside=True))["truth"] == "tags"
    write_manifest(tmp_path / "none.jsonl", [row | {"captions": None} for row in rows])
    with pytest.raises(InputError, match="neither captions nor tags"):
        evaluate(tiny_run.folder, tmp_path / "none.jsonl")


def test_categories_of_another_vocabulary_are_not_the_truth_of_captions(tiny, tiny_run, tmp_path):
    rows = [row | {"image": str(tiny / row["image"])} for row in iterate_rows(tiny / "scenes.jsonl")]
    allowed = Reading(allow_outside=True)
    write_manifest(tmp_path / "m.jsonl", [row | {"true_tags": ["teddy bear", "sky"]} for row in rows])
    assert evaluate(tiny_run.folder, tmp_path / "m.jsonl", reading=allowed)["truth"] == "captions"
    assert evaluate(tiny_run.folder, tmp_path / "m.jsonl", truth="true", reading=allowed)["truth"] == "true"
    swapped = [row | {"true_tags": ["teddy bear"], "true_captions": row["captions"]} for row in rows]
    write_manifest(tmp_path / "swapped.jsonl", [row | {"captions": ["nothing"]} for row in swapped])
    metrics = evaluate(tiny_run.folder, tmp_path / "swapped.jsonl", reading=allowed)
    assert metrics["truth"] == "true"
    assert metrics["mean_ap"] == evaluate(tiny_run.folder, tmp_path / "m.jsonl", reading=allowed)["mean_ap"]


def test_tags_and_captions_together_are_the_truth_of_what_has_both(tiny, tiny_run, tmp_path):
    rows = [row | {"image": str(tiny / row["image"])} for row in iterate_rows(tiny / "scenes.jsonl")]
    write_manifest(tmp_path / "m.jsonl", [row | {"true_tags": None, "tags": ["sky"]} for row in rows])
    assert evaluate(tiny_run.folder, tmp_path / "m.jsonl", reading=Reading(allow_outside=True))["truth"] == "observed"


def test_rows_without_captions_have_no_count_ap(tiny, tiny_run, tmp_path):
    rows = [row | {"true_tags": None, "image": str(tiny / row["image"])} for row in iterate_rows(tiny / "scenes.jsonl")]
    rows[-1] |= {"captions": [], "tags": ["sky"]}
    write_manifest(tmp_path / "m.jsonl", rows)
    metrics = evaluate(tiny_run.folder, tmp_path / "m.jsonl", reading=Reading(allow_outside=True))
    assert metrics["count_mean_ap"] is None
    assert metrics["mean_ap"] is not None


def test_all_splits_together(tiny, tiny_run):
    assert evaluate(tiny_run.folder, tiny / "scenes.jsonl", split="all")["num_examples"] == 80
    with pytest.raises(InputError, match="no row has split 'tset'"):
        evaluate(tiny_run.folder, tiny / "scenes.jsonl", split="tset")


def test_the_table_names_its_truth_and_shows_every_part_of_speech(tiny, tiny_run):
    metrics = evaluate(tiny_run.folder, tiny / "scenes.jsonl", truth="captions")
    table = format_metrics(metrics)
    assert "truth: captions" in table
    assert all(part in table for part in metrics["by_pos"])
    assert "p(z|I)" in table
    assert "count-AP" in table
    assert f"  {metrics['num_without_tag']} of {metrics['num_examples']} examples get no tag" in table
    assert 0 <= metrics["num_without_tag"] <= metrics["num_examples"]
    assert "DT determiners" in table


def test_rates_are_learnt_per_word(tiny, tiny_run):
    noise = evaluate(tiny_run.folder, tiny / "scenes.jsonl")["noise"]
    for rates in noise.values():
        assert rates.keys() == set(tiny_run.vocabulary.words)
        assert all(0 < rate < 1 and math.isfinite(rate) for rate in rates.values())


def test_decisions_are_made_at_the_threshold_of_the_run(tiny, tiny_run):
    chosen = tiny_run.threshold()
    assert chosen is not None
    metrics = evaluate(tiny_run.folder, tiny / "scenes.jsonl")
    assert metrics["threshold"] == chosen
    given = evaluate(tiny_run.folder, tiny / "scenes.jsonl", threshold=chosen)
    assert [metrics[name] for name in ("op", "or", "of1")] == [given[name] for name in ("op", "or", "of1")]
    assert evaluate(tiny_run.folder, tiny / "scenes.jsonl", threshold=0.5)["threshold"] == 0.5
