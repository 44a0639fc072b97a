"""The tables and curves of `methods.py`, from its rows and scores."""

import csv
import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import torch
from columns import COLUMNS, Dataset, load
from contenders import METHODS, OURS
from flickr8k import spread
from torch import Tensor

from truetag.evaluation.significance import resample_weights, resampled_mean_ap
from truetag.io.files import replacing
from truetag.runs.folder import versions

NUM_RESAMPLES = 200
COUNTED = 100
"""Rates are compared on labels with so many true positives."""
DRAWN = ("mlcn-star", "gce", "nmn-fi", "fi, q = 0.4", "best", "oracle")
SHARED = ("best", "auto", "nmn-fi", "gce")
COMPARED = ("mlcn-star", "oracle", *SHARED)
RATES = ("missing_error", "missing_error_weighted", "incorrect_error", "incorrect_error_weighted")

Table = dict[tuple[str, str], list[dict[str, Any]]]
"""Of one data set: (method, column) -> rows by seed."""


def write_report(work: Path, flickr8k: Path, out: Path, tuned_on: Sequence[tuple[str, int]]) -> None:
    """Markdown, one CSV line a row, and one picture, beside each other."""
    tables = {name: read_table(work, name) for name in COLUMNS}
    rows = [row for table in tables.values() for part in table.values() for row in part]
    fields = list(dict.fromkeys(key for row in rows for key in row if key != "name"))
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({key: rounded(value) for key, value in row.items()} for row in rows)
    draw(tables, out.with_suffix(".png"))
    lines = header(tables["flickr8k"], tuned_on)
    for name, table in tables.items():
        if table:
            lines += describe(work, load(name, flickr8k, work), name, table)
    out.write_text("\n".join(lines) + "\n")
    print(out.read_text())


def read_table(work: Path, data: str) -> Table:
    """The rows of a data set; where no caption can be weighed, `best` is `auto`."""
    table: Table = {}
    for path in (work / "rows").glob("*.parquet"):
        (row,) = pq.read_table(path).to_pylist()
        if row["data"] == data and row["column"] in COLUMNS[data]:
            table.setdefault((row["method"], row["column"]), []).append(row | {"name": path.stem})
    for (method, column), rows in list(table.items()):
        if method == "auto":
            table.setdefault(("best", column), rows)
    return {key: sorted(rows, key=lambda row: row["seed"]) for key, rows in table.items()}


def header(table: Table, tuned_on: Sequence[tuple[str, int]]) -> list[str]:
    commits = dict.fromkeys(row["commit"] for part in table.values() for row in part)
    tuned = []
    for name, method in METHODS.items():
        rows = [row for (other, _), part in table.items() if other == name for row in part]
        if rows and len(method.values) > 1:
            values = ", ".join(f"{value:g}" for value in method.values)
            tuned.append(f"{name}: {method.setting} {rows[0]['value']:g} of {values}")
    packages = [f"{name} {version}" for name, version in versions().items() if name == "torch"]
    return [
        "# Methods against corruptions",
        "",
        "`OMP_NUM_THREADS=1 python benchmarks/methods.py --flickr8k FLICKR8K --work WORK`, rows made at "
        f"{', '.join(commits)}, {platform.machine()}, {', '.join(packages)}. The same linear head (15 epochs, AdamW, "
        "dropout, decay) on features of the frozen offline EfficientNet-Lite0 for every method. In percent, mean ± "
        "standard deviation over seeds of corruption and training. Columns: `swap` captions of five; `flip` incorrect, "
        "missing. Flickr8k is trained on all of `train.txt` and scored on `dev.txt`.",
        "",
        "Budget of each method: one setting of three values, chosen by the mean AUC on held-out *noisy* labels of "
        + " and ".join(f"`{column}`" for column, _ in tuned_on)
        + f" on Flickr8k (seed {tuned_on[0][1]}, not reported), then used everywhere. Chosen: "
        + "; ".join(tuned)
        + ". `fi, q = ..`, `auto` and `best` have nothing tuned. `auto`: `NoisyLabelClassifier()` as it comes: noise "
        "model, q and relabelling by a quarter of the training labels, as observed. `best`: where there are captions, "
        "these by their validity, then noise model and q; without captions it is `auto`. `oracle`: the baseline "
        "without the words of swapped captions. Where `best` is not ahead, and what was tried there: the end of "
        "`docs/method.md`.",
        "",
        "![Mean AP by corruption](methods.png)",
    ]


