"""Shell completion: a script that knows every command, recipe and option."""

import contextlib
import importlib
import io
from dataclasses import asdict
from typing import Literal

import tyro
from tyro.extras import SubcommandApp

from truetag.cli import COMMANDS, load_function
from truetag.options import as_command, default_settings


def completion(shell: Literal["bash", "zsh"]) -> str:
    """Write a completion script for `truetag` to standard output.

    The script holds the commands of this version: write it again after an update.

    Args:
        shell: the shell that reads the script.

    Returns:
        The script.
    """
    app = SubcommandApp()
    groups: dict[str, SubcommandApp] = {}
    for name in COMMANDS:
        function = load_function(name)
        if name == "train":
            recipes = importlib.import_module("truetag.training.recipes").RECIPES
            settings = {f"train {recipe}": asdict(config) for recipe, config in recipes.items()}
        else:
            settings = {name: default_settings(function) or None}
        for words, defaults in settings.items():
            first, _, second = words.partition(" ")
            if second and first not in groups:
                groups[first] = SubcommandApp()
                app.command(groups[first], name=first)
            parent = groups[first] if second else app
            parent.command(name=second or first)(as_command(function, COMMANDS[name].positional, defaults))
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        app.cli(prog="truetag", args=["--tyro-print-completion", shell], config=(tyro.conf.OmitArgPrefixes,))
    return _on_one_line(script.getvalue()).rstrip("\n")


def _on_one_line(script: str) -> str:
    r"""The script with each description on one line: bash takes every line of tyro's descriptions for a candidate."""
    lines = script.split("\n")
    return "\n".join(line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC = ") else line for line in lines)
