"""Training through files: equal runs, shared stage 1, fair baselines, noisy choices, and no look at the truth."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from truetag.data.labels import observed_labels
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import function_words
from truetag.errors import InputError
from truetag.evaluation.decisions import best_threshold
from truetag.io.tensors import read_tensors, write_tensors
from truetag.media.files import Reading
from truetag.models.building import load_classifier
from truetag.prediction.inference import predict_manifest
from truetag.runs.config import TrainConfig, config_from_dict
from truetag.runs.folder import open_run
from truetag.runs.noise_model import load_noise_model
from truetag.training.recipes import recipe
from truetag.training.train import train


def states(folder):
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert all(torch.equal(a[name][key], b[name][key]) for key in a[name]), name


def test_run_folder_holds_what_prediction_and_a_reader_need(tiny_run, tiny_config):
    names = {path.name for path in tiny_run.folder.iterdir()}
    assert names >= {
        "config.json",
        "vocabulary.tsv",
        "preprocessing.json",
        "versions.json",
        "history.jsonl",
        "tensorboard",
        "stage1.safetensors",
        "classifier.safetensors",
        "noise_model.safetensors",
    }
    opened = open_run(tiny_run.folder)
    assert opened.config == tiny_config
    assert opened.vocabulary == tiny_run.vocabulary
    assert opened.preprocessing == tiny_run.preprocessing
    history = opened.history()
    assert [(record["stage"], record["epoch"]) for record in history] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(math.isfinite(record["loss"]) and 0 < record["validation_ap"] <= 1 for record in history)
    assert any((tiny_run.folder / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny, tiny_config, tiny_run, tmp_path):
    arguments = (tiny / "swapped.jsonl", tiny / "vocabulary.tsv")
    again = train(tiny_config, *arguments, tmp_path / "again")
    assert_same(states(tiny_run.folder), states(again.folder))
    other = train(replace(tiny_config, seed=1), *arguments, tmp_path / "other")
    assert not torch.equal(
        states(other.folder)["classifier.safetensors"]["head.weight"],
        states(again.folder)["classifier.safetensors"]["head.weight"],
    )


def test_stage_1_can_be_taken_over(tiny, tiny_config, tiny_run, tmp_path):
    taken = train(tiny_config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "taken", tiny_run.folder)
    assert_same(states(tiny_run.folder), states(taken.folder))
    records = [
        [{name: value for name, value in record.items() if name != "seconds"} for record in run.history()]
        for run in (taken, tiny_run)
    ]
    assert records[0] == records[1]


def test_stage_1_of_another_vocabulary_is_refused(tiny, tiny_config, tiny_run, tmp_path):
    words = (tiny / "vocabulary.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "fewer.tsv").write_text("".join(words[:-1]))
    with pytest.raises(InputError, match="from: the vocabulary"):
        train(tiny_config, tiny / "swapped.jsonl", tmp_path / "fewer.tsv", tmp_path / "run", tiny_run.folder)
    config = replace(tiny_config, pooling="noisy-or")
    with pytest.raises(InputError, match="pooling 'mean'"):
        train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run2", tiny_run.folder)


def test_wrong_true_tags_change_nothing(tiny, tiny_config, tiny_run, tmp_path):
    """Training has no access to the truth: planted lies leave every weight as it was."""
    rows = [
        row | {"true_tags": ["lie"], "true_captions": ["a lie"], "image": str(tiny / row["image"])}
        for row in iterate_rows(tiny / "swapped.jsonl")
    ]
    write_manifest(tmp_path / "lies.jsonl", rows)
    run = train(
        tiny_config,
        tmp_path / "lies.jsonl",
        tiny / "vocabulary.tsv",
        tmp_path / "run",
        reading=Reading(allow_outside=True),
    )
    assert_same(states(tiny_run.folder), states(run.folder))


def test_a_broken_photo_trains_nothing_and_ends_nothing(tiny, tiny_config, tmp_path):
    rows = [row | {"image": str(tiny / row["image"])} for row in iterate_rows(tiny / "swapped.jsonl")]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    rows[0]["image"] = str(tmp_path / "broken.jpg")
    write_manifest(tmp_path / "m.jsonl", rows)
    train(
        replace(tiny_config, stage2_epochs=0, noise_model="none"),
        tmp_path / "m.jsonl",
        tiny / "vocabulary.tsv",
        tmp_path / "a",
        reading=Reading(allow_outside=True),
    )
    frozen = replace(tiny_config, freeze_backbone=True, stage2_epochs=0, noise_model="none")
    train(frozen, tmp_path / "m.jsonl", tiny / "vocabulary.tsv", tmp_path / "b", reading=Reading(allow_outside=True))
    for name in ("a", "b"):
        (line,) = (tmp_path / name / "skipped.jsonl").read_text().splitlines()
        assert json.loads(line)["path"] == str(tmp_path / "broken.jpg")


@pytest.mark.parametrize("freeze", [True, False])
def test_no_usable_photo_is_said(tiny, tiny_config, tmp_path, freeze):
    shutil.copy(tiny / "swapped.jsonl", tmp_path / "m.jsonl")  # its photos are elsewhere
    config = replace(tiny_config, freeze_backbone=freeze)
    with pytest.raises(InputError, match=r"max_skipped: more than the share 0\.5 of 64 photos"):
        train(config, tmp_path / "m.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_wrong_start_leaves_no_folder_behind(tiny, tiny_config, tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        train(tiny_config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pooling", ["mean", "noisy-or"])
def test_a_frozen_backbone_stays_as_it_was(tiny, tiny_config, tmp_path, pooling):
    config = replace(tiny_config, freeze_backbone=True, pooling=pooling, noise_model="fi")
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")
    assert not any(name.startswith("backbone.") for name in run.load_state("stage1"))
    assert not run.load_state("classifier")["head.standardise.mean"].eq(0).all()
    noise_model = load_noise_model(run)
    assert noise_model is not None
    assert noise_model.missing_rate().shape == (len(run.vocabulary),)


def test_validation_is_cut_from_train_where_there_is_none(tiny, tiny_config, tmp_path):
    rows = [row | {"image": str(tiny / row["image"]), "split": None} for row in iterate_rows(tiny / "swapped.jsonl")]
    write_manifest(tmp_path / "m.jsonl", rows)
    config = replace(tiny_config, stage1_epochs=1, stage2_epochs=0, noise_model="none", validation_fraction=0.25)
    assert train(
        config, tmp_path / "m.jsonl", tiny / "vocabulary.tsv", tmp_path / "run", reading=Reading(allow_outside=True)
    ).history()


def test_sgd_and_the_papers_summed_loss(tiny, tiny_config, tmp_path):
    config = replace(tiny_config, optimiser="sgd", loss="sum_labels", learning_rate=1e-3, stage1_epochs=1, q=0.5)
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")
    assert run.history()[0]["loss"] > 1


def test_golden_losses(tiny_run):
    """A refactoring must not change training: these losses were read off when this test was written."""
    losses = [record["loss"] for record in tiny_run.history()]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


GOLDEN_LOSSES = [0.57356, 0.54609, 0.62015, 0.59725]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dropout", 1.0, "below 1"),
        ("q", 1.5, "q: expected auto or a number from 0 to 1, got 1.5"),
        ("batch_size", 0, "above 0"),
        ("noise_learning_rate", -1.0, "0 or more"),
        ("seed", 2**40, "below"),
        ("stage1_epochs", -1, "0 or more"),
    ],
)
def test_settings_outside_their_range_are_refused(field, value, expected):
    with pytest.raises(InputError, match=expected):
        config_from_dict({field: value})


def test_a_noise_model_needs_a_stage_2():
    with pytest.raises(InputError, match="stage2_epochs: expected a number above 0 where there is a noise"):
        config_from_dict({"noise_model": "fi", "stage2_epochs": 0})


def test_an_unknown_noise_model_is_refused_before_any_work(tiny, tiny_config, tmp_path):
    with pytest.raises(InputError, match="noise_model: expected none, fi, fd or fd-shared, got 'fx'"):
        train(replace(tiny_config, noise_model="fx"), tmp_path / "none", tiny / "none", tmp_path / "run")


def test_layer_norm_is_a_switch_and_off_in_the_papers_recipes(tiny, tiny_config, tmp_path):
    """The paper's network has no normalisation: seven times the features are seven times the logit (less the bias)."""
    assert not recipe("paper-nmn-fd").layer_norm
    assert not recipe("paper-nmn-fd").standardise
    for layer_norm in (False, True):
        config = replace(
            tiny_config, layer_norm=layer_norm, standardise=False, stage2_epochs=0, noise_model="none", stage1_epochs=1
        )
        run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / str(layer_norm))
        head = load_classifier(run).head
        features = torch.randn(4, head.weight.shape[1], device=head.weight.device)
        with torch.inference_mode():
            once, seven_times = (head(scale * features) - head.bias for scale in (1, 7))
        assert torch.allclose(seven_times, once if layer_norm else 7 * once, rtol=1e-3, atol=1e-5)


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match="did you mean 'dropout'"):
        config_from_dict({"droput": 0.5})
    assert config_from_dict({}) == TrainConfig()


