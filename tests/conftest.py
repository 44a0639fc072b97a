"""Settings of every test: one thread (small tensors, two cores), no network, caches in a temporary folder."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import that reads it

from pathlib import Path

import datasets
import hypothesis
import pytest
import torch

from truetag.data.corruption import corrupt
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import build_vocabulary, write_vocabulary
from truetag.demo.scenes import draw_scenes
from truetag.runs.config import TrainConfig
from truetag.training.train import train

torch.set_num_threads(1)
# fresh examples on a developer's machine, the same ones in CI
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory):
    os.environ["TRUETAG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def shared_data():
    """Real data beside the checkout; the tests that use it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A small drawn data set as files: the clean manifest, its vocabulary, and a copy with swapped captions."""
    folder = tmp_path_factory.mktemp("tiny")
    clean = draw_scenes(folder, 48, 16, 16, size=32)
    write_vocabulary(folder / "vocabulary.tsv", build_vocabulary(read_manifest(clean).in_split("train"), 20))
    corrupt(clean, folder / "swapped.jsonl", swap_captions=2)
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    """Settings under which a run over `tiny` takes a second."""
    return TrainConfig(
        backbone="test_resnet",
        weights="none",
        resolution=32,
        stage1_epochs=2,
        stage2_epochs=2,
        noise_model="fd",
        batch_size=16,
        dropout=0.1,
        learning_rate=3e-4,
        stage2_learning_rate=2e-4,
        weight_decay=1.0,
    )


@pytest.fixture(scope="session")
def tiny_run(tiny, tiny_config, tmp_path_factory):
    """A finished run on `tiny`."""
    folder = tmp_path_factory.mktemp("runs") / "fd"
    return train(tiny_config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", folder)


@pytest.fixture
def few_steps(monkeypatch):
    """Heads in few steps, for what does not depend on how well they are trained."""
    monkeypatch.setattr("truetag.label_noise.heads.FEWEST_STEPS", 20)