def describe(work: Path, data: Dataset, name: str, table: Table) -> list[str]:
    columns = [column for column in COLUMNS[name] if ("mlcn-star", column) in table]
    present = [method for method in METHODS if any((method, column) in table for column in columns)]
    seeds = {
        c: min(len(rows) for (method, of), rows in table.items() if of == c and method in COMPARED) for c in columns
    }
    fewer = {
        method: n
        for method in present
        if (n := min(len(table.get((method, c), [])) for c in columns if (method, c) in table)) < max(seeds.values())
    }
    generator = torch.Generator().manual_seed(0)
    whole = torch.ones(1, len(data.test), dtype=torch.float64)
    weights = torch.cat([whole, resample_weights(len(data.test), NUM_RESAMPLES, generator)])
    found = {column: resample(work, table, column, seeds[column], data.test_truth, weights) for column in columns}
    lines = [
        "",
        f"## {name}: {len(data.train)} training photos, {len(data.test)} test photos, {data.truth.shape[1]} labels",
        "",
        "Seeds: "
        + ", ".join(f"{c}: {n}" for c, n in seeds.items())
        + ("; fewer of " if fewer else "")
        + ", ".join(f"{method} ({n})" for method, n in fewer.items())
        + ".",
        *heading("Mean AP", columns),
    ]
    for method in present:
        lines.append(row_of(method, (cell(table, method, column) for column in columns)))
    lines += heading("What `best` promises", columns)
    mean = {key: statistics.mean(row["mean_ap"] for row in rows) for key, rows in table.items()}
    peers = [method for method in present if method not in OURS and method != "mlcn-star"]
    fixed = ["mlcn-star", "nmn-fi", *(method for method in present if method.startswith("fi, q"))]
    for other in ("mlcn-star", "gce", "nmn-fi"):
        pairs = (compare(found[column], "best", other) for column in columns)
        lines.append(row_of(f"best − {other} [95 %]", pairs))
    for title, ours, others in (
        ("best − strongest peer", "best", peers),
        ("best − best fixed q", "best", fixed),
    ):
        lines.append(row_of(title, (ahead(mean, ours, others, column) for column in columns)))
    chosen_q = (
        ahead(mean | {("q", c): value for c in columns if (value := of_chosen_q(table, c))}, "q", fixed, c)
        for c in columns
    )
    lines.append(row_of("fixed at auto's q − best fixed q", chosen_q))
    for method in ("auto", "best"):
        chosen = (", ".join(short(row) for row in table.get((method, column), [])) for column in columns)
        lines.append(row_of(f"{method}: which q, by seed (r: relabelled)", chosen))
    swaps = [column for column in columns if column.startswith("swap")]
    if swaps:
        lines += share_of_oracle(table, swaps, found)
    lines += heading("OF1 / CF1 / calibration error", columns)
    for method in present:
        cells = (" / ".join(f"{v:.1f}" for v in means(table, method, c, ("of1", "cf1", "ece"))) for c in columns)
        lines.append(row_of(method, cells))
    return lines + rate_errors(table, columns, present)


def rate_errors(table: Table, columns: list[str], methods: list[str]) -> list[str]:
    title = f"Learnt rates: mean absolute error, labels with {COUNTED} true positives or more"
    lines = heading(title, columns, "In points: missing (weighted by true positives), incorrect (weighted).")
    for method in methods:
        errors = [means(table, method, column, RATES) for column in columns]
        if any(errors):
            cells = (f"{e[0]:.1f} ({e[1]:.1f}), {e[2]:.1f} ({e[3]:.1f})" if e else "–" for e in errors)
            lines.append(row_of(method, cells))
    return lines


def share_of_oracle(table: Table, swaps: list[str], found: dict[str, dict[str, Tensor]]) -> list[str]:
    """Of what the oracle gains over the baseline, how much a method gains; resampled over test photos."""
    lines = heading("Share of the oracle's gain over mlcn-star [95 %], in percent", swaps)
    for method in SHARED:
        cells = []
        for of in (found[column] for column in swaps):
            shares = 100 * (of[method] - of["mlcn-star"]) / (of["oracle"] - of["mlcn-star"])
            cells.append(interval(shares, "{:.0f}"))
        lines.append(row_of(method, cells))
    for title, key in (("captions found valid, %", "share_of_valid"), ("AUC of their validity, %", "validity_auc")):
        lines.append(row_of(title, (f"{means(table, 'best', column, (key,))[0]:.1f}" for column in swaps)))
    return lines


