"""What a run learns before it trains: soft labels and choices from noisy captions alone, the same when it goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from truetag.data.labels import observed_labels, source_words
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.errors import InputError
from truetag.io.tensors import read_tensors
from truetag.label_noise.heads import HeadSettings
from truetag.label_noise.selection import Choice
from truetag.label_noise.validity import naming_shares
from truetag.media.files import Reading
from truetag.runs.folder import open_run
from truetag.runs.noise_model import load_noise_model
from truetag.training import stage as fitting
from truetag.training.recipes import recipe
from truetag.training.train import train


@pytest.fixture
def config(tiny_config):
    best = recipe("best")
    chosen = {"validity": best.validity, "q": best.q, "stage1_epochs": 0, "noise_model": "fi"}
    return replace(tiny_config, freeze_backbone=True, **chosen)


@pytest.fixture
def tagged(tiny, tmp_path):
    """The same photos with tags and no captions: a manifest and its vocabulary."""
    rows = [row | {"captions": None, "tags": ["circle"]} for row in iterate_rows(tiny / "swapped.jsonl")]
    for row in rows[::2]:
        row["tags"] = ["square"]
    manifest = tmp_path / "tagged.jsonl"
    write_manifest(manifest, rows, {"media_root": str(tiny)})
    (tmp_path / "words.tsv").write_text("circle\tNN\t1\nsquare\tNN\t1\n")
    return manifest, tmp_path / "words.tsv"


def learnt(folder):
    return read_tensors(folder / "targets.safetensors")


def test_best_says_what_it_chose_and_why(tiny, config, tmp_path, capsys):
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run", reading=Reading(tmp_path))
    said = capsys.readouterr().err
    assert "captions belong where they are" in said
    assert "chosen: " in said
    state, note = learnt(run.folder)
    assert ((state["validity"] >= 0) & (state["validity"] <= 1)).all()
    assert note["chosen"].keys() == {"noise_model", "q"}
    assert open_run(run.folder).config == config  # what was asked for
    assert run.has_state("noise_model") == (note["chosen"]["noise_model"] == "fi")
    assert len(run.history()) == config.stage2_epochs


def test_the_truth_is_never_looked_at(tiny, config, tmp_path):
    rows = list(iterate_rows(tiny / "swapped.jsonl"))
    for row in rows:
        row |= {"true_tags": ["planted"], "true_captions": ["planted and wrong"]}
    planted = tmp_path / "planted.jsonl"
    write_manifest(planted, rows, {"media_root": str(tiny)})
    runs = [
        train(
            config,
            manifest,
            tiny / "vocabulary.tsv",
            tmp_path / name,
            reading=Reading(tmp_path / "cache", allow_outside=True),
        )
        for name, manifest in (("a", tiny / "swapped.jsonl"), ("b", planted))
    ]
    ours, theirs = (learnt(run.folder) for run in runs)
    assert ours[1] == theirs[1]
    assert torch.equal(ours[0]["validity"], theirs[0]["validity"])
    assert torch.equal(*(run.load_state("classifier")["head.weight"] for run in runs))


def test_a_run_that_goes_on_has_the_same_targets(tiny, config, tmp_path, monkeypatch):
    arguments = (tiny / "swapped.jsonl", tiny / "vocabulary.tsv")
    whole = train(config, *arguments, tmp_path / "whole", reading=Reading(tmp_path))
    steps = []
    original = fitting.q_likelihood

    def interrupted(*values):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(*values)

    monkeypatch.setattr(fitting, "q_likelihood", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, checkpoint_seconds=0.0), *arguments, tmp_path / "run", reading=Reading(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr("truetag.training.targets.learn_from_features", None)  # it is not learnt again
    run = train(config, *arguments, tmp_path / "run", reading=Reading(tmp_path), resume=True)
    for name in ("targets", "classifier"):
        ours, theirs = run.load_state(name), whole.load_state(name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_tags_are_taken_as_they_are(tagged, config, tmp_path):
    run = train(config, *tagged, tmp_path / "run", reading=Reading(tmp_path, allow_outside=True))
    assert "validity" not in learnt(run.folder)[0]


def test_where_held_out_tags_say_so_labels_become_their_posterior(tagged, config, tmp_path, monkeypatch):
    """Nobody's captions to weigh: relabelled, trained without a noise model, and the rates are kept beside it."""
    chosen = HeadSettings(noise_model="fi", q=0.6, relabel=True)
    monkeypatch.setattr("truetag.training.targets.choose", lambda *_, **__: Choice(chosen, {}, "as the test says"))
    arguments = {"reading": Reading(tmp_path, allow_outside=True)}
    run = train(config, *tagged, tmp_path / "run", **arguments)
    state, note = learnt(run.folder)
    assert note["chosen"] == {"noise_model": "none", "q": 0.4}
    assert ((state["posterior"] >= 0) & (state["posterior"] <= 1)).all()
    noise_model = load_noise_model(run)
    assert noise_model is not None
    assert torch.allclose(noise_model.missing_rate(), state["missing"], atol=1e-6)
    assert torch.allclose(noise_model.incorrect_rate(), state["incorrect"], atol=1e-6)
    monkeypatch.setattr("truetag.training.targets.learn_from_features", None)  # what is kept is taken
    again = train(config, *tagged, tmp_path / "run", resume=True, **arguments)
    assert torch.equal(*(each.load_state("classifier")["head.weight"] for each in (run, again)))


def test_labels_of_frames_have_no_captions_of_their_own(tiny, config, tmp_path):
    with pytest.raises(InputError, match="level: validity and the choice of q need the labels of bags, got frame"):
        train(replace(config, level="frame"), tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")


def test_captions_as_sources(tiny):
    rows = read_manifest(tiny / "swapped.jsonl").in_split("train")
    vocabulary = read_vocabulary(tiny / "vocabulary.tsv")
    words, bags = source_words(rows, vocabulary)
    assert len(bags) == sum(len(row["captions"]) for row in rows)
    shares = naming_shares(words, bags, len(rows))
    assert torch.equal(shares > 0, observed_labels(rows, vocabulary) == 1)
    first = json.loads((tiny / "vocabulary.tsv").with_name("swapped.jsonl").read_text().splitlines()[1])
    assert np.isclose(shares[0].max().item() * len(first["captions"]) % 1, 0, atol=1e-5) or shares[0].max() == 1
