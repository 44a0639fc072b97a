"""Numbers of today's code on small fixed inputs: a move or a rewrite that is not meant to change a method keeps them.

Each array is represented by its mean, its standard deviation, and its first and last entries. A golden changes only in
a commit that says why.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from truetag.data.manifest import read_manifest
from truetag.label_noise.heads import fit_head
from truetag.label_noise.rates import calibrate
from truetag.label_noise.relabelling import posterior_labels
from truetag.label_noise.selection import candidates, choose
from truetag.label_noise.settings import JOINT
from truetag.label_noise.validity import caption_validity
from truetag.prediction.inference import predict_manifest
from truetag.prediction.tagging import predict
from truetag.runs.config import TrainConfig
from truetag.runs.noise_model import load_noise_model
from truetag.training.train import train

NOISE_MODELS = ("none", "fi", "fd", "fd-shared")
FEW_EPOCHS = replace(
    JOINT, noise_model="none", stage2_epochs=2, batch_size=32, initial_missing_rate=0.2, initial_incorrect_rate=0.02
)


def summary(values):
    flat = torch.as_tensor(np.asarray(values)).double().flatten()
    return [flat.mean().item(), flat.std(correction=0).item(), flat[0].item(), flat[-1].item()]


def noisy_data(num_examples=240, num_features=12, num_labels=5):
    """Features, and labels of which three in ten are missing."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(num_examples, num_features, generator=generator)
    true_logits = 2 * features @ torch.randn(num_features, num_labels, generator=generator) - 1
    true = torch.rand(true_logits.shape, generator=generator) < true_logits.sigmoid()
    observed = true & (torch.rand(true.shape, generator=generator) > 0.3)
    return features, observed.float(), true_logits


def captions(num_bags=90, num_words=12):
    """Logits, words and bags of captions, a third of which belong elsewhere."""
    rng = np.random.default_rng(3)
    true = rng.random((num_bags, num_words)) < 0.2
    bags = np.repeat(np.arange(num_bags), 3)
    about = np.where(rng.random(len(bags)) < 2 / 3, bags, rng.permutation(bags))
    words = true[about] & (rng.random((len(bags), num_words)) < 0.8)
    logits = np.where(true, 1.5, -3.0) + rng.normal(0, 0.5, true.shape)
    return torch.from_numpy(logits).float(), sparse.csr_array(words.astype(float)), bags


def golden_head(noise_model):
    features, labels, _ = noisy_data()
    head = fit_head(features, labels, replace(FEW_EPOCHS, noise_model=noise_model, q=0.3), seed=1)
    log_q = head.log_q(features)
    return summary(head(features)) + ([] if log_q is None else summary(log_q.exp()))


def golden_choice():
    features, labels, _ = noisy_data()
    choice = choose(features, labels, candidates(FEW_EPOCHS, with_solved=False)[:3], seed=1)
    return [*choice.scores.values()]


def golden_calibration():
    _, labels, true_logits = noisy_data(2000)
    found = calibrate(true_logits / 2, labels)
    return [value for part in (found.scale, found.shift, found.missing, found.incorrect) for value in part.tolist()]


def golden_validity():
    found = caption_validity(*captions())
    return [*summary(found.probabilities), found.share]


def golden_posterior():
    features, labels, _ = noisy_data()
    found = posterior_labels(features, labels, replace(FEW_EPOCHS, noise_model="fi"), seed=1)
    return summary(found.labels) + summary(found.calibration.missing)


def golden_run(tiny, folder, noise_model, freeze):
    """A run's weights, losses and validation AP, and what it predicts, from photos and (frozen) from the cache."""
    config = TrainConfig(
        backbone="test_resnet",
        weights="none",
        resolution=32,
        freeze_backbone=freeze,
        stage1_epochs=1,
        stage2_epochs=1,
        noise_model=noise_model,
        q=0.0,
        batch_size=16,
        dropout=0.1,
        learning_rate=3e-3,
        stage2_learning_rate=2e-3,
        weight_decay=1.0,
        noise_learning_rate=1e-2,
        initial_missing_rate=0.2,
        initial_incorrect_rate=0.02,
    )
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", folder)
    history = [value for record in run.history() for value in (record["loss"], record["validation_ap"])]
    logits, h, rows, _ = predict_manifest(run, read_manifest(tiny / "scenes.jsonl"), "test")
    assert rows == list(range(16))
    numbers = history + summary(logits) + summary(h)
    if (model := load_noise_model(run)) is not None:
        numbers += summary(model(h).detach().exp())
    return numbers


