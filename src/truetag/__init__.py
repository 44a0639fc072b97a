"""truetag: taggers trained from noisy tags, and the tags that are probably wrong or missing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truetag.criterion import NoisyLabelLoss as NoisyLabelLoss
    from truetag.crossfit import cross_val_posterior as cross_val_posterior
    from truetag.crossfit import known_labels_scorer as known_labels_scorer
    from truetag.estimator import NoisyLabelClassifier as NoisyLabelClassifier
    from truetag.issues import count_label_issues as count_label_issues
    from truetag.issues import example_quality as example_quality
    from truetag.issues import find_label_issues as find_label_issues
    from truetag.models.building import load as load
    from truetag.tagger import Tagger as Tagger

__version__ = "0.1.0"

_MODULES = ("latent", "likelihood", "pooling", "noise_models", "losses", "em", "evaluation", "data")
_NAMES = {
    "NoisyLabelClassifier": "estimator",
    "NoisyLabelLoss": "criterion",
    "cross_val_posterior": "crossfit",
    "find_label_issues": "issues",
    "count_label_issues": "issues",
    "example_quality": "issues",
    "load": "models.building",
    "Tagger": "tagger",
    "known_labels_scorer": "crossfit",
}


def __getattr__(name: str) -> Any:
    """Load what is public when it is first asked for: `import truetag` alone costs nothing."""
    if name in _MODULES:
        return importlib.import_module(f"truetag.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"truetag.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'truetag' has no attribute {name!r}")