def test_an_unknown_recipe_is_named():
    with pytest.raises(InputError, match="did you mean 'nmn-fi'"):
        recipe("nmn-fl")


def test_an_existing_run_is_not_overwritten(tiny, tiny_config, tiny_run):
    with pytest.raises(InputError, match="exists already"):
        train(tiny_config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tiny_run.folder)


def test_a_diverging_loss_is_said(tiny, tiny_config, tmp_path):
    config = replace(tiny_config, optimiser="sgd", learning_rate=1e30, stage2_epochs=0, noise_model="none")
    with pytest.raises(InputError, match="lower learning_rate"):
        train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")


def test_the_threshold_has_the_best_f1_on_noisy_validation_tags(tiny, tiny_run):
    manifest = read_manifest(tiny / "swapped.jsonl")
    logits = predict_manifest(tiny_run, manifest, "validation").logits
    labels = observed_labels(manifest.in_split("validation"), tiny_run.vocabulary)
    left_out = function_words(tiny_run.vocabulary)
    written = [label for label, word in enumerate(tiny_run.vocabulary.words) if word not in left_out]
    expected = best_threshold(logits[:, written].sigmoid(), labels[:, written])
    assert tiny_run.threshold() == pytest.approx(expected, abs=1e-5)


def test_without_validation_tags_no_threshold_is_chosen(tiny, tiny_config, tmp_path, capsys):
    rows = list(iterate_rows(tiny / "swapped.jsonl"))
    for row in rows:
        row["image"] = str(tiny / row["image"])
        if row["split"] == "validation":
            row |= {"captions": [], "tags": []}
    write_manifest(tmp_path / "m.jsonl", rows)
    config = replace(tiny_config, stage2_epochs=0, noise_model="none", stage1_epochs=1)
    reading = Reading(allow_outside=True)
    run = train(config, tmp_path / "m.jsonl", tiny / "vocabulary.tsv", tmp_path / "run", reading=reading)
    assert run.threshold() is None
    assert "threshold: none could be chosen" in capsys.readouterr().err


