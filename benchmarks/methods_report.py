"""The tables and the picture of `methods.py`, from its rows and scores."""

import csv
import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from columns import COLUMNS
from contenders import METHODS, PEERS
from jaxtyping import Float64
from matplotlib import rc_context
from matplotlib.figure import Figure
from product import RECIPES
from torch import Tensor

from truetag.evaluation.significance import resample_weights
from truetag.runs.folder import versions

NUM_RESAMPLES = 200
HIDDEN = ("name", "resampled_ap", "held_out_ap")
"""Columns that the CSV file leaves out."""
DRAWN = ("mlcn-star", "gce", "nmn-fi", "best", "upper bound")
DIFFERENCES = (
    ("best", "mlcn-star"),
    ("best", "gce"),
    ("best", "nmn-fi"),
    ("nmn-fi", "mlcn-star"),
    ("nmn-fd", "nmn-fi"),
    ("mil-star", "mlcn-star"),
    ("mil-nmn-fi", "mil-star"),
    ("mil-nmn-fd", "mil-star"),
)
EXPLANATIONS = {
    "swap": "captions of five that are exchanged with other photos'",
    "flip": "share of absent tags that are added and of present tags that are removed",
    "one label": "all present tags but one are removed",
    "missing by photo": "three in ten are removed, by odds of the photo",
    "one person": "the words of one of five captions, drawn for each photo",
    "two people": "the words of two of five",
    "names": "the tags that are words of the sellers' names",
}
"""What the columns that begin with a word are."""
COMPARED = tuple(dict.fromkeys(name for pair in DIFFERENCES for name in pair))
README_COLUMNS = ("clean", "swap 1", "swap 2", "swap 3", "swap 4", "flip 0, 0.6", "flip 0.02, 0.3", "flip 0.1, 0.1")
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/methods.py --flickr8k FLICKR8K --work WORK"

Row = dict[str, Any]
Table = dict[tuple[str, str], list[Row]]
"""Of one data set: (method, column) -> rows by seed."""


def write_report(work: Path, out: Path, tuned_on: Sequence[tuple[str, int]]) -> None:
    """Markdown, a CSV file with one line per row, and a picture, beside each other.

    Args:
        work: holds the rows.
        out: the Markdown file.
        tuned_on: columns and seeds that settings were chosen on.
    """
    rows = [json.loads(path.read_text()) | {"name": path.stem} for path in sorted((work / "rows").glob("*.json"))]
    tables = {name: _table(rows, name) for name in COLUMNS}
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row if key not in HIDDEN)))
        writer.writeheader()
        writer.writerows({key: _rounded(value) for key, value in row.items() if key not in HIDDEN} for row in rows)
    draw(rows, out.with_suffix(".png"))
    lines = [*_header(rows, tuned_on), *readme_table(tables["flickr8k"])]
    for name, table in tables.items():
        if table:
            lines += _describe(name, table)
    out.write_text("\n".join(lines) + "\n")
    print(out.read_text())


def readme_table(table: Table) -> list[str]:
    """The table of the README: mean AP on Flickr8k."""
    columns = [column for column in README_COLUMNS if ("mlcn-star", column) in table]
    lines = ["", "## Flickr8k in short", "", _line("", columns), "|---" * (len(columns) + 1) + "|"]
    for method, title in (
        ("mlcn-star", "mlcn-star (fair baseline)"),
        ("nmn-fi", "nmn-fi"),
        ("nmn-fd", "nmn-fd"),
        ("gce", "GCE"),
        ("strongest", f"strongest of {_ran(table)} published losses"),
        ("best", "**best**"),
        ("upper bound", "mlcn-star without the swapped captions"),
    ):
        cells = []
        for column in columns:
            value = _strongest(table, column)[0] if method == "strongest" else _mean(table, method, column)
            form = "**{:.2f}**" if method == "best" else "{:.2f}"
            cells.append("–" if value is None else form.format(100 * value))
        lines.append(_line(title, cells))
    return lines


def _table(rows: list[Row], data: str) -> Table:
    table: Table = {}
    for row in rows:
        if row["data"] == data and row["column"] in COLUMNS[data]:
            table.setdefault((row["method"], row["column"]), []).append(row)
    return {key: sorted(part, key=lambda row: row["seed"]) for key, part in table.items()}


