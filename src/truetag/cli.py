"""The command line: each command is a public function; its flags and help come from its signature and docstring."""

import difflib
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from truetag.errors import InputError
from truetag.io.signals import end_on_sigterm
from truetag.io.terminal import printable, tell
from truetag.options import SETTINGS_FILE, SHOW, as_command, as_show, settings_kind, take_option
from truetag.runs.settings_file import read_settings


@dataclass(frozen=True)
class Command:
    """Where a command's function lives, which of its parameters are positional, and how its result is shown.

    Where `everyday` names options, `--help` shows these and `--help-all` the rest.
    """

    function: str
    positional: tuple[str, ...]
    summary: str
    show: Callable[[Any], str | None] = lambda result: None
    everyday: tuple[str, ...] = ()


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
    "train": Command(
        "truetag.training.seeds:train_seeds",
        (),
        "train a recipe (see below)",
        lambda text: text,
        (
            *("data", "vocabulary", "out", "features", "resume", "config", "show"),
            *("backbone", "weights", "freeze_backbone", "resolution"),
            *("stage1_epochs", "stage2_epochs", "batch_size", "seed"),
        ),
    ),
    "evaluate": Command("truetag.evaluate:evaluate", ("run", "manifest"), "score a run on a manifest", _show_metrics),
    "compare": Command(
        "truetag.compare:compare",
        ("runs",),
        "score runs on the same photos, with intervals of their differences",
        lambda comparison: importlib.import_module("truetag.compare").format_comparison(comparison),
    ),
    "report": Command(
        "truetag.reports.report:report",
        ("runs",),
        "write a page about one run or several: scores, curves, rates, mistakes found",
        lambda page: f"page: {page}",
    ),
    "predict": Command(
        "truetag.prediction.tagging:predict",
        ("run", "inputs"),
        "tag photos, folders or manifests",
        lambda num_tagged: None,
    ),
    "features": Command(
        "truetag.prediction.features:features",
        ("model", "inputs"),
        "write what a backbone sees in photos as embeddings, with their ids",
        lambda num_rows: None,
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
    "features": "; the same command goes on",
    "tag": "; the same command goes on",
}
_BROKEN_PIPE = 141  # as of a process that SIGPIPE ends
_HELP, _HELP_ALL = ("-h", "--help"), "--help-all"
_EVERYDAY = "These are the everyday options; --help-all shows all."


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
    command, function = COMMANDS[name], load_function(name)
    prog, settings, kind = f"truetag {name}", None, settings_kind(function)
    if kind is not None:
        path, rest = take_option(rest, SETTINGS_FILE)
        of_file = {} if path is None else read_settings(Path(path), kind)
        if name == "train":
            prog, settings, rest = _choose_recipe(rest, of_file, path)
        else:
            default = inspect.signature(function).parameters["config"].default  # of `reproduce` the paper's schedule
            settings = asdict(default if isinstance(default, kind) else kind()) | of_file
    everyday = () if _HELP_ALL in rest else command.everyday
    rest = ["--help"] if _HELP_ALL in rest else rest
    is_help = any(argument in _HELP for argument in rest)
    called = as_command(function, command.positional, settings, everyday if is_help else ())
    if kind is not None and f"--{SHOW}" in rest and not is_help:
        print(_parse(as_show(called, kind), prog, rest))
        return 0
    about = f"{(function.__doc__ or '').partition(chr(10))[0]}\n\n{_EVERYDAY}" if everyday and is_help else None
    text = command.show(_parse(called, prog, rest, about))
    if text:
        print(printable(text))
    return 0


def load_function(name: str) -> Callable[..., Any]:
    """The function of one of COMMANDS; its import may take seconds."""
    module, _, function = COMMANDS[name].function.partition(":")
    return getattr(importlib.import_module(module), function)


def _parse(function: Callable[..., Any], prog: str, arguments: list[str], about: str | None = None) -> Any:
    """What a function returns when it is called with these arguments."""
    return tyro.cli(function, prog=prog, description=about, args=arguments, config=(tyro.conf.OmitArgPrefixes,))


def _choose_recipe(
    arguments: list[str], of_file: dict[str, Any], path: str | None
) -> tuple[str, dict[str, Any], list[str]]:
    """Take the recipe from the arguments of `train`; a file with all that a recipe decides can do without.

    Args:
        arguments: begin with the recipe, if there is one.
        of_file: the settings of the file.
        path: of the file; None without one.

    Returns:
        The command line up to the recipe, the settings by recipe and file, and the remaining arguments.

    Raises:
        InputError: there is no recipe, nor a file in its place, or the first argument is not the name of a recipe.
    """
    recipes = importlib.import_module("truetag.training.recipes")
    if arguments and not arguments[0].startswith("-"):
        name = arguments[0]
        return f"truetag train {name}", asdict(recipes.recipe(name)) | of_file, arguments[1:]
    if any(argument in (*_HELP, _HELP_ALL) for argument in arguments):
        print("usage: truetag train RECIPE --data MANIFEST --vocabulary V --out RUN [settings]\n")
        print("\n".join(["Recipes:", *_listed(RECIPE_SUMMARIES), "", "The settings, with the defaults of `best`:\n"]))
        return "truetag train best", asdict(recipes.recipe("best")), arguments
    if path is None:
        got = arguments[0] if arguments else "none"
        raise InputError(f"train: expected a recipe ({', '.join(RECIPE_SUMMARIES)}) or --config FILE, got {got}")
    if missing := [name for name in recipes.DECIDED if name not in of_file]:
        raise InputError(
            f"config: expected a recipe before it (`truetag train best --config {path}`), or a file with all that a "
            f"recipe decides, got one without {', '.join(missing[:5])}{' and others' * (len(missing) > 5)}"
        )
    return "truetag train", asdict(recipes.recipe("mlcn-star")) | of_file, arguments


def _overview(prefix: str = "") -> str:
    """The commands whose name begins with `prefix`; for all commands the recipes, too."""
    lines = ["usage: truetag COMMAND ...", "", "Train taggers from noisy tags.", "", "Commands:"]
    lines += _listed({name: command.summary for name, command in COMMANDS.items() if name.startswith(prefix)})
    if not prefix:
        lines += ["", "Recipes of `truetag train`:", *_listed(RECIPE_SUMMARIES)]
    return "\n".join([*lines, "", "`truetag COMMAND --help` shows the options of a command."])


def _listed(summaries: dict[str, str]) -> list[str]:
    return [f"  {name:18} {summary}" for name, summary in summaries.items()]
