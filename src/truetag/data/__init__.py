"""From files on disk to bags and label matrices."""

import importlib
from types import ModuleType

_MODULES = ("manifest", "readers", "vocabulary", "labels", "corruption", "splits")


def __getattr__(name: str) -> ModuleType:
    """Load a public module when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"truetag.data.{name}")
    raise AttributeError(f"module 'truetag.data' has no attribute {name!r}")