def _header(rows: list[Row], tuned_on: Sequence[tuple[str, int]]) -> list[str]:
    tuned = []
    for name in PEERS:
        values = METHODS[name].values
        if (
            len(values) > 1
            and (chosen := next((row["value"] for row in rows if row["method"] == name), None)) is not None
        ):
            listed = ", ".join(f"{value:g}" for value in values)
            tuned.append(f"{name}: {METHODS[name].setting} {chosen:g} of {listed}")
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    torch_version = versions()["torch"]
    columns = " and ".join(f"`{column}`" for column, _ in tuned_on)
    explained = "; ".join(
        f"`{start}`, {text}"
        for start, text in EXPLANATIONS.items()
        if any(row["column"].startswith(start) for row in rows)
    )
    return [
        "# Methods against corruptions",
        "",
        f"`{COMMAND}`, rows made at {commits}, {platform.machine()}, torch {torch_version}. Features of the frozen "
        "EfficientNet-Lite0 of the offline wheel, 500 most frequent words of the training captions, `dev.txt` scored "
        "with its own captions. In percent, mean ± standard deviation over seeds of corruption and training.",
        "",
        f"Columns: {explained}.",
        "",
        "On `clean` and `swap`, the recipes are `truetag train RECIPE --weights offline --freeze-backbone`. On `flip` "
        'and the rest, `best`, `mlcn-star`, `nmn-fi` and `nmn-fd` are `NoisyLabelClassifier()` with "auto", "none", '
        '"fi" and "fd", as they come. The others are published losses on the same head, with the same epochs and step '
        "sizes; `upper bound` is the baseline without the words of swapped captions.",
        "",
        "Each published loss has one setting of three values, chosen by mean AP on held-out *noisy* labels (the "
        f"criterion of `best`) of {columns} on Flickr8k, seed {tuned_on[0][1]}, which is not reported. Chosen: "
        + "; ".join(tuned)
        + ".",
        "",
        "![Mean AP by corruption](methods.png)",
        "",
        "Points are means over seeds, bars their standard deviation ([SVG](methods.svg)).",
    ]


def _describe(name: str, table: Table) -> list[str]:
    """All tables of a data set."""
    columns = [column for column in COLUMNS[name] if any(of == column for _, of in table)]
    order = list(dict.fromkeys((*RECIPES, *METHODS)))
    methods = [method for method in order if any((method, column) in table for column in columns)]
    lines = ["", f"## {name}", "", f"Seeds: {_seeds(table, methods)}. A number without ± is of one seed."]
    lines += _heading("Mean AP", columns)
    lines += [_line(method, [_spread(table, method, column) for column in columns]) for method in methods]
    strongest = [_strongest(table, column) for column in columns]
    lines.append(_line(f"strongest of {_ran(table)} published losses", [name for _, name in strongest]))
    lines += _heading("Differences of mean AP [95 %, paired bootstrap over test photos]", columns)
    for ours, theirs in DIFFERENCES:
        cells = [difference_of(table, column, ours, theirs) for column in columns]
        if any(cell != "–" for cell in cells):
            lines.append(_line(f"{ours} − {theirs}", cells))
    swaps = [column for column in columns if ("upper bound", column) in table and column != "clean"]
    if swaps:
        lines += _heading("Share of the upper bound's gain over mlcn-star, in percent", swaps)
        for method in ("best", "nmn-fi", "gce"):
            lines.append(_line(method, [_share(table, method, column) for column in swaps]))
        found = [_percent(table, "best", column, "share_of_valid") for column in swaps]
        lines.append(_line("captions that `best` finds valid", found))
    lines += _heading("OF1 / CF1 / calibration error", columns)
    for method in methods:
        cells = []
        for column in columns:
            values = [_percent(table, method, column, key) for key in ("of1", "cf1", "ece")]
            cells.append("–" if values[0] == "–" else " / ".join(values))
        lines.append(_line(method, cells))
    lines += _heading("Rates: mean absolute error, missing / incorrect, in points", columns)
    for method in methods:
        cells = [
            " / ".join(_percent(table, method, column, f"{kind}_error") for kind in ("missing", "incorrect"))
            for column in columns
        ]
        if any(cell != "– / –" for cell in cells):
            lines.append(_line(method, cells))
    lines += _heading("What `best` chose, by seed", columns)
    lines.append(_line("best", [_choices(table, column) for column in columns]))
    return lines


def _seeds(table: Table, methods: list[str]) -> str:
    """How many seeds each method has, methods with as many together."""
    by_count: dict[str, list[str]] = {}
    for method in methods:
        counts = {len(part) for (of, _), part in table.items() if of == method}
        by_count.setdefault(" to ".join(str(count) for count in sorted({min(counts), max(counts)})), []).append(method)
    return "; ".join(f"{count} of {', '.join(names)}" for count, names in by_count.items())


def resampled_weights(num_examples: int) -> Float64[Tensor, "R N"]:
    """How often each test photo is drawn: once in the first row, the test set as it is, then by resampling."""
    whole = torch.ones(1, num_examples, dtype=torch.float64)
    return torch.cat([whole, resample_weights(num_examples, NUM_RESAMPLES, torch.Generator().manual_seed(0))])


