"""Training aims at the `tag_probabilities` of the manifest, and nothing else takes them for given tags."""

from dataclasses import replace

import pytest
import torch

from truetag.data.labels import observed_labels
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.media.files import Reading
from truetag.training import targets
from truetag.training.train import train


@pytest.fixture
def manifests(tiny, tmp_path):
    """The tiny photos with one tag each; in a second manifest with the opposite as probabilities."""
    rows = [row | {"captions": None, "tags": ["circle"]} for row in iterate_rows(tiny / "swapped.jsonl")]
    for row in rows[::2]:
        row["tags"] = ["square"]
    opposite = {"circle": {"circle": 0.125, "square": 0.875}, "square": {"circle": 0.875, "Square": 0.125}}
    write_manifest(tmp_path / "plain.jsonl", rows, {"media_root": str(tiny)})
    soft = [row | {"tag_probabilities": opposite[row["tags"][0]]} for row in rows]
    soft[0] |= {"verified_tags": soft[0]["tags"]}
    write_manifest(tmp_path / "soft.jsonl", soft, {"media_root": str(tiny)})
    (tmp_path / "words.tsv").write_text("circle\tNN\t1\nsquare\tNN\t1\n")
    return tmp_path


def test_they_are_the_targets_and_change_what_is_trained(manifests, tiny_config, monkeypatch):
    seen = []
    real = targets.learn_targets

    def watched(inputs, data, path, writes):
        learnt = real(inputs, data, path, writes)
        seen.append(data.train.labels.clone())
        return learnt

    monkeypatch.setattr("truetag.training.train.learn_targets", watched)
    config = replace(tiny_config, freeze_backbone=True, noise_model="none", stage2_epochs=0)
    for name in ("plain", "soft"):
        reading = Reading(manifests / "cache")
        train(config, manifests / f"{name}.jsonl", manifests / "words.tsv", manifests / name, reading=reading)
    plain, soft = seen
    decided = soft.shape[0] - 1
    assert ((soft == 0.125) | (soft == 0.875)).all(1).sum() == decided
    assert ((soft > 0.5) != (plain > 0.5)).all(1).sum() == decided
    assert (soft[0, 1], plain[0, 1]) == (1, 1)  # a person has decided
    weights = [(manifests / name / "classifier.safetensors").read_bytes() for name in ("plain", "soft")]
    assert weights[0] != weights[1]
    tables = [(manifests / name / "labels.tsv").read_text() for name in ("plain", "soft")]
    assert tables[0] == tables[1]  # as observed


@pytest.mark.parametrize("level", ["bag", "frame"])
def test_every_kind_of_run_takes_them(manifests, tiny_config, level):
    config = replace(tiny_config, level=level, noise_model="fi", stage1_epochs=1, stage2_epochs=1)
    run = train(config, manifests / "soft.jsonl", manifests / "words.tsv", manifests / "run")
    assert run.is_finished


def test_they_are_not_observed(manifests):
    words = read_vocabulary(manifests / "words.tsv")
    observed = [observed_labels(read_manifest(manifests / f"{name}.jsonl").rows, words) for name in ("plain", "soft")]
    assert torch.equal(*observed)
