"""The README says what works: its numbers are those of the benchmark; targets, links and names of the paper exist."""

import csv
import pkgutil
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

from truetag.cli import COMMANDS
from truetag.models.backbones import VGG16
from truetag.training.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COLUMNS = ("clean", "swap 2", "swap 4", "flip 0.02, 0.3", "flip 0.1, 0.1")
PUBLISHED = ("gce", "label smoothing", "symmetric ce", "ll-r", "forward, anchors")


def measured() -> dict[tuple[str, str], float]:
    """Mean AP in percent of each method and column, over seeds, of the rows that `benchmarks/methods.py` made."""
    seeds = defaultdict(list)
    with (ROOT / "benchmarks" / "methods.csv").open() as file:
        for row in csv.DictReader(file):
            if row["data"] == "flickr8k":
                seeds[row["method"], row["column"]].append(100 * float(row["mean_ap"]))
    return {key: mean(values) for key, values in seeds.items()}


def test_the_table_is_what_the_benchmark_measured():
    table = README.partition("<!-- table -->")[2].partition("<!-- /table -->")[0]
    _, _, *rows = (line.strip("|").split("|") for line in table.strip().splitlines())
    numbers = [[float(cell.strip(" *")) for cell in row[1:]] for row in rows]
    found = measured()
    assert numbers == [
        [round(found["mlcn-star", column], 2) for column in COLUMNS],
        [round(max(found[method, column] for method in PUBLISHED), 2) for column in COLUMNS],
        [round(found["best", column], 2) for column in COLUMNS],
    ]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"`?make ([a-z-]+)", README + (ROOT / ".ci" / "run").read_text())
    assert {"demo", "test", "docs"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paper_table_names_things_that_exist():
    section = (ROOT / "docs" / "paper.md").read_text().partition("## Paper and code")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")][1:]
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert {"latent.observe", "em.run_em", "mil-nmn-fd", "vgg16_fcn", "truetag reproduce"} <= set(names)
    for name in names:
        if name.startswith("truetag "):
            assert name.removeprefix("truetag ") in COMMANDS
        elif name not in RECIPES and name not in {"observed", VGG16}:
            assert pkgutil.resolve_name(f"truetag.{name}") is not None


def test_links_lead_to_files():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
