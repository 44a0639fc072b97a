"""The promised names and signatures."""

import dataclasses
import inspect
import subprocess
import sys

import truetag.data.corruption
import truetag.evaluation.ranking
import truetag.latent
import truetag.noise_models
import truetag.pooling
import truetag.tagger
from truetag.training.recipes import RECIPES

PROMISED = {
    truetag.latent.observe: ["true_logits", "log_q"],
    truetag.latent.posterior_logits: ["true_logits", "log_q", "observed_labels"],
    truetag.latent.negative_log_likelihood: ["logits", "labels", "reduction"],
    truetag.pooling.noisy_or: ["logits", "dim", "mask"],
    truetag.noise_models.FeatureIndependentNoise: ["num_labels"],
    truetag.noise_models.FeatureDependentNoise: ["num_features", "num_labels"],
    truetag.evaluation.ranking.average_precision: ["scores", "labels"],
    truetag.evaluation.ranking.count_average_precision: ["scores", "counts", "captions_per_image"],
    truetag.data.corruption.swap_captions: ["captions", "num_swapped", "generator"],
    truetag.tagger.Tagger: ["run"],
    truetag.tagger.Tagger.__call__: ["self", "batch"],
    truetag.data.corruption.flip_labels: ["labels", "missing_rate", "incorrect_rate", "generator"],
}


def test_promised_signatures():
    for function, names in PROMISED.items():
        assert list(inspect.signature(function).parameters)[: len(names)] == names, function


def test_recipe_names():
    rows = ["mlcn", "mlcn-star", "nmn-fi", "nmn-fd", "mil", "mil-star", "mil-nmn-fi", "mil-nmn-fd"]
    assert list(RECIPES) == ["best", *rows, *(f"paper-{row}" for row in rows)]
    for prefix in ("", "paper-"):
        for row, mil in zip(rows[:4], rows[4:], strict=True):
            assert dataclasses.replace(RECIPES[prefix + row], pooling="noisy-or") == RECIPES[prefix + mil]


def test_a_noise_model_is_compared_with_the_same_classifier_trained_as_long():
    for prefix in ("", "paper-"):
        baseline = RECIPES[f"{prefix}mlcn-star"]
        for name in (f"{prefix}nmn-fi", f"{prefix}nmn-fd"):
            differing = {field for field, value in vars(RECIPES[name]).items() if value != getattr(baseline, field)}
            assert differing == {"noise_model"}
        assert RECIPES[f"{prefix}mlcn"].stage2_epochs == 0


def test_the_package_has_a_version():
    assert truetag.__version__


def test_import_alone_reaches_the_promised_names():
    code = (
        "import sys, truetag; assert 'torch' not in sys.modules; truetag.latent.observe; "
        "truetag.evaluation.ranking.average_precision; truetag.data.corruption.swap_captions"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
