"""Methods against corruptions: the product's recipes, noise models and estimator beside published losses.

    OMP_NUM_THREADS=1 python benchmarks/methods.py --flickr8k FLICKR8K --work WORK

Hours on 2 cores, minutes on 16 with a GPU; it resumes, and `--columns`, `--methods` and `--seeds` choose a part. On
swapped captions the recipes are `truetag train` itself, through files (`product.py`). On flipped tags `best`,
`mlcn-star`, `nmn-fi` and `nmn-fd` are `NoisyLabelClassifier` itself ("auto", "none", "fi", "fd"). Published losses
train the same head on the same features; each has one setting of three values, chosen once by held-out noisy mean AP,
the criterion of `best`, on two columns and a seed that is not reported. Rows are stored in WORK/rows, one file each.
Expected: methods.md, which this script writes.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from columns import COLUMNS, REAL, Column, Dataset, corrupt, load
from contenders import METHODS, PEERS
from methods_report import COMPARED, resampled_weights, write_report
from product import RECIPES, swapped_manifest, train_recipe
from torch import Tensor

from truetag.data.corruption import label_rates
from truetag.evaluation.decisions import calibration_error, decision_scores
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.evaluation.significance import resampled_mean_ap
from truetag.io.files import replacing

REPORT = Path(__file__).with_suffix(".md")
TUNED_ON = (("swap 2", 100), ("flip 0.02, 0.3", 100))
HELD_OUT = 0.25
COUNTED = 100
"""Rates are compared on labels with so many true positives."""
ALL_METHODS = tuple(dict.fromkeys((*RECIPES, *METHODS)))
DEFAULT_METHODS = tuple(name for name in ALL_METHODS if not name.startswith("fi, q") and name != "nmn-fd-shared")


@dataclass(frozen=True)
class Benchmark:
    """Where the photos are, where to work, and what to run; without a shop's folder its data set is left out."""

    flickr8k: Path
    work: Path
    shop: Path | None = None
    out: Path = REPORT
    data: tuple[str, ...] = tuple(COLUMNS)
    columns: tuple[str, ...] = ()
    """Without any, all."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: tuple[int, ...] = (0, 1, 2)
    processes: int = 2
    report: bool = True
    """Write the report at the end; without it, several calls can share the work."""


@dataclass(frozen=True)
class Job:
    """One row of the store."""

    data: str
    method: str
    column: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}--{self.method}--{self.column}--{self.seed}".replace(" ", "_").replace(",", "")

    @property
    def is_recipe(self) -> bool:
        """Whether `truetag train` does it, through files."""
        return self.data == "flickr8k" and self.method in RECIPES and num_swapped_in(self.column) is not None

    @property
    def exists(self) -> bool:
        is_swap = num_swapped_in(self.column) is not None and self.data == "flickr8k"
        if self.method.startswith("mil"):
            return is_swap
        return is_swap or self.method != "upper bound" or self.column in REAL


def num_swapped_in(column: str) -> int | None:
    if column == "clean":
        return 0
    return int(column.removeprefix("swap ")) if column.startswith("swap ") else None


def jobs(benchmark: Benchmark) -> list[Job]:
    """Seed by seed and the product first, so that what is there when it is stopped can be compared."""
    found = [
        Job(data, method, column, seed)
        for seed in benchmark.seeds
        for data in benchmark.data
        if data != "shop" or benchmark.shop is not None
        for method in benchmark.methods
        for column in COLUMNS[data]
        if not benchmark.columns or column in benchmark.columns
    ]
    return [job for job in found if job.exists]


def main(benchmark: Benchmark) -> None:
    os.environ.setdefault("TRUETAG_CACHE", str(benchmark.work / "cache"))
    for folder in ("tuning", "rows"):
        (benchmark.work / folder).mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs(benchmark) if not row_path(benchmark.work, job).exists()]
    if todo:
        with ProcessPoolExecutor(benchmark.processes, get_context("spawn")) as pool:
            for future in submit(benchmark, todo, pool):
                # one row that fails is reported, and does not end the others
                error = future.exception()
                print(f"failed: {error!r}" if error else future.result(), flush=True)
    if benchmark.report:
        write_report(benchmark.work, benchmark.out, TUNED_ON)


def submit(benchmark: Benchmark, todo: list[Job], pool: ProcessPoolExecutor) -> Iterator[Future[str]]:
    """Hand out the jobs, the product first; data are prepared while others are at work."""
    work = benchmark.work / "flickr8k"
    for name in ("flickr8k", *({job.data for job in todo} & {"shop"})):
        load(name, source_of(benchmark, name), benchmark.work)
    swaps = {(num_swapped_in(job.column) or 0, job.seed) for job in todo} | {(2, seed) for _, seed in TUNED_ON}
    list(pool.map(swapped_manifest, [work] * len(swaps), *zip(*swaps, strict=True)))
    started = [pool.submit(run, benchmark, job, 0.0) for job in todo if job.is_recipe]
    peers = [name for name in benchmark.methods if name in PEERS]
    values = [(name, index) for name in peers for index in range(len(METHODS[name].values))]
    tuning = {value: pool.submit(held_out_ap, benchmark, value) for value in values}
    if "scenes" in benchmark.data:
        load("scenes", source_of(benchmark, "scenes"), benchmark.work)
    on_features = [job for job in todo if not job.is_recipe]
    started += [pool.submit(run, benchmark, job, 0.0) for job in on_features if job.method not in peers]
    tuned = {name: best_value(name, {key: future.result() for key, future in tuning.items()}) for name in peers}
    started += [pool.submit(run, benchmark, job, tuned[job.method]) for job in on_features if job.method in peers]
    print(f"{len(started)} rows, tuned: {tuned}", flush=True)
    yield from started


def row_path(work: Path, job: Job) -> Path:
    return work / "rows" / f"{job.name}.json"


@cache
def commit() -> str:
    """The commit that a row is made at: a store may be filled over days."""
    given = os.environ.get("TRUETAG_COMMIT")  # where the tree is a copy without its history
    command = ["git", "rev-parse", "--short", "HEAD"]
    return given or subprocess.run(command, capture_output=True, text=True, cwd=REPORT.parent).stdout.strip()


def source_of(benchmark: Benchmark, name: str) -> Path:
    """The folder that a data set comes from; drawn scenes need none."""
    return benchmark.shop if name == "shop" and benchmark.shop is not None else benchmark.flickr8k


@cache
def dataset(name: str, source: Path, work: Path) -> Dataset:
    """The data set, with its features on a GPU if there is one."""
    data = load(name, source, work)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return replace(data, train=data.train.to(device), test=data.test.to(device))


def held_out_ap(benchmark: Benchmark, value: tuple[str, int]) -> float:
    """Mean AP on held-out noisy labels of `TUNED_ON`, of one value of a method's setting."""
    name, index = value
    path = benchmark.work / "tuning" / f"{name.replace(' ', '_')}-{index}.json"
    if path.exists():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    data = dataset("flickr8k", source_of(benchmark, "flickr8k"), benchmark.work)
    aps = []
    for column, seed in TUNED_ON:
        observed = corrupt(data, column, seed).observed
        held_out = torch.rand(len(observed), generator=torch.Generator().manual_seed(seed)) < HELD_OUT
        method = METHODS[name]
        fitted, _ = method.fit(data.train[~held_out], Column(observed[~held_out]), method.values[index], seed)
        aps.append(mean_over_labels(average_precision(fitted(data.train[held_out]).cpu(), observed[held_out])))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sum(aps) / len(aps)))
    return sum(aps) / len(aps)


