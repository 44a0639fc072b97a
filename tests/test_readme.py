"""The README says what works: its Python runs, its commands and recipes exist, its make targets too."""

import re
from pathlib import Path

from truetag.cli import COMMANDS
from truetag.training.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_python_runs():
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code, names)
    assert names["rho"].shape == (8, 5)
    assert names["true_logits"].grad is not None
    assert names["posterior"].shape == names["probabilities"].shape == (600, 5)


def test_commands_and_recipes_exist():
    lines = re.findall(r"^truetag (.*)$", README, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        words = line.split()
        name = " ".join(words[: 2 if words[0] == "import" else 1])
        assert name in COMMANDS
        if name == "train":
            assert words[1] in RECIPES


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paper_table_names_things_that_exist():
    for name in re.findall(r"^\| .* \| `([a-z_]+)\.([A-Za-z_.]+)`", README, re.MULTILINE):
        module, attribute = name
        source = ROOT / "src" / "truetag"
        parts = [module, *attribute.split(".")]
        while (
            parts and not (source / Path(*parts)).with_suffix(".py").exists() and not (source / Path(*parts)).is_dir()
        ):
            *parts, last = parts
            path = (source / Path(*parts)).with_suffix(".py")
            if path.exists():
                assert re.search(rf"(def|class) {last}\b", path.read_text()), name
