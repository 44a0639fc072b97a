"""What checkpoints cost: the same run with a checkpoint every minute, every second, and none but the first of a stage.

    python benchmarks/checkpoints.py --data MANIFEST --vocabulary V.tsv --work WORK      (about 20 minutes on 2 cores)

Training a head on cached features is the hardest case: steps take milliseconds, and a checkpoint is no smaller for it.
The runs take turns, so that whatever else the machine does falls on all of them. Writes checkpoints.md.
"""

import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from truetag.runs import checkpoints
from truetag.runs.folder import versions
from truetag.training.recipes import recipe
from truetag.training.train import train

REPORT = Path(__file__).with_suffix(".md")
NEVER = 1e9
INTERVALS = (NEVER, 60.0, 1.0)


@dataclass(frozen=True)
class Benchmark:
    """What to train on, where to work, and how long and how often."""

    data: Path
    vocabulary: Path
    work: Path
    epochs: int = 150
    repeats: int = 3
    out: Path = REPORT


def main(benchmark: Benchmark) -> None:
    base = recipe("mlcn")
    config = replace(base, freeze_backbone=True, weights="offline", stage1_epochs=benchmark.epochs)
    seconds: dict[float, list[float]] = {interval: [] for interval in INTERVALS}
    writing: dict[float, list[float]] = {interval: [] for interval in INTERVALS}
    written = dict.fromkeys(INTERVALS, 0)
    # the first run fills the caches and is not counted
    for repeat in range(benchmark.repeats + 1):
        for interval in INTERVALS if repeat else INTERVALS[:1]:
            out = benchmark.work / f"run-{interval:g}"
            shutil.rmtree(out, ignore_errors=True)
            counter = _Counter()
            started = time.perf_counter()
            epochs = benchmark.epochs if repeat else 1
            settings = replace(config, checkpoint_seconds=interval, stage1_epochs=epochs)
            train(settings, benchmark.data, benchmark.vocabulary, out)
            if repeat:
                seconds[interval].append(time.perf_counter() - started)
                writing[interval].append(counter.seconds)
                written[interval] = counter.stop()
                print(f"{interval:g}: {seconds[interval][-1]:.1f} s, {written[interval]} checkpoints", flush=True)
            else:
                counter.stop()
    size = sum(p.stat().st_size for p in (benchmark.work / f"run-{NEVER:g}").glob("stage1.safetensors"))
    benchmark.out.write_text(_report(benchmark, seconds, writing, written, size))
    print(benchmark.out.read_text())


class _Counter:
    """Counts checkpoints, and the seconds that they take, while it lives."""

    def __init__(self) -> None:
        self.count, self.seconds, self.original = 0, 0.0, checkpoints.CheckpointFolder.save

        def save(*arguments: object) -> None:
            started = time.perf_counter()
            self.original(*arguments)  # type: ignore[arg-type]
            self.count, self.seconds = self.count + 1, self.seconds + time.perf_counter() - started

        checkpoints.CheckpointFolder.save = save  # type: ignore[method-assign]

    def stop(self) -> int:
        checkpoints.CheckpointFolder.save = self.original  # type: ignore[method-assign]
        return self.count


def _report(
    benchmark: Benchmark,
    seconds: dict[float, list[float]],
    writing: dict[float, list[float]],
    written: dict[float, int],
    size: int,
) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    head = [
        "# What checkpoints cost",
        "",
        f"`python benchmarks/checkpoints.py` at {commit.stdout.strip()}: recipe mlcn on frozen features, "
        f"{benchmark.epochs} epochs, {benchmark.repeats} repeats in turns, {torch.get_num_threads()} threads, torch "
        f"{versions()['torch']}. The trained state has {size / 1e6:.1f} MB; a checkpoint holds about four times as "
        "much (optimiser, best epoch).",
        "",
        "| checkpoint every | checkpoints | seconds (median; all) | time ratio to none | share of time spent writing |",
        "|---|---|---|---|---|",
    ]
    base = statistics.median(seconds[NEVER])
    for interval, values in seconds.items():
        name = "none but the first" if interval == NEVER else f"{interval:g} s"
        all_values = ", ".join(f"{value:.1f}" for value in values)
        ratio = statistics.median(values) / base
        share = sum(writing[interval]) / sum(values)
        cells = [name, str(written[interval]), f"{statistics.median(values):.1f} ({all_values})", f"{ratio:.3f}"]
        head.append(f"| {' | '.join(cells)} | {100 * share:.2f} % |")
    return "\n".join(head) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Benchmark, config=(tyro.conf.OmitArgPrefixes,)))
