"""truetag: taggers trained from noisy tags, and the tags that are probably wrong or missing."""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_MODULES = ("latent", "pooling", "noise_models", "objectives", "em", "evaluation", "data")


def __getattr__(name: str) -> ModuleType:
    """Load a public module when it is first asked for: `import truetag` alone costs nothing."""
    if name in _MODULES:
        return importlib.import_module(f"truetag.{name}")
    raise AttributeError(f"module 'truetag' has no attribute {name!r}")
