"""Frames of clips: `sample_frames` against bare PyAV loops that give the same 26 frames, in turn, in one process.

    python benchmarks/make_clips.py --flickr8k FLICKR8K --out CLIPS
    python benchmarks/decoding.py --clips CLIPS/clips

The bare loop decodes a clip from its start and converts the wanted frames, whose numbers it is told. `plain` is the
loop that anyone would write; `tuned` has one thread and one converter a clip. Aim: at most 1.2 times the tuned one.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import tyro
from av.video.reformatter import VideoReformatter
from PIL import Image

from truetag.media.clips import NUM_FRAMES, sample_frames


@dataclass(frozen=True)
class Benchmark:
    """Which clips, and how often each side runs."""

    clips: Path
    num_clips: int = 100
    rounds: int = 3


def wanted_numbers(num_frames: int) -> set[int]:
    if num_frames <= NUM_FRAMES:
        return set(range(num_frames))
    return {(2 * part + 1) * num_frames // (2 * NUM_FRAMES) for part in range(NUM_FRAMES)}


def plain(path: Path, wanted: set[int]) -> list[Image.Image]:
    with av.open(str(path)) as container:
        return [frame.to_image() for number, frame in enumerate(container.decode(video=0)) if number in wanted]


def tuned(path: Path, wanted: set[int]) -> list[Image.Image]:
    reformatter, photos = VideoReformatter(), []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                photos.append(reformatter.reformat(frame, format="rgb24").to_image())
                if len(photos) == len(wanted):
                    break
    return photos


def main(benchmark: Benchmark) -> None:
    paths = sorted(benchmark.clips.glob("*.mp4"))[: benchmark.num_clips]
    wanted = []
    for path in paths:
        with av.open(str(path)) as container:
            wanted.append(wanted_numbers(container.streams.video[0].frames))
    sides = {
        "ours": lambda: [sample_frames(path) for path in paths],
        "tuned": lambda: [tuned(path, numbers) for path, numbers in zip(paths, wanted, strict=True)],
        "plain": lambda: [plain(path, numbers) for path, numbers in zip(paths, wanted, strict=True)],
    }
    difference = 0
    for path, numbers in zip(paths[:10], wanted, strict=False):
        for ours, theirs in zip(sample_frames(path), plain(path, numbers), strict=True):
            difference = max(difference, int(np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max()))
    ratios = []
    for number in range(benchmark.rounds):
        speeds = {}
        for name in list(sides)[number % 3 :] + list(sides)[: number % 3]:
            started = time.perf_counter()
            sides[name]()
            speeds[name] = len(paths) / (time.perf_counter() - started)
        ratios.append(speeds["tuned"] / speeds["ours"])
        told = ", ".join(f"{name} {speeds[name]:.1f} clips/s" for name in sides)
        print(f"round {number + 1}: {told}, time ours / tuned {ratios[-1]:.3f}", flush=True)
    print(f"median ratio of times, ours / tuned: {statistics.median(ratios):.3f}; largest difference {difference}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
