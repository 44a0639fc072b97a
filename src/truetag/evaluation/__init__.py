"""Scores of predictions against labels: pure functions of tensors."""

import importlib
from types import ModuleType

_MODULES = ("ranking", "decisions", "significance")


def __getattr__(name: str) -> ModuleType:
    """Load a public module on first use."""
    if name in _MODULES:
        return importlib.import_module(f"truetag.evaluation.{name}")
    raise AttributeError(f"module 'truetag.evaluation' has no attribute {name!r}")