def best_value(name: str, aps: dict[tuple[str, int], float]) -> float:
    values = METHODS[name].values
    return values[max(range(len(values)), key=lambda index: aps[name, index])]


def run(benchmark: Benchmark, job: Job, value: float) -> str:
    """Train, score on the test photos, and store the row."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {"data": job.data, "method": job.method, "column": job.column, "seed": job.seed}
    row |= {"value": value, "commit": commit(), "by": "truetag train" if job.is_recipe else "features"}
    data = dataset(job.data, source_of(benchmark, job.data), benchmark.work)
    if job.is_recipe:
        logits, metrics = train_recipe(data.work, job.method, num_swapped_in(job.column) or 0, job.seed)
        row["count_mean_ap"] = metrics["count_mean_ap"]
        chosen = data.work / "runs" / f"swap{num_swapped_in(job.column)}-seed{job.seed}" / job.method / "chosen.json"
        if chosen.exists():
            note = json.loads(chosen.read_text())
            choice = {"noise_model": note["chosen"]["noise_model"], "q": note["chosen"]["q"]}
            row |= {"chosen": json.dumps(choice), "share_of_valid": note.get("share_of_valid_captions")}
        logits = torch.from_numpy(logits)
    else:
        column = corrupt(data, job.column, job.seed)
        fitted, found = METHODS[job.method].fit(data.train, column, value, job.seed)
        logits = fitted(data.test).cpu()
        if (rates := found.pop("rates", None)) is not None:
            row |= rate_errors(rates, data.truth, column.observed)
        row |= found
    probabilities = logits.double().sigmoid()
    row["mean_ap"] = mean_over_labels(average_precision(logits, data.test_truth))
    row |= {key: decision_scores(probabilities, data.test_truth)[key] for key in ("of1", "cf1")}
    row["ece"] = calibration_error(probabilities, data.test_truth)
    if job.method in COMPARED:
        resampled = resampled_mean_ap(logits, data.test_truth, resampled_weights(len(logits)))
        row["resampled_ap"] = [round(value, 6) for value in resampled.tolist()]
    with replacing(row_path(benchmark.work, job)) as temporary:
        temporary.write_text(json.dumps(row))
    return f"{job.name} {100 * row['mean_ap']:.2f} {row.get('chosen', '')}"


def rate_errors(rates: Tensor, truth: Tensor, observed: Tensor) -> dict[str, float]:
    """Mean absolute error of the rates against the realised ones, over labels with `COUNTED` true positives."""
    errors = {}
    learnt_rates = rates.cpu()
    for kind, learnt, realised in zip(
        ("missing", "incorrect"), learnt_rates.unbind(1), label_rates(truth, observed), strict=True
    ):
        counted = (truth.sum(0) >= COUNTED) & ~realised.isnan()
        errors[f"{kind}_error"] = (learnt - realised).abs()[counted].mean().item()
    return errors


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
