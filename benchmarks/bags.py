"""What a bag costs: noisy-OR against mean pooling in time, and a clip of the paper's size in memory.

    python benchmarks/bags.py            (some minutes on 2 cores)

Expected: see bags.md, which this script writes. Every memory figure is of a process of its own.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from truetag import pooling
from truetag.losses import q_likelihood
from truetag.models.backbones import load_backbone
from truetag.models.classifier import Classifier

NUM_FRAMES, NUM_REGIONS, NUM_LABELS, RESOLUTION = 26, 144, 1000, 565
REPEATS = 15
REPORT = Path(__file__).with_suffix(".md")


def literal_noisy_or(logits: Tensor, dim: int) -> Tensor:
    """Sec. 2.4 as it is written, which loses small and large probabilities: for its time only."""
    return torch.logit(1 - (1 - logits.sigmoid()).prod(dim), eps=1e-6)


def time_poolings() -> dict[str, float]:
    """Median seconds of the bag's logit and its gradient; the poolings take turns."""
    logits = torch.randn(1, NUM_FRAMES * NUM_REGIONS, NUM_LABELS) - 7
    labels = (torch.rand(1, NUM_LABELS) < 0.02).float()
    sharpness = torch.ones(NUM_LABELS)
    contestants: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda o: pooling.mean(o, 1),
        "noisy-OR": lambda o: pooling.noisy_or(o, 1),
        "max": lambda o: pooling.maximum(o, 1),
        "log-mean-exp": lambda o: pooling.log_mean_exp(o, 1, sharpness),
        "noisy-OR, written literally": lambda o: literal_noisy_or(o, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(REPEATS + 1):
        for name, pool in contestants.items():
            o = logits.clone().requires_grad_()
            started = time.perf_counter()
            q_likelihood(pool(o), labels, 0.0).backward()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def step_of_clip(frames_at_a_time: int, queue: multiprocessing.Queue) -> None:
    """One step of the paper's network on one clip; sends seconds and the peak of resident memory."""
    backbone, _ = load_backbone("vgg16_fcn", "none", RESOLUTION)
    classifier = Classifier(
        backbone, 4096 + 512, NUM_LABELS, "noisy-or", dropout=0.5, frames_at_a_time=frames_at_a_time
    )
    clip = torch.randn(1, NUM_FRAMES, 3, RESOLUTION, RESOLUTION)
    labels = torch.zeros(1, NUM_LABELS)
    started = time.perf_counter()
    q_likelihood(classifier(clip)[0], labels, 0.0, "sum_labels").backward()
    seconds = time.perf_counter() - started
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure_clip(frames_at_a_time: int) -> tuple[float, float]:
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=step_of_clip, args=(frames_at_a_time, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{frames_at_a_time} frames at a time: ended with {process.exitcode}")
    return queue.get()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames-at-a-time", type=int, nargs="*", default=[1, 2, 4])
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    times = time_poolings()
    lines = [
        "# What a bag costs",
        "",
        f"`python benchmarks/bags.py`, commit {commit}, {platform.machine()} with {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        f"## Pooling {NUM_FRAMES} x {NUM_REGIONS} regions x {NUM_LABELS:,} labels: the bag's logit and its gradient",
        "",
        "| pooling | ms | ratio to the mean |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {1000 * value:.1f} | {value / times['mean']:.2f} |" for name, value in times.items()]
    lines += [
        "",
        f"Median of {REPEATS}, taking turns.",
        "",
        f"## One step of the paper's VGG16 on a clip of {NUM_FRAMES} frames of {RESOLUTION} x {RESOLUTION}",
        "",
        "| frames at a time | peak memory, GB | s |",
        "|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for number in arguments.frames_at_a_time:
        seconds, peak = measure_clip(number)
        lines.append(f"| {number} | {peak / 1e9:.1f} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    lines += ["", "Peak of resident memory of the process: weights, gradients, clip, activations, and torch itself."]
    REPORT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