GOLDENS: dict[str, list[float]] = {
    "head none": [-1.7176, 2.4905, -0.6153, -4.0639],
    "head fi": [-1.43, 3.9659, 0.55934, -4.5283, 0.5, 0.4089, 0.99647, 0.80777],
    "head fd": [-1.429, 3.9672, 0.5613, -4.524, 0.5, 0.40876, 0.99644, 0.8066],
    "head fd-shared": [-1.4043, 3.9906, 0.39492, -3.9848, 0.5, 0.40516, 0.99555, 0.5934],
    "choice": [0.68729, 0.68873, 0.68546, 0.6963],
    "calibration": [
        1.8044,
        2.1191,
        1.7307,
        1.8811,
        1.9445,
        -0.31455,
        0.087892,
        -0.19686,
        0.072701,
        -0.099659,
        0.26894,
        0.26894,
        0.26894,
        0.31003,
        0.31003,
        0.00038627,
        0.00037944,
        0.00038058,
        0.00037367,
        0.00038015,
    ],
    "validity": [0.63624, 0.42356, 0.99943, 0.0, 0.58604],
    "posterior": [0.46474, 0.44178, 0.99984, 0.021864, 0.33715, 0.036386, 0.35434, 0.31003],
    "run none photos": [
        0.73215,
        0.58717,
        0.61205,
        0.57776,
        2.5497,
        7.5974,
        24.26,
        0.04594,
        18.471,
        41.297,
        17.129,
        -0.24217,
    ],
    "run none cache": [
        0.56255,
        0.59901,
        0.54712,
        0.5934,
        0.90039,
        2.9243,
        9.2057,
        -1.2256,
        -0.0079706,
        1.002,
        -0.59416,
        -0.12208,
    ],
    "run fi photos": [
        0.73215,
        0.58717,
        0.60059,
        0.57693,
        4.2261,
        7.3715,
        24.246,
        0.69823,
        18.473,
        41.295,
        17.082,
        -0.24014,
        0.5,
        0.40098,
        0.97983,
        0.80164,
    ],
    "run fi cache": [
        0.56255,
        0.59901,
        0.591,
        0.59779,
        0.90218,
        2.924,
        9.2058,
        -1.2216,
        -0.0079706,
        1.002,
        -0.59416,
        -0.12208,
        0.5,
        0.4018,
        0.97929,
        0.80437,
    ],
    "run fd photos": [
        0.73215,
        0.58717,
        0.60053,
        0.57693,
        4.2198,
        7.3725,
        24.246,
        0.68016,
        18.473,
        41.295,
        17.082,
        -0.24016,
        0.5,
        0.40215,
        0.97935,
        0.80488,
    ],
    "run fd cache": [
        0.56255,
        0.59901,
        0.591,
        0.59779,
        0.90218,
        2.9239,
        9.2058,
        -1.2215,
        -0.0079706,
        1.002,
        -0.59416,
        -0.12208,
        0.5,
        0.4018,
        0.9793,
        0.80416,
    ],
    "run fd-shared photos": [
        0.73215,
        0.58717,
        0.60389,
        0.58723,
        3.2639,
        7.7087,
        24.229,
        -0.20666,
        18.481,
        41.303,
        17.098,
        -0.24045,
        0.5,
        0.3561,
        0.61213,
        0.98274,
    ],
    "run fd-shared cache": [
        0.56255,
        0.59901,
        0.59122,
        0.59727,
        0.90203,
        2.924,
        9.2058,
        -1.2177,
        -0.0079706,
        1.002,
        -0.59416,
        -0.12208,
        0.5,
        0.40221,
        0.97935,
        0.79743,
    ],
}


def close(expected):
    return pytest.approx(expected, rel=2e-3, abs=2e-4)  # BLAS differs between processors


@pytest.mark.parametrize("noise_model", NOISE_MODELS)
def test_fit_head(noise_model):
    assert golden_head(noise_model) == close(GOLDENS[f"head {noise_model}"])


def test_choose(few_steps):
    assert golden_choice() == close(GOLDENS["choice"])


def test_calibrate():
    assert golden_calibration() == close(GOLDENS["calibration"])


def test_caption_validity():
    assert golden_validity() == close(GOLDENS["validity"])


def test_posterior_labels(few_steps):
    assert golden_posterior() == close(GOLDENS["posterior"])


@pytest.mark.parametrize("freeze", [False, True], ids=["photos", "cache"])
@pytest.mark.parametrize("noise_model", NOISE_MODELS)
def test_train_and_predict(tiny, tmp_path, noise_model, freeze):
    kind = "cache" if freeze else "photos"
    assert golden_run(tiny, tmp_path / "run", noise_model, freeze) == close(GOLDENS[f"run {noise_model} {kind}"])


def test_photos_and_the_cache_give_each_row_its_own_prediction(tiny, tmp_path):
    """Rows that were exchanged, reversed or shifted anywhere between photo, cache and table would show here."""
    config = TrainConfig(
        backbone="test_resnet",
        weights="none",
        resolution=32,
        freeze_backbone=True,
        stage1_epochs=2,
        batch_size=16,
        learning_rate=3e-2,
    )
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")
    manifest = read_manifest(tiny / "scenes.jsonl")
    logits, _, rows, _ = predict_manifest(run, manifest, "test")  # from the cache
    ids = manifest.in_split("test")["id"][:]
    predict(run.folder, [tiny / "scenes.jsonl"], tmp_path / "p.jsonl", threshold=0.0, function_words=True, split="test")
    for index, row_logits in zip(rows, logits, strict=True):
        predict(
            run.folder,
            [tiny / "photos" / f"{ids[index]}.jpg"],
            tmp_path / "one.jsonl",
            threshold=0.0,
            function_words=True,
        )
        alone = read_probabilities(tmp_path / "one.jsonl")[f"{ids[index]}.jpg"]
        together = read_probabilities(tmp_path / "p.jsonl")[ids[index]]
        want = dict(zip(run.vocabulary.words, row_logits.sigmoid().tolist(), strict=True))
        assert together == pytest.approx(want, abs=1e-4)
        assert alone == pytest.approx(want, abs=1e-4)


def read_probabilities(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: dict(zip(row["tags"], row["probabilities"], strict=True)) for row in rows}
