"""Settings from a JSON file: the config.json of a run, or one made by hand with some of them. Imports no torch."""

from pathlib import Path
from typing import Any

from truetag.errors import InputError
from truetag.io.text import read_json, require_file, shown
from truetag.runs.config import checked_settings

SETTINGS = "truetag"
"""Where config.json of an exported folder has the settings; its other keys are for timm and transformers."""
CHOICES = "chosen.json"
"""Beside config.json: what of the settings was left open and chosen before training."""


def read_settings(path: Path, kind: type) -> dict[str, Any]:
    """The settings in a file, by name. Those of a run that chose some are as they were asked for, before the choice.

    Args:
        path: the file.
        kind: the class of the settings.

    Raises:
        InputError: it is no file of settings, names what is none, or has a value of another type.
    """
    values = _read_object(path)
    choices = path.with_name(CHOICES)
    if path.name == "config.json" and choices.is_file():
        values |= requested(choices, _read_object(choices))
    try:
        return checked_settings(values, kind)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def requested(path: Path, choices: dict[str, Any]) -> dict[str, Any]:
    """What was asked for of the settings that `choices`, the content of chosen.json, decided.

    Raises:
        InputError: the file does not say.
    """
    values = choices.get("requested")
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected the settings that were requested, got {shown(values)}")
    return values


def _read_object(path: Path) -> dict[str, Any]:
    require_file(path, "settings file")
    values = read_json(path)
    values = values.get(SETTINGS, values) if isinstance(values, dict) else values
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object of settings, got {shown(values)}")
    return values
