"""The README says what works: its Python runs, its commands and recipes exist, its make targets too."""

import pkgutil
import re
from pathlib import Path

from truetag.cli import COMMANDS
from truetag.models.backbones import VGG16
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
    section = README.partition("## Paper and code")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")][1:]
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert {"latent.observe", "em.run_em", "mil-nmn-fd", "vgg16_fcn", "truetag reproduce"} <= set(names)
    for name in names:
        if name.startswith("truetag "):
            assert name.removeprefix("truetag ") in COMMANDS
        elif name not in RECIPES and name not in {"observed", VGG16}:
            assert pkgutil.resolve_name(f"truetag.{name}") is not None
