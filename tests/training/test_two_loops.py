"""The loop in memory and the loop with checkpoints are one method: same parts, same defaults, same result."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from truetag.data.corruption import corrupt
from truetag.data.labels import label_matrix
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import build_vocabulary, write_vocabulary
from truetag.demo.scenes import draw_scenes
from truetag.estimator import NoisyLabelClassifier
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.label_noise.heads import fit_head
from truetag.label_noise.settings import JOINT, HeadSettings
from truetag.media.files import Reading
from truetag.models.backbones import load_backbone
from truetag.models.building import build_classifier, load_classifier
from truetag.prediction.inference import predict_manifest
from truetag.runs.config import TrainConfig
from truetag.training.preparation import TrainingInputs, prepare_data
from truetag.training.recipes import recipe
from truetag.training.train import train

RECIPES = {"mlcn": "none", "mlcn-star": "none", "nmn-fi": "fi", "nmn-fd": "fd"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Drawn photos with swapped captions, enough to learn from."""
    folder = tmp_path_factory.mktemp("loops")
    clean = draw_scenes(folder, 512, 64, 256, size=32)
    write_vocabulary(folder / "vocabulary.tsv", build_vocabulary(read_manifest(clean).in_split("train"), 40))
    corrupt(clean, folder / "swapped.jsonl", swap_captions=2)
    return folder


def config_of(name: str) -> TrainConfig:
    # a random network has 512 features; the last epoch is what `fit_head` keeps
    return replace(
        recipe(name),
        backbone="test_resnet",
        weights="none",
        resolution=32,
        freeze_backbone=True,
        select="last",
        batch_size=32,
    )


def settings_of(config: TrainConfig) -> HeadSettings:
    shared = {field.name for field in dataclasses.fields(HeadSettings)} & set(vars(config))
    values = {name: getattr(config, name) for name in shared}
    return HeadSettings(**values | {"q": 0.0})


def test_the_two_loops_have_the_same_names_and_defaults():
    config, settings = TrainConfig(), HeadSettings()
    for field in dataclasses.fields(HeadSettings):
        if field.name == "train_on_posterior":  # which `train` decides before its stages
            continue
        if field.name == "solver":  # `train` solves nothing in closed form
            continue
        expected = "auto" if field.name == "q" else getattr(settings, field.name)
        assert getattr(config, field.name) == expected, field.name


def test_a_recipe_and_the_estimator_mean_the_same_method():
    for name, noise_model in RECIPES.items():
        if name == "mlcn":  # which the estimator does not offer: it always trains as long as with a noise model
            continue
        (settings,) = NoisyLabelClassifier(noise_model).head_settings()
        assert settings == settings_of(recipe(name)), name
    assert NoisyLabelClassifier("auto", q=0).head_settings()[1] == JOINT


@pytest.mark.parametrize("name", RECIPES)
def test_both_loops_reach_the_same_mean_ap(scenes, tmp_path, name):
    config = config_of(name)
    run = train(config, scenes / "swapped.jsonl", scenes / "vocabulary.tsv", tmp_path / "run")
    test = read_manifest(scenes / "scenes.jsonl")
    truth = label_matrix(test.in_split("test"), run.vocabulary, "true")
    prediction = predict_manifest(run, test, "test")

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        backbone, preprocessing = load_backbone(config.backbone, config.weights, config.resolution)
        classifier = build_classifier(config, backbone, preprocessing, len(run.vocabulary))
    manifest = read_manifest(scenes / "swapped.jsonl")
    data = prepare_data(TrainingInputs(config, manifest, run.vocabulary, classifier, preprocessing, Reading()))
    features = torch.from_numpy(data.train.features[data.train.rows, 0])
    fitted = fit_head(features, data.train.labels, settings_of(config), seed=config.seed)

    # h(I), what the head reads: standardised by the same statistics in both
    assert torch.allclose(fitted.head.standardise.mean, load_classifier(run).head.standardise.mean, atol=1e-5)
    in_memory, with_checkpoints = fitted.head.logits(prediction.features), prediction.logits
    aps = [mean_over_labels(average_precision(logits, truth)) for logits in (in_memory, with_checkpoints)]
    assert aps[0] == pytest.approx(aps[1], abs=0.02)
    both = torch.stack([in_memory.flatten(), with_checkpoints.flatten()]).double()
    assert torch.corrcoef(both)[0, 1] > 0.98
