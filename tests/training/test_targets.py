"""What a run learns before it trains: soft labels and choices from noisy captions alone, the same when it goes on."""

import json
from dataclasses import replace

import pytest
import torch

from truetag.data.labels import caption_words, observed_labels
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import read_vocabulary, tokenise
from truetag.errors import InputError
from truetag.io.tensors import read_tensors
from truetag.label_noise.selection import Choice
from truetag.label_noise.settings import JOINT, HeadSettings
from truetag.label_noise.validity import naming_shares
from truetag.media.files import Reading
from truetag.prediction.inference import predict_manifest
from truetag.runs.folder import open_run, requested_config
from truetag.runs.noise_model import load_noise_model
from truetag.training import stage, targets
from truetag.training.recipes import recipe
from truetag.training.train import train


@pytest.fixture
def config(tiny_config):
    best = recipe("best")
    return replace(tiny_config, freeze_backbone=True, validity=best.validity, noise_model=best.noise_model)


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
    trained = open_run(run.folder).config
    assert trained == run.config == replace(config, **note["chosen"])
    assert trained.noise_model in ("none", "fi")
    assert requested_config(open_run(run.folder)) == config
    record = json.loads((run.folder / "chosen.json").read_text())
    assert record["reason"] in said
    assert record["held_out_ap"] == note["held_out_ap"]
    assert record["requested"]["noise_model"] == "auto"
    assert run.has_state("noise_model") == (trained.noise_model == "fi")
    assert len(run.history()) == trained.stage1_epochs + trained.stage2_epochs


@pytest.mark.parametrize("pooling", ["mean", "noisy-or"])
def test_probabilities_are_as_frequent_as_labels_would_be_without_swaps(tiny, config, tmp_path, pooling):
    config = replace(config, pooling=pooling)
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run", reading=Reading(tmp_path))
    state, note = learnt(run.folder)
    logits = predict_manifest(run, read_manifest(tiny / "swapped.jsonl"), "train").logits
    assert torch.allclose(logits.sigmoid().mean(0), state["frequencies"].clamp(1e-5, 1 - 1e-5), atol=2e-3)
    rows = read_manifest(tiny / "swapped.jsonl").in_split("train")
    named = (observed_labels(rows, run.vocabulary) == 1).float().mean(0)
    assert note["share_of_valid_captions"] < 0.95
    assert state["frequencies"].sum() < named.sum()  # what swapped captions name is not there


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
    original = stage.q_likelihood

    def interrupted(*values):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(*values)

    monkeypatch.setattr(stage, "q_likelihood", interrupted)
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
    """Without captions: trained on the posterior without a noise model, and the rates are stored beside it."""
    chosen = replace(JOINT, q=0.6, train_on_posterior=True)
    monkeypatch.setattr("truetag.training.targets.choose", lambda *_, **__: Choice(chosen, {"fi": 0.5}, "as told"))
    arguments = {"reading": Reading(tmp_path, allow_outside=True)}
    run = train(config, *tagged, tmp_path / "run", **arguments)
    state, note = learnt(run.folder)
    assert (note["chosen"]["noise_model"], note["chosen"]["q"]) == ("none", 0.4)
    assert note["train_on_posterior"]
    assert ((state["posterior"] >= 0) & (state["posterior"] <= 1)).all()
    noise_model = load_noise_model(run)
    assert noise_model is not None
    assert torch.allclose(noise_model.missing_rate(), state["missing"], atol=1e-6)
    assert torch.allclose(noise_model.incorrect_rate(), state["incorrect"], atol=1e-6)
    monkeypatch.setattr("truetag.training.targets.learn_from_features", None)  # what is kept is taken
    again = train(config, *tagged, tmp_path / "run", resume=True, **arguments)
    assert torch.equal(*(each.load_state("classifier")["head.weight"] for each in (run, again)))


def test_whatever_is_chosen_probabilities_are_calibrated_and_rates_are_estimated(tagged, config, tmp_path, monkeypatch):
    """As `NoisyLabelClassifier` does: the head's logits get the moments of calibrated out-of-sample logits."""
    plain = HeadSettings(stage1_epochs=config.stage1_epochs, stage2_epochs=config.stage2_epochs)
    monkeypatch.setattr("truetag.training.targets.choose", lambda *_, **__: Choice(plain, {"none": 0.5}, "as told"))
    reading = Reading(tmp_path, allow_outside=True)
    run = train(config, *tagged, tmp_path / "run", reading=reading)
    state, _ = learnt(run.folder)
    logits = predict_manifest(run, read_manifest(tagged[0]), "train", reading).logits
    assert torch.allclose(logits.mean(0), state["logit_mean"], atol=1e-3)
    assert torch.allclose(logits.std(0, correction=0), state["logit_deviation"], atol=1e-3)
    noise_model = load_noise_model(run)
    assert noise_model is not None
    assert torch.allclose(noise_model.missing_rate(), state["missing"], atol=1e-6)


def test_labels_of_frames_have_no_captions_of_their_own(config):
    with pytest.raises(InputError, match="level: expected bag where captions or noise models are judged, got 'frame'"):
        replace(config, level="frame")


def test_captions_as_sources(tiny):
    rows = read_manifest(tiny / "swapped.jsonl").in_split("train")
    vocabulary = read_vocabulary(tiny / "vocabulary.tsv")
    words, bags = caption_words(rows, vocabulary)
    assert len(bags) == sum(len(row["captions"]) for row in rows)
    shares = naming_shares(words, bags, len(rows))
    assert torch.equal(shares > 0, observed_labels(rows, vocabulary) == 1)
    first = rows[0]
    word = vocabulary.words.index(tokenise(first["captions"][0])[0])
    num_naming = sum(vocabulary.words[word] in tokenise(caption) for caption in first["captions"])
    assert shares[0, word].item() == pytest.approx(num_naming / len(first["captions"]))


def test_an_open_choice_without_a_stage_is_refused_before_any_work(config):
    with pytest.raises(InputError, match="stage2_epochs: expected a number above 0 where there is a noise"):
        replace(config, stage2_epochs=0)


def test_groups_reach_every_out_of_sample_step(tiny, config, tmp_path, monkeypatch):
    rows = [row | {"group": f"pair {index // 2}"} for index, row in enumerate(iterate_rows(tiny / "swapped.jsonl"))]
    manifest = tmp_path / "grouped.jsonl"
    write_manifest(manifest, rows, {"media_root": str(tiny)})
    seen = {}
    for name in ("out_of_sample_logits", "choose", "caption_validity"):
        original = getattr(targets, name)

        def record(*values, name=name, original=original, **options):
            seen[name] = options["groups"] if name != "caption_validity" else values[3]
            return original(*values, **options)

        monkeypatch.setattr(targets, name, record)
    reading = Reading(tmp_path, allow_outside=True)
    train(config, manifest, tiny / "vocabulary.tsv", tmp_path / "run", reading=reading)
    expected = [row["group"] for row in rows if row["split"] == "train"]
    assert seen == dict.fromkeys(("out_of_sample_logits", "choose", "caption_validity"), expected)