def resample(
    work: Path, table: Table, column: str, num_seeds: int, truth: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """Of each method that is compared, the mean over seeds of its mean AP under every row of example weights."""
    return {
        method: torch.stack(
            [resampled_row(work, row["name"], truth, weights) for row in table[method, column][:num_seeds]]
        ).mean(0)
        for method in COMPARED
        if (method, column) in table
    }


def resampled_row(work: Path, name: str, truth: Tensor, weights: Tensor) -> Tensor:
    """From a file beside the scores, unless these are newer: resampling takes longer than all else."""
    scores, kept = work / "scores" / f"{name}.npy", work / "resampled" / f"{name}-{len(weights)}.npy"
    if not kept.exists() or kept.stat().st_mtime < scores.stat().st_mtime:
        kept.parent.mkdir(exist_ok=True)
        with replacing(kept) as path, path.open("wb") as file:
            np.save(file, resampled_mean_ap(np.load(scores), truth, weights).numpy())
    return torch.from_numpy(np.load(kept))


def interval(values: Tensor, form: str) -> str:
    """The value on all examples, and between which 95 % of the resampled ones are."""
    return f"{form} [{form}, {form}]".format(values[0], values[1:].quantile(0.025), values[1:].quantile(0.975))


def compare(found: dict[str, Tensor], ours: str, theirs: str) -> str:
    if ours not in found or theirs not in found:
        return "–"
    return interval(100 * (found[ours] - found[theirs]), "{:+.2f}")


def ahead(mean: dict[tuple[str, str], float], ours: str, others: list[str], column: str) -> str:
    there = [other for other in others if (other, column) in mean]
    if (ours, column) not in mean or not there:
        return "–"
    strongest = max(there, key=lambda other: mean[other, column])
    return f"{100 * (mean[ours, column] - mean[strongest, column]):+.2f} ({strongest})"


def means(table: Table, method: str, column: str, keys: Iterable[str]) -> list[float]:
    """Each in percent; nothing where the rows have no such value."""
    rows = table.get((method, column), [])
    values = [[row.get(key) for row in rows] for key in keys]
    if not rows or any(value is None for part in values for value in part):
        return []
    return [100 * statistics.mean(value for value in part if value is not None) for part in values]


def cell(table: Table, method: str, column: str) -> str:
    rows = table.get((method, column), [])
    return spread([row["mean_ap"] for row in rows]) if rows else "–"


def short(row: dict[str, Any]) -> str:
    settings = json.loads(row["chosen"])
    name = f"{settings['q']:g}" if settings["noise_model"] == "fi" else "none"
    return name + ("r" if settings.get("relabel") else "")


def of_chosen_q(table: Table, column: str) -> float | None:
    """Mean AP of the fixed method that `auto` chose with each seed: what its choice of q alone is worth."""
    values = []
    for row in table.get(("auto", column), []):
        chosen = json.loads(row["chosen"])
        q = f"fi, q = {chosen['q']:g}" if chosen["q"] else "nmn-fi"
        name = "mlcn-star" if chosen["noise_model"] == "none" else q
        values += [other["mean_ap"] for other in table.get((name, column), []) if other["seed"] == row["seed"]]
    return statistics.mean(values) if values else None


def heading(title: str, columns: list[str], text: str = "") -> list[str]:
    explained = ["", text] if text else []
    return ["", f"### {title}", *explained, "", row_of("", columns), "|---" * (len(columns) + 1) + "|"]


def row_of(title: str, cells: Iterable[str]) -> str:
    return f"| {title} | " + " | ".join(cell or "–" for cell in cells) + " |"


def rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def draw(tables: dict[str, Table], path: Path) -> None:
    """Mean AP of a few methods over the columns of each data set."""
    figure, axes = plt.subplots(1, len(COLUMNS), figsize=(13, 4.2), width_ratios=[2, 1], layout="constrained")
    for axis, (name, columns) in zip(axes, COLUMNS.items(), strict=True):
        for method in DRAWN:
            found = {p: tables[name][method, c] for p, c in enumerate(columns) if (method, c) in tables[name]}
            values = [[100 * row["mean_ap"] for row in rows] for rows in found.values()]
            deviations = [statistics.stdev(part) if len(part) > 1 else 0 for part in values]
            heights = [statistics.mean(part) for part in values]
            axis.errorbar(list(found), heights, deviations, label=method, marker="o", ms=4, lw=1)
        axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        axis.set_title(name)
        axis.set_ylabel("mean AP, %")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
