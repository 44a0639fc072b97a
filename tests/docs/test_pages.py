"""The pages of the site do what they say: their commands and their Python run, on drawn data and with a tiny network.

A block that cannot run here says why in the line above it, and so does a page, in the line below its title:
`<!-- not run: REASON -->`, `<!-- run by tests/FILE.py -->`, `<!-- page not run: REASON -->`.
"""

import contextlib
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
from world import make_world

from truetag.cli import COMMANDS, RECIPE_SUMMARIES, main

ROOT = Path(__file__).resolve().parents[2]
SITE = (ROOT / "mkdocs.yml").read_text()
PAGES = ["README.md", *(f"docs/{name}" for name in re.findall(r"^ +- [^#\n]+: ([a-z_]+\.md)$", SITE, re.MULTILINE))]
PAGES.remove("docs/index.md")  # the README
FIRST = "docs/photos.md"
"""The page whose files the other pages take for given."""
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
MARK = re.compile(r"(page )?(not run: \S.+|run by (?P<test>tests/\S+\.py))")
SMALL = "--backbone test_resnet --weights none --resolution 32 --stage1-epochs 1 --stage2-epochs 1 --batch-size 16"
SMALL_TAG = "--backbone test_resnet --weights none"
SMALL_FEATURES = "--weights none --resolution 32"
SMALL_CAPTIONER = "--epochs 1 --state-size 8 --frame-size 8 --word-size 8"


def blocks(page: str) -> list[tuple[str, str, bool]]:
    """The language and the text of each block of a page, and whether it is to run here."""
    text = (ROOT / page).read_text()
    of_page = re.search(r"^<!-- (page .*) -->$", text, re.MULTILINE)
    found = []
    for block in BLOCK.finditer(text):
        mark = block["mark"] if block["mark"] and MARK.fullmatch(block["mark"]) else of_page and of_page[1]
        found.append((block["language"], block["text"], not mark))
    return found


def small(words: list[str]) -> list[str]:
    """The command with settings under which it takes a second."""
    has_weights = "--weights" in words
    if has_weights:
        position = words.index("--weights")
        words = words[:position] + words[position + 2 :]
    settings = {
        "train": SMALL,
        "tag": SMALL_TAG,
        "features": SMALL_FEATURES if has_weights else "",
        "caption": SMALL_CAPTIONER if words[:2] == ["caption", "train"] else "",
    }
    return words + settings.get(words[0], "").split()


def run_command(line: str) -> None:
    """One line of a block of commands; of those that are not ours, what they name has to exist."""
    line, _, redirected = line.partition(" > ")
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    match words:
        case []:
            return
        case ["truetag", *arguments]:
            with contextlib.ExitStack() as stack:
                if redirected:
                    stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(redirected).open("w"))))
                assert main(small(arguments)) == 0, line
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        case ["python", script, *_]:
            assert (ROOT / script).is_file(), line
        case ["pip", "install", what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.search(r"\[(.*)\]", what)[1].split(",")) <= set(extras), line
        case _:
            raise AssertionError(f"{line!r} is no command that this test knows: mark its block as not run")


def run_page(page: str) -> dict:
    """Run the blocks of a page in order.

    Returns:
        What its Python has defined.
    """
    names: dict = {}
    for language, text, runs in blocks(page):
        if not runs:
            continue
        match language:
            case "python":
                exec(compile(text, page, "exec"), names)
            case "sh":
                for line in text.replace("\\\n", " ").splitlines():
                    run_command(line)
            case "json":
                json.loads(text)
            case "" | "text":
                pass
            case _:
                raise AssertionError(f"{page}: a block of {language!r}, which this test does not know")
    return names


@pytest.fixture(scope="module")
def short_training():
    """Few steps and epochs, as no page depends on how well anything is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("truetag.label_noise.heads.FEWEST_STEPS", 20)
        patch.setattr("truetag.label_noise.relations.NUM_EPOCHS", 1)
        yield


@pytest.fixture(scope="module")
def first_page(tmp_path_factory, short_training):
    """The drawn data, and what the first page makes of them."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    with contextlib.chdir(folder):
        run_page(FIRST)
    return folder


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_page_runs(page, first_page, tmp_path, monkeypatch):
    if page == FIRST:
        assert (first_page / "runs" / "best" / "chosen.json").is_file()
        assert (first_page / "new.csv").read_text().count("\n") > 4
        return
    if not any(runs and language in ("python", "sh") for language, _, runs in blocks(page)):
        return
    shutil.copytree(first_page, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    names = run_page(page)
    if page == "docs/paper.md":
        assert names["rho"].shape == (8, 5)
        assert names["true_logits"].grad is not None
    if page == "docs/sklearn.md":
        assert names["posterior"].shape == names["out_of_fold"].shape == names["probabilities"].shape == (600, 5)
        assert (names["same"] == names["best"].predict_proba(names["X"])).all()


@pytest.mark.parametrize("page", PAGES)
def test_a_mark_says_why(page):
    for mark in re.findall(r"<!-- ((?:page )?(?:not run|run by).*) -->", (ROOT / page).read_text()):
        found = MARK.fullmatch(mark)
        assert found, mark
        if found["test"]:
            assert page in (ROOT / found["test"]).read_text() or Path(page).name in (ROOT / found["test"]).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_not_run_exist(page, capsys):
    for language, text, runs in blocks(page):
        for line in re.findall(r"truetag [a-z].*", text.replace("\\\n", " ")) if language == "sh" and not runs else []:
            words = shlex.split(line.replace("'", ""), comments=True)[1:]
            name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
            with pytest.raises(SystemExit):
                main([*name.split(), *(["best"] if name == "train" else []), "--help-all"])
            shown = capsys.readouterr().out
            for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert re.search(rf"{flag}\b", shown), (line, flag)


def test_tables_of_commands_and_recipes_are_complete():
    commands = (ROOT / "docs/commands.md").read_text()
    assert re.findall(r"^\| `truetag ([a-z -]+)` \| (.*) \|$", commands, re.MULTILINE) == [
        (name, command.summary) for name, command in COMMANDS.items()
    ]
    recipes = re.findall(r"^\| (`(?:best|mlcn|nmn|mil).*?) \|", (ROOT / FIRST).read_text(), re.MULTILINE)
    assert {name for cell in recipes for name in re.findall(r"`(.*?)`", cell)} == set(RECIPE_SUMMARIES) - {
        "paper-RECIPE"
    }