def test_frozen_backbones_are_kept_once_and_every_run_is_whole(tiny, tiny_config, tmp_path):
    config = replace(tiny_config, freeze_backbone=True)
    reading = Reading(cache=tmp_path / "cache")
    data = (tiny / "scenes.jsonl", tiny / "vocabulary.tsv")
    runs = [train(replace(config, seed=0, dropout=d), *data, tmp_path / str(d), reading=reading) for d in (0.0, 0.1)]
    files = [run.folder / "backbone.safetensors" for run in runs]
    assert files[0].samefile(files[1])
    assert not any(name.startswith("backbone.") for name in runs[0].load_state("classifier"))
    expected = {name: tensor.clone() for name, tensor in load_classifier(runs[0]).state_dict().items()}
    shutil.rmtree(tmp_path / "cache")
    shutil.copytree(runs[0].folder, tmp_path / "elsewhere")
    shutil.rmtree(runs[0].folder)
    for folder in (tmp_path / "elsewhere", runs[1].folder):
        state = load_classifier(open_run(folder)).state_dict()
        assert all(
            torch.equal(state[name], tensor) for name, tensor in expected.items() if name.startswith("backbone.")
        )
    path = runs[1].folder / "backbone.safetensors"
    good = path.read_bytes()
    write_tensors(path, {name: tensor + 1 for name, tensor in expected.items() if name.startswith("backbone.")})
    with pytest.raises(InputError, match=r"expected the frozen backbone .* got another one"):
        load_classifier(open_run(runs[1].folder))
    path.unlink()
    with pytest.raises(InputError, match=r"expected the frozen backbone .* got no such file"):
        load_classifier(open_run(runs[1].folder))
    (tmp_path / "cache" / "backbones").mkdir(parents=True)
    digest = read_tensors(runs[1].folder / "classifier.safetensors")[1]["backbone"]
    (tmp_path / "cache" / "backbones" / f"{digest}.safetensors").write_bytes(good[:-100])  # damaged
    third = train(replace(config, dropout=0.3), *data, tmp_path / "third", reading=reading)
    assert (third.folder / "backbone.safetensors").read_bytes() == good
