"""Methods against corruptions: noise models, published losses, and what is chosen without clean labels.

    OMP_NUM_THREADS=1 python benchmarks/methods.py --flickr8k FLICKR8K --work WORK      (hours on 2 cores; resumes)

Every method trains the same linear head on the same features with the same schedule, and has the same
budget: one setting of three values, chosen once by held-out noisy labels of two columns and one seed that is not
reported. Rows are kept in WORK/rows, one Parquet file each. Expected: see methods.md, which this script writes.
"""

import json
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from columns import COLUMNS, Column, Dataset, corrupt, load
from contenders import METHODS
from methods_report import COUNTED, write_report
from torch import Tensor

from truetag.data.corruption import label_rates
from truetag.evaluation.decisions import calibration_error, decision_scores
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.evaluation.separation import roc_auc
from truetag.io.files import replacing

REPORT = Path(__file__).with_suffix(".md")
TUNED_ON = (("swap 2", 100), ("flip 0.02, 0.3", 100))
HELD_OUT = 0.25


@dataclass(frozen=True)
class Benchmark:
    """Where the photos are, where to work, and what to run."""

    flickr8k: Path
    work: Path
    out: Path = REPORT
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = tuple(METHODS)
    processes: int = 2
    report_only: bool = False


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


def jobs(benchmark: Benchmark) -> list[Job]:
    """Seed by seed, so that what is there when it is stopped can be compared."""
    found = [
        Job(data, method, column, seed)
        for seed in benchmark.seeds
        for data, columns in COLUMNS.items()
        for column in columns
        for method in benchmark.methods
        # where nobody swaps captions, the oracle is the baseline and `best` has no captions to weigh
        if (data == "flickr8k" and (column == "clean" or column.startswith("swap"))) or method not in ("oracle", "best")
    ]
    return found


def main(benchmark: Benchmark) -> None:
    if not benchmark.report_only:
        for name in COLUMNS:
            load(name, benchmark.flickr8k, benchmark.work)
        for folder in ("tuning", "rows", "scores"):
            (benchmark.work / folder).mkdir(exist_ok=True)
        with ProcessPoolExecutor(benchmark.processes, get_context("spawn")) as pool:
            names = benchmark.methods
            tuned = dict(zip(names, pool.map(tune, [benchmark] * len(names), names), strict=True))
            todo = [job for job in jobs(benchmark) if not (benchmark.work / "rows" / f"{job.name}.parquet").exists()]
            print(f"{len(todo)} to do; tuned: {tuned}", flush=True)
            for line in pool.map(run, [benchmark] * len(todo), todo, [tuned[job.method] for job in todo]):
                print(line, flush=True)
    write_report(benchmark.work, benchmark.flickr8k, benchmark.out, TUNED_ON)


@cache
def commit() -> str:
    """The commit that a row is made at: a store may be filled over days."""
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=REPORT.parent)
    return told.stdout.strip()


@cache
def dataset(name: str, flickr8k: Path, work: Path) -> Dataset:
    return load(name, flickr8k, work)


def tune(benchmark: Benchmark, method: str) -> float:
    """The value with the highest mean AUC on held-out noisy labels of `TUNED_ON`."""
    values = METHODS[method].values
    if len(values) == 1:
        return values[0]
    kept = benchmark.work / "tuning" / f"{method.replace(' ', '_')}.json"
    if kept.exists():
        return max((score, value) for value, score in json.loads(kept.read_text()))[1]
    torch.set_num_threads(1)
    data = dataset("flickr8k", benchmark.flickr8k, benchmark.work)
    scores = []
    for value in values:
        aucs = []
        for name, seed in TUNED_ON:
            observed = corrupt(data, name, seed).observed
            held_out = torch.rand(len(observed), generator=torch.Generator().manual_seed(seed)) < HELD_OUT
            head, _ = METHODS[method].fit(data.train[~held_out], Column(observed[~held_out]), value, seed)
            aucs.append(roc_auc(head(data.train[held_out]), observed[held_out]).nanmean().item())
        scores.append((value, sum(aucs) / len(aucs)))
    with replacing(kept) as path:
        path.write_text(json.dumps(scores))
    return max((score, value) for value, score in scores)[1]


def run(benchmark: Benchmark, job: Job, value: float) -> str:
    """Fit, score on the test photos, and keep the row."""
    torch.set_num_threads(1)
    data = dataset(job.data, benchmark.flickr8k, benchmark.work)
    column = corrupt(data, job.column, job.seed)
    head, row = METHODS[job.method].fit(data.train, column, value, job.seed)
    logits = head(data.test)
    probabilities = logits.double().sigmoid()
    row |= {"data": job.data, "method": job.method, "column": job.column, "seed": job.seed, "value": value}
    row["commit"] = commit()
    row["mean_ap"] = mean_over_labels(average_precision(logits, data.test_truth))
    row |= {key: decision_scores(probabilities, data.test_truth)[key] for key in ("of1", "cf1")}
    row["ece"] = calibration_error(probabilities, data.test_truth)
    log_q = head.log_q(data.train)
    rates = row.pop("rates", None)
    if log_q is not None:
        each = torch.stack([log_q[..., 0, 1], log_q[..., 1, 0]], -1).exp()
        rates = each if each.ndim == 2 else each.mean(0)
    if rates is not None:
        row |= rate_errors(rates, data.truth, column.observed)
    np.save(benchmark.work / "scores" / f"{job.name}.npy", logits.numpy())
    with replacing(benchmark.work / "rows" / f"{job.name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist([row]), path)
    return f"{job.name} {100 * row['mean_ap']:.2f} {row.get('chosen', '')}"


def rate_errors(rates: Tensor, truth: Tensor, observed: Tensor) -> dict[str, float]:
    """Mean absolute error of the rates against the realised ones, labels weighing the same and by their true tags."""
    positives = truth.sum(0)
    errors = {}
    for kind, learnt, realised in zip(
        ("missing", "incorrect"), rates.unbind(1), label_rates(truth, observed), strict=True
    ):
        counted = (positives >= COUNTED) & ~realised.isnan()
        error = (learnt - realised).abs()[counted]
        weights = positives[counted] / positives[counted].sum()
        errors |= {f"{kind}_error": error.mean().item(), f"{kind}_error_weighted": (error * weights).sum().item()}
    return errors


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
