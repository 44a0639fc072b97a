"""`docs/noise_models.md` followed to the letter in a copy of the package: with three edits, everything finds it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

WITH_THE_ESTIMATOR = """
import numpy as np
from truetag import NoisyLabelClassifier
rng = np.random.default_rng(0)
X = rng.normal(size=(400, 8))
y = (X[:, :3] > 0) & (rng.random((400, 3)) < 0.7)
tagger = NoisyLabelClassifier("missing-only", epochs=3).fit(X, y)
assert (tagger.noise_rates_[:, 0] > 0).all() and (tagger.noise_rates_[:, 1] == 0).all()
assert tagger.head_.noise_model.biases.std() > 0  # it was trained
"""
WITH_TRAIN = """
from pathlib import Path
from dataclasses import replace
from truetag.evaluate import evaluate
from truetag.runs.noise_model import load_noise_model
from truetag.training.recipes import recipe
from truetag.training.train import train
folder, out = Path({tiny!r}), Path({out!r})
config = replace(recipe("mlcn-star"), noise_model="missing-only", backbone="test_resnet", weights="none", resolution=32,
                 freeze_backbone=True, stage1_epochs=1, stage2_epochs=1, batch_size=16)
run = train(config, folder / "swapped.jsonl", folder / "vocabulary.tsv", out)
assert load_noise_model(run).name == "missing-only"
metrics = evaluate(out, folder / "scenes.jsonl")
assert set(metrics["noise"]["incorrect_rate"].values()) == {{0.0}} and "observed" in metrics
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with edits 1 and 2 of the page, and its test with edit 3."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src" / "truetag", folder / "truetag")
    page = (ROOT / "docs" / "noise_models.md").read_text()
    a_class, a_case = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = folder / "truetag" / "noise_models.py"
    text = path.read_text()
    last_case = text.index("    raise InputError", text.index("def make_noise_model"))
    path.write_text(f"{text[:last_case]}{a_case}{text[last_case:]}\n\n{a_class}")
    tests = (ROOT / "tests" / "test_noise_models.py").read_text()
    tests = tests.replace("MODELS = [", "MODELS = [lambda: MissingOnlyNoise(K), ", 1)
    tests = tests.replace("    NoiseModel,\n", "    MissingOnlyNoise,\n    NoiseModel,\n", 1)
    (folder / "test_noise_models.py").write_text(tests)
    return folder


def run_python(copy: Path, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


def test_its_own_tests_pass_but_for_the_rate_that_it_does_not_have(copy):
    recovers = "not test_recovers_injected_rates_given_the_truth"
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "-k", recovers]
    run_python(copy, "-m", "pytest", *options, "test_noise_models.py")


def test_the_estimator_trains_it(copy):
    run_python(copy, "-c", WITH_THE_ESTIMATOR)


def test_train_and_evaluate_find_it(copy, tiny, tmp_path):
    run_python(copy, "-c", WITH_TRAIN.format(tiny=str(tiny), out=str(tmp_path / "run")))
