"""The command line: a command is one public function; its flags and help come from the signature and the docstring."""

import difflib
import functools
import importlib
import inspect
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from truetag.errors import InputError
from truetag.io.signals import end_on_sigterm
from truetag.io.terminal import printable, tell


@dataclass(frozen=True)
class Command:
    """Where a command's function lives, which of its parameters are positional, and how its result is shown."""

    function: str
    positional: tuple[str, ...]
    summary: str
    show: Callable[[Any], str | None] = lambda result: None


def _show_import(summary: Any) -> str:
    return f"{summary.num_rows} rows"


def _show_metrics(metrics: Any) -> str:
    return importlib.import_module("truetag.evaluate").format_metrics(metrics)


COMMANDS = {
    "demo": Command("truetag.demo.demo:demo", (), "the whole of it on embedded data: a table and a page"),
    "import coco": Command(
        "truetag.data.imports:import_coco",
        ("annotations", "media_dir"),
        "COCO captions JSON to a manifest",
        _show_import,
    ),
    "import msrvtt": Command(
        "truetag.data.imports:import_msrvtt",
        ("annotations", "media_dir"),
        "MSR-VTT JSON to a manifest of clips",
        _show_import,
    ),
    "import captions": Command(
        "truetag.data.imports:import_captions",
        ("annotations", "media_dir"),
        "CSV of image,caption to a manifest",
        _show_import,
    ),
    "import tags": Command(
        "truetag.data.imports:import_tags",
        ("annotations", "media_dir"),
        "CSV of image,tags to a manifest",
        _show_import,
    ),
    "split": Command(
        "truetag.data.splits:split",
        ("manifest",),
        "divide a manifest into train, validation and test",
        lambda sizes: ", ".join(f"{name or '(no split)'}: {size}" for name, size in sizes.items()),
    ),
    "vocabulary": Command(
        "truetag.data.vocabulary:make_vocabulary",
        ("manifest",),
        "the most frequent words with their parts of speech",
        lambda vocabulary: f"{len(vocabulary)} words",
    ),
    "corrupt": Command(
        "truetag.data.corruption:corrupt",
        ("manifest",),
        "inject caption swaps or label flips, keeping the truth beside them",
        lambda rates: (
            "realised: " + ", ".join(f"{name} {value:.4g}" for name, value in rates.items() if isinstance(value, float))
        ),
    ),
    "train": Command("truetag.training.train:train", (), "train a recipe", lambda run: f"run: {run.folder}"),
    "evaluate": Command("truetag.evaluate:evaluate", ("run", "manifest"), "score a run on a manifest", _show_metrics),
    "predict": Command(
        "truetag.prediction.predict:predict",
        ("run", "inputs"),
        "tag photos, folders or manifests",
        lambda n: f"{n} photos tagged",
    ),
    "reproduce": Command(
        "truetag.paper.reproduce:reproduce", ("target",), "the paper's tables and figures from the official files", str
    ),
    "doctor": Command("truetag.doctor:doctor", (), "what this machine can do", lambda report: report),
}
_FLAG_NAMES = {"start_from": "from"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    end_on_sigterm()
    warnings.filterwarnings("ignore", module="PIL")  # a photo is used or listed as skipped: no third message
    try:
        return _run(arguments)
    except InputError as error:
        tell(f"truetag: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        tell(f"truetag: {place}{error.strerror or error}")
    except KeyboardInterrupt:
        tell("truetag: interrupted")
        return 130
    return 2


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(importlib.import_module("truetag").__version__)
        return 0
    width = 2 if arguments[0] == "import" else 1
    name, rest = " ".join(arguments[:width]), arguments[width:]
    if name not in COMMANDS:
        if name in ("import", "import -h", "import --help"):
            print(_overview("import"))
            return 0 if width == len(arguments) and name != "import" else 2
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"no command is called {name!r}{hint}; `truetag --help` lists them")
    command = COMMANDS[name]
    module, _, function_name = command.function.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    prog, defaults = f"truetag {name}", {}
    if name == "train":
        prog, defaults["config"], rest = _choose_recipe(rest)
    result = tyro.cli(
        _as_command(function, command.positional, defaults), prog=prog, args=rest, config=(tyro.conf.OmitArgPrefixes,)
    )
    text = command.show(result)
    if text:
        print(printable(text))
    return 0


def _choose_recipe(arguments: list[str]) -> tuple[str, Any, list[str]]:
    """The recipe that is the first argument: the command with it, its settings, and the arguments that remain."""
    recipes = importlib.import_module("truetag.training.recipes")
    names = ", ".join(recipes.RECIPES)
    if not arguments:
        raise InputError(f"train: expected a recipe first, one of {names}")
    if arguments[0] in ("-h", "--help"):
        print(f"usage: truetag train RECIPE --data MANIFEST --vocabulary V --out RUN [settings]\n\nrecipes: {names}\n")
        return "truetag train mlcn", recipes.RECIPES["mlcn"], arguments
    return f"truetag train {arguments[0]}", recipes.recipe(arguments[0]), arguments[1:]


def _as_command(
    function: Callable[..., Any], positional: tuple[str, ...], defaults: dict[str, Any]
) -> Callable[..., Any]:
    """The function as tyro shall see it: which parameters are positional, have another flag, or another default."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = []
    for name, parameter in signature.parameters.items():
        hint = hints[name]
        if name in positional:
            hint = tyro.conf.Positional[hint]
        elif name in _FLAG_NAMES:
            hint = Annotated[hint, tyro.conf.arg(name=_FLAG_NAMES[name])]
        default = defaults.get(name, parameter.default)
        parameters.append(parameter.replace(annotation=hint, default=default, kind=parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def command(**named: Any) -> Any:
        return function(**named)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__
    return command


def _overview(prefix: str = "") -> str:
    lines = ["usage: truetag COMMAND ...", "", "Train taggers from noisy tags, and find the tags that are wrong.", ""]
    lines += [f"  {name:16} {command.summary}" for name, command in COMMANDS.items() if name.startswith(prefix)]
    return "\n".join([*lines, "", "`truetag COMMAND --help` tells the options of each."])