def difference_of(table: Table, column: str, ours: str, theirs: str) -> str:
    """The difference of the means over the seeds that both have, and its interval."""
    rows = [{row["seed"]: row["resampled_ap"] for row in table.get((method, column), [])} for method in (ours, theirs)]
    shared = sorted(rows[0].keys() & rows[1].keys())
    if not shared:
        return "–"
    means = [torch.tensor([resampled[seed] for seed in shared], dtype=torch.float64).mean(0) for resampled in rows]
    values = 100 * (means[0] - means[1])
    low, high = (values[1:].quantile(share) for share in (0.025, 0.975))
    return f"{values[0]:+.2f} [{low:+.2f}, {high:+.2f}]"


def _mean(table: Table, method: str, column: str, key: str = "mean_ap") -> float | None:
    values = [row.get(key) for row in table.get((method, column), [])]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _percent(table: Table, method: str, column: str, key: str) -> str:
    value = _mean(table, method, column, key)
    return "–" if value is None else f"{100 * value:.1f}"


def _ran(table: Table) -> int:
    """How many published losses have rows here."""
    return sum(any(method == peer for method, _ in table) for peer in PEERS)


def _strongest(table: Table, column: str) -> tuple[float | None, str]:
    """Mean AP and name of the published loss with the highest one."""
    aps = {peer: value for peer in PEERS if (value := _mean(table, peer, column)) is not None}
    if not aps:
        return None, "–"
    name = max(aps, key=lambda peer: aps[peer])
    return aps[name], name


def _share(table: Table, method: str, column: str) -> str:
    values = [_mean(table, name, column) for name in (method, "mlcn-star", "upper bound")]
    if any(value is None for value in values):
        return "–"
    ours, baseline, bound = (value for value in values if value is not None)
    return f"{100 * (ours - baseline) / (bound - baseline):.0f}"


def _spread(table: Table, method: str, column: str) -> str:
    values = [row["mean_ap"] for row in table.get((method, column), [])]
    if not values:
        return "–"
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def _choices(table: Table, column: str) -> str:
    names = []
    for row in table.get(("best", column), []):
        chosen = json.loads(row["chosen"])
        name = f"fi, q {chosen['q']:g}" if chosen["noise_model"] == "fi" else f"none, q {chosen['q']:g}"
        names.append(name + (" on the posterior" if chosen.get("posterior") else ""))
    return "; ".join(names)


def _heading(title: str, columns: list[str]) -> list[str]:
    return ["", f"### {title}", "", _line("", columns), "|---" * (len(columns) + 1) + "|"]


def _line(title: str, cells: Iterable[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def draw(rows: Iterable[Row], path: Path) -> None:
    """Mean AP of a few methods, as the PNG file `path` and as SVG beside it: points with the spread over seeds.

    One panel for each data set and kind of corruption that has rows. Columns are not joined: they are different data.

    Args:
        rows: with data, column, method, seed and mean_ap.
        path: of the picture.
    """
    rows = list(rows)
    tables = {name: _table(rows, name) for name in COLUMNS}
    panels = [
        (name, kind, columns)
        for name, table in tables.items()
        for kind, columns in _kinds(dict.fromkeys(column for column in COLUMNS[name] if ("mlcn-star", column) in table))
    ]
    figure = Figure(figsize=(2 + 1.3 * sum(len(columns) for *_, columns in panels), 4.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=[len(columns) for *_, columns in panels])
    for axis, (name, kind, columns) in zip(grid[0], panels, strict=True):
        for number, method in enumerate(DRAWN):
            offset = 0.14 * (number - (len(DRAWN) - 1) / 2)  # beside each other, or intervals would hide each other
            parts = {index: part for index, c in enumerate(columns) if (part := tables[name].get((method, c)))}
            values = [[100 * row["mean_ap"] for row in part] for part in parts.values()]
            deviations = [statistics.stdev(part) if len(part) > 1 else 0 for part in values]
            heights = [statistics.mean(part) for part in values]
            places = [index + offset for index in parts]
            axis.errorbar(places, heights, deviations, label=method, fmt="o", ms=4, elinewidth=1, capsize=2)
        axis.set_xticks(range(len(columns)), columns)
        axis.set_xlim(-0.5, len(columns) - 0.5)
        axis.set_title(f"{name}, {kind}")
        axis.grid(alpha=0.3, axis="y")
    grid[0, 0].set_ylabel("mean AP, %")
    grid[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    with rc_context({"svg.hashsalt": "truetag"}):  # the same numbers give the same file
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _kinds(columns: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Columns by kind of corruption: none and swaps, flips, the rest."""
    kinds: dict[str, list[str]] = {}
    for column in columns:
        start = column.split()[0]
        kind = "swap" if start in ("clean", "swap") else "flip" if start == "flip" else "other"
        kinds.setdefault(kind, []).append(column)
    return list(kinds.items())
