"""Runs to export: as training leaves them, but with random heads, so that they are made in no time."""

from dataclasses import replace

import pytest
import torch

from truetag.data.vocabulary import read_vocabulary
from truetag.models.backbones import load_backbone
from truetag.models.building import build_classifier
from truetag.runs.folder import create_run

THRESHOLD = 0.4


@pytest.fixture(scope="session")
def make_run(tiny, tiny_config, tmp_path_factory):
    """A function from settings to a finished run of a random classifier over the words of `tiny`."""

    def make(**settings):
        config = replace(tiny_config, **settings)
        vocabulary = read_vocabulary(tiny / "vocabulary.tsv")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone, preprocessing = load_backbone(config.backbone, "none", config.resolution)
            classifier = build_classifier(config, backbone, preprocessing, len(vocabulary))
            head = classifier.head
            with torch.no_grad():
                head.weight.normal_(std=0.3)
                head.bias.normal_()
                head.standardise.mean.normal_()
                head.standardise.deviation.uniform_(0.5, 2)
                if classifier.log_sharpness is not None:
                    classifier.log_sharpness.normal_()
        run = create_run(tmp_path_factory.mktemp("exported") / "run", config, vocabulary, preprocessing)
        run.save_classifier(classifier.state_dict(), None)
        run.save_threshold(THRESHOLD)
        return run

    return make


@pytest.fixture(scope="session")
def plain_run(make_run):
    """A run that timm can rebuild."""
    return make_run(layer_norm=False)


@pytest.fixture(scope="session")
def noisy_or_run(make_run):
    """A run that timm cannot rebuild."""
    return make_run(pooling="noisy-or", layer_norm=True)
