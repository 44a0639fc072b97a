"""The command line: each command is a public function; its flags and help come from its signature and docstring."""

import difflib
import functools
import importlib
import inspect
import os
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
    return importlib.import_module("truetag.data.importing").format_summary(summary)


def _show_audit(found: Any) -> str:
    return importlib.import_module("truetag.audit.found").format_audit(found)


def _show_metrics(metrics: Any) -> str:
    return importlib.import_module("truetag.evaluate").format_metrics(metrics)


COMMANDS = {
    "tag": Command(
        "truetag.tag:tag",
        ("photos", "table"),
        "from photos and a table of noisy tags to a tagger and its tags, in one command",
        lambda predictions: f"tags: {predictions}",
    ),
    "demo": Command("truetag.demo.demo:demo", (), "run everything on drawn photos; ends with a table and a page"),
    "import tags": Command(
        "truetag.data.imports:import_tags",
        ("annotations", "media_dir"),
        "make a manifest from a table of tags, whatever its shape",
        _show_import,
    ),
    "import captions": Command(
        "truetag.data.imports:import_captions",
        ("annotations", "media_dir"),
        "make a manifest from a table of captions, whatever its shape",
        _show_import,
    ),
    "import folders": Command(
        "truetag.data.imports:import_folders",
        ("media_dir",),
        "make a manifest of photos in folders that are named like their tags",
        _show_import,
    ),
    "import coco": Command(
        "truetag.data.imports:import_coco",
        ("annotations", "media_dir"),
        "make a manifest from COCO captions or instances (JSON)",
        _show_import,
    ),
    "import karpathy": Command(
        "truetag.data.imports:import_karpathy",
        ("annotations", "media_dir"),
        "make a manifest from Karpathy's captions with their splits (JSON)",
        _show_import,
    ),
    "import open-images": Command(
        "truetag.data.imports:import_open_images",
        ("annotations", "media_dir"),
        "make a manifest from the verified labels of Open Images (CSV)",
        _show_import,
    ),
    "import msrvtt": Command(
        "truetag.data.imports:import_msrvtt",
        ("annotations", "media_dir"),
        "make a manifest of clips from MSR-VTT (JSON)",
        _show_import,
    ),
    "split": Command(
        "truetag.data.splits:split",
        ("manifest",),
        "divide a manifest into train, validation and test rows",
        lambda sizes: ", ".join(f"{name or '(no split)'}: {size}" for name, size in sizes.items()),
    ),
    "vocabulary": Command(
        "truetag.data.vocabulary:make_vocabulary",
        ("manifest",),
        "list the most frequent words with their parts of speech",
        lambda vocabulary: f"{len(vocabulary)} word{'s' * (len(vocabulary) != 1)}",
    ),
    "corrupt": Command(
        "truetag.data.corruption:corrupt",
        ("manifest",),
        "inject caption swaps or label flips, and keep the truth beside them",
        lambda rates: (
            "realised: " + ", ".join(f"{name} {value:.4g}" for name, value in rates.items() if isinstance(value, float))
        ),
    ),
    "train": Command("truetag.training.seeds:train_seeds", (), "train a recipe (see below)", lambda text: text),
    "evaluate": Command("truetag.evaluate:evaluate", ("run", "manifest"), "score a run on a manifest", _show_metrics),
    "compare": Command(
        "truetag.compare:compare",
        ("runs",),
        "score runs on the same photos, with intervals of their differences",
        lambda comparison: importlib.import_module("truetag.compare").format_comparison(comparison),
    ),
    "predict": Command(
        "truetag.prediction.tagging:predict",
        ("run", "inputs"),
        "tag photos, folders or manifests",
        lambda num_tagged: None,
    ),
    "audit": Command(
        "truetag.audit.find:audit",
        ("run", "manifest"),
        "find the tags that are probably wrong or missing, with a page to review them",
        _show_audit,
    ),
    "clean": Command(
        "truetag.audit.clean:clean",
        ("manifest",),
        "apply an audit, or what a person decided on its page, to a manifest",
        lambda changes: changes.describe(),
    ),
    "export-issues": Command(
        "truetag.audit.exchange:export_issues",
        ("audit",),
        "write what an audit found for COCO tools, FiftyOne, Label Studio or cleanlab",
        lambda exported: exported.describe(),
    ),
    "export": Command(
        "truetag.export.export:export",
        ("run",),
        "write a run for other programs: ONNX, timm, transformers, model hubs",
        lambda folder: f"exported: {folder}",
    ),
    "caption train": Command(
        "truetag.captioning.train:train_captioner",
        ("data",),
        "train a captioner on the concepts of a run's frames, or on features",
        lambda captioner: f"captioner: {captioner.folder}",
    ),
    "caption write": Command(
        "truetag.captioning.write:write_captions",
        ("captioner", "inputs"),
        "write a sentence for each photo or clip",
        lambda num_written: None,
    ),
    "caption evaluate": Command(
        "truetag.captioning.evaluate:evaluate_captions",
        ("captioner", "data"),
        "score a captioner's sentences: BLEU, METEOR, ROUGE-L, CIDEr",
        lambda metrics: importlib.import_module("truetag.captioning.evaluate").format_scores(metrics),
    ),
    "caption show": Command(
        "truetag.reports.captions:show_captions",
        ("captioner", "data"),
        "write a page with scored sentences beside their photos or clips",
        lambda page: f"page: {page}",
    ),
    "reproduce": Command(
        "truetag.paper.reproduce:reproduce", ("target",), "reproduce the paper's tables and figures", str
    ),
    "doctor": Command("truetag.doctor:doctor", (), "show what this machine can do", lambda report: report),
    "completion": Command(
        "truetag.completion:completion", ("shell",), "write a completion script for your shell", lambda script: script
    ),
}
RECIPE_SUMMARIES = {
    "best": "ours: chooses how to handle the noise from your data (start here)",
    "mlcn": "the classifier alone: stage 1 of the other recipes",
    "mlcn-star": "the classifier alone, trained as long as with a noise model: the fair baseline",
    "nmn-fi": "with a noise model that has one pair of rates per label",
    "nmn-fd": "with a noise model whose rates depend on the photo",
    "mil": "like mlcn, and learns which region or frame shows a tag (noisy-OR)",
    "mil-star": "like mlcn-star, with noisy-OR",
    "mil-nmn-fi": "like nmn-fi, with noisy-OR",
    "mil-nmn-fd": "like nmn-fd, with noisy-OR",
    "paper-RECIPE": "any of the last eight with the paper's network and schedule: paper-mlcn ..",
}
_GROUPS = ("import", "caption")
_RESUMED_BY = {
    "caption": "; `caption train` goes on with --resume",
    "train": "; the same command with --resume goes on",
    "predict": "; the same command goes on",
    "tag": "; the same command goes on",
}
_BROKEN_PIPE = 141  # as of a process that SIGPIPE ends
_FLAG_NAMES = {"start_from": "from", "options": "import"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 after Ctrl-C, or 141 if nobody reads the output.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    end_on_sigterm()
    # a photo is either used or listed as skipped: the warnings of PIL add nothing
    warnings.filterwarnings("ignore", module="PIL")
    try:
        code = run_command(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        tell(f"truetag: {error}")
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        return _BROKEN_PIPE
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        tell(f"truetag: {path}{error.strerror or error}")
    except KeyboardInterrupt:
        tell("truetag: interrupted" + _RESUMED_BY.get(arguments[0], ""))
        return 130
    return 2


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and print its result.

    Returns:
        The exit code.

    Raises:
        InputError: a user's mistake.
    """
    arguments = list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(importlib.import_module("truetag").__version__)
        return 0
    width = 2 if arguments[0] in _GROUPS else 1
    name, rest = " ".join(arguments[:width]), arguments[width:]
    if name not in COMMANDS:
        if arguments[0] in _GROUPS and rest == [] and name.removeprefix(arguments[0]) in ("", " -h", " --help"):
            print(_overview(arguments[0]))
            return 0 if width == len(arguments) else 2
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"there is no command {name!r}{hint}; `truetag --help` lists the commands")
    prog, recipe = f"truetag {name}", None
    if name == "train":
        prog, recipe, rest = _choose_recipe(rest)
    result = tyro.cli(command_function(name, recipe), prog=prog, args=rest, config=(tyro.conf.OmitArgPrefixes,))
    text = COMMANDS[name].show(result)
    if text:
        print(printable(text))
    return 0


def command_function(name: str, recipe: str | None = None) -> Callable[..., Any]:
    """A command's function as tyro should see it; its import may take seconds.

    Args:
        name: one of COMMANDS.
        recipe: for `train`, the recipe whose settings are the defaults.

    Raises:
        InputError: the recipe does not exist.
    """
    command = COMMANDS[name]
    module, _, function_name = command.function.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    defaults = {} if recipe is None else {"config": importlib.import_module("truetag.training.recipes").recipe(recipe)}
    return _as_command(function, command.positional, defaults)


def _choose_recipe(arguments: list[str]) -> tuple[str, str, list[str]]:
    """Take the recipe from the arguments of `train`.

    Returns:
        The command line up to the recipe, the recipe, and the remaining arguments.

    Raises:
        InputError: there is no argument.
    """
    if not arguments:
        raise InputError(f"train: expected a recipe ({', '.join(RECIPE_SUMMARIES)}), got none")
    if arguments[0] in ("-h", "--help"):
        print("usage: truetag train RECIPE --data MANIFEST --vocabulary V --out RUN [settings]\n")
        print("\n".join(["Recipes:", *_listed(RECIPE_SUMMARIES), "", "All settings, with the defaults of `best`:\n"]))
        return "truetag train best", "best", arguments
    return f"truetag train {arguments[0]}", arguments[0], arguments[1:]


def _as_command(
    function: Callable[..., Any], positional: tuple[str, ...], defaults: dict[str, Any]
) -> Callable[..., Any]:
    """The function as tyro should see it.

    Args:
        function: a command's function.
        positional: the parameters that are given without a flag.
        defaults: of parameters whose default differs from the signature's.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = []
    for name, parameter in signature.parameters.items():
        hint = hints[name]
        if name in positional:
            hint = tyro.conf.Positional[hint]
            if parameter.default is None:
                hint = Annotated[hint, tyro.conf.arg(metavar=name.upper())]
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
    """The commands whose name begins with `prefix`; for all commands the recipes, too."""
    lines = ["usage: truetag COMMAND ...", "", "Train taggers from noisy tags.", "", "Commands:"]
    lines += _listed({name: command.summary for name, command in COMMANDS.items() if name.startswith(prefix)})
    if not prefix:
        lines += ["", "Recipes of `truetag train`:", *_listed(RECIPE_SUMMARIES)]
    return "\n".join([*lines, "", "`truetag COMMAND --help` shows the options of a command."])


def _listed(summaries: dict[str, str]) -> list[str]:
    return [f"  {name:18} {summary}" for name, summary in summaries.items()]
