"""The options of a command as tyro sees them: made from the signature of its function, grouped, with short helps."""

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from truetag.errors import InputError

SETTINGS_FILE, SHOW = "config", "show"
"""Options of every command that has settings: a file of them, and to print them instead of beginning."""
_ABOUT = {
    SETTINGS_FILE: "a file of settings: the config.json of a run, or JSON with some of them. Options on "
    "the command line win over it.",
    SHOW: "print the settings as JSON and end.",
}
_FLAG_NAMES = {"start_from": "from", "options": "import"}


def settings_kind(function: Callable[..., Any]) -> type | None:
    """The class of the settings that a command takes as `config`; None where it has none."""
    return typing.get_type_hints(function).get("config")


def default_settings(function: Callable[..., Any]) -> dict[str, Any]:
    """The settings of a command where none are given: those in its signature, or the defaults of their class."""
    kind = settings_kind(function)
    if kind is None:
        return {}
    default = inspect.signature(function).parameters["config"].default
    return dataclasses.asdict(kind() if default is inspect.Parameter.empty else default)


def as_command(
    function: Callable[..., Any],
    positional: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    shown: Collection[str] = (),
) -> Callable[..., Any]:
    """The function as tyro should see it. Its settings become options of their own, in the groups of their class.

    Args:
        function: a command's function.
        positional: the parameters that are given without a flag.
        settings: the default of each setting; None where the command has no settings.
        shown: the options that the help has; empty: all.
    """
    parameters = []
    kind = None if settings is None else settings_kind(function)
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "config" and kind is not None and settings is not None:
            parameters += _settings_parameters(kind, settings, shown)
            continue
        hint = hints[name]
        if name in positional:
            hint = tyro.conf.Positional[hint]
            if parameter.default is None:
                hint = Annotated[hint, tyro.conf.arg(metavar=name.upper())]
        elif name in _FLAG_NAMES:
            hint = Annotated[hint, tyro.conf.arg(name=_FLAG_NAMES[name])]
        if shown and name not in shown:
            hint = tyro.conf.Suppress[hint]
        parameters.append(parameter.replace(annotation=hint, kind=parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        return function(**_gathered(kind, given))

    return _with_parameters(command, parameters)


def as_show(command: Callable[..., Any], kind: type) -> Callable[..., str]:
    """What prints the settings of a command instead of running it: nothing else of it is required."""
    parameters = [
        parameter.replace(default=None, annotation=_or_none(parameter.annotation))
        if parameter.default is inspect.Parameter.empty
        else parameter
        for parameter in inspect.signature(command).parameters.values()
    ]

    @functools.wraps(command)
    def show(**given: Any) -> str:
        return json.dumps(dataclasses.asdict(_gathered(kind, given)["config"]), indent=2)

    return _with_parameters(show, parameters)


def _with_parameters(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """The function, which wraps another, with a signature of its own."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del function.__wrapped__  # type: ignore[attr-defined]
    return function


def _or_none(hint: Any) -> Any:
    """The hint of what may be left out; what is annotated (that it has no flag) stays outermost, where tyro looks."""
    if typing.get_origin(hint) is Annotated:
        return Annotated[(hint.__origin__ | None, *hint.__metadata__)]
    return hint | None


def take_option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """An option with a value, which decides the defaults of the others and is therefore read before them.

    Returns:
        Its value, None where it is not given; and the other arguments.

    Raises:
        InputError: it has no value, or is given twice.
    """
    flag, value, rest = f"--{name}", None, []
    remaining = iter(arguments)
    for argument in remaining:
        if argument != flag and not argument.startswith(f"{flag}="):
            rest.append(argument)
            continue
        if value is not None:
            raise InputError(f"{name}: expected one file, got several")
        value = next(remaining, "") if argument == flag else argument.partition("=")[2]
        if not value or value.startswith("--"):
            raise InputError(f"{name}: expected a file, got {value or 'nothing'}")
    return value, rest


def descriptions(kind: type) -> dict[str, str]:
    """What each field of a dataclass is, from the string below it."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _settings_parameters(kind: type, settings: Mapping[str, Any], shown: Collection[str]) -> list[inspect.Parameter]:
    """A parameter for each group of settings, a dataclass; and those of `_ABOUT`."""
    about = descriptions(kind)
    sections: dict[str, list[Any]] = {}
    starts = {first: section for section, first in kind.SECTIONS.items()}  # type: ignore[attr-defined]
    section = ""
    for field in dataclasses.fields(kind):
        section = starts.get(field.name, section)
        hint: Any = Annotated[field.type, tyro.conf.arg(help=about[field.name])]
        if shown and field.name not in shown:
            hint = tyro.conf.Suppress[hint]
        sections.setdefault(section, []).append((field.name, hint, settings[field.name]))
    parameters = []
    for name, default in ((SETTINGS_FILE, None), (SHOW, False)):
        hint = Annotated[Path | None if default is None else bool, tyro.conf.arg(help=_ABOUT[name])]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    for section, fields in sections.items():
        group = dataclasses.make_dataclass(section, fields, frozen=True)
        parameters.append(
            inspect.Parameter(
                section,
                inspect.Parameter.KEYWORD_ONLY,
                default=group(),
                annotation=Annotated[group, tyro.conf.arg(help="")],
            )
        )
    return parameters


def _gathered(kind: type | None, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the function: its settings in one again."""
    if kind is None:
        return given
    sections = kind.SECTIONS  # type: ignore[attr-defined]
    values: dict[str, Any] = {}
    for section in sections:
        values |= vars(given[section])
    others = {name: value for name, value in given.items() if name not in (*sections, SETTINGS_FILE, SHOW)}
    return others | {"config": kind(**values)}
