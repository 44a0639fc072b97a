"""Clips made of photos: two or three different photos of Flickr8k one after another, panned and zoomed.

    python benchmarks/make_clips.py --flickr8k FLICKR8K --out CLIPS
    truetag import msrvtt CLIPS/train_val_videodatainfo.json CLIPS/clips --out CLIPS/clips.jsonl

A clip has the captions of all its photos, so a word holds in part of its frames, as in Section 2.4 of the paper. Test
clips are of photos of dev.txt, validation clips of a tenth of train.txt, train clips of the rest. A clip depends on the
settings, its split and its number alone; those that are there already are not made again.
"""

import csv
import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from truetag.demo.moving_scenes import FRAMES_PER_SECOND, approach, write_clip
from truetag.io.files import write_json
from truetag.io.terminal import Progress


@dataclass(frozen=True)
class MakeClips:
    """Where the photos are (images/, captions.csv, train.txt, dev.txt), and which clips to make of them."""

    flickr8k: Path
    out: Path
    num_train: int = 600
    num_validation: int = 100
    num_test: int = 200
    size: int = 224
    seconds: tuple[float, float] = (2.0, 3.0)
    seed: int = 0


def photos_of_splits(settings: MakeClips) -> dict[str, list[str]]:
    """The photos of each split, shuffled; no photo is in two of them."""
    rng = np.random.default_rng(settings.seed)
    train, test = (sorted((settings.flickr8k / name).read_text().split()) for name in ("train.txt", "dev.txt"))
    for names in (train, test):
        rng.shuffle(names)
    held_out = len(train) // 10
    return {"train": train[held_out:], "validate": train[:held_out], "test": test}


def film(settings: MakeClips, names: list[str], rng: np.random.Generator) -> Iterator[Image.Image]:
    """The frames of a clip, its time divided evenly among the photos; every second photo is left instead of neared."""
    num_frames = int(rng.uniform(*settings.seconds) * FRAMES_PER_SECOND)
    for number, name in enumerate(names):
        share = len(range(number, num_frames, len(names)))
        with Image.open(settings.flickr8k / "images" / name) as photo:
            frames = list(approach(photo, rng, share, settings.size))
        yield from frames[::-1] if number % 2 else frames


def main(settings: MakeClips) -> None:
    described = json.loads(json.dumps(dataclasses.asdict(settings) | {"flickr8k": "", "out": ""}))
    kept = settings.out / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != described:
        raise SystemExit(f"{settings.out} holds clips of other settings: {kept.read_text()}")
    write_json(kept, described)
    captions = defaultdict(list)
    with (settings.flickr8k / "captions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"])
    splits = photos_of_splits(settings)
    counts = {"train": settings.num_train, "validate": settings.num_validation, "test": settings.num_test}
    videos, sentences = [], []
    made, started = 0, time.perf_counter()
    with Progress("clips", sum(counts.values())) as progress:
        for split, count in counts.items():
            for number in range(count):
                rng = np.random.default_rng([settings.seed, *split.encode(), number])
                available = splits[split]
                names = [available[(3 * number + part) % len(available)] for part in range(rng.integers(2, 4))]
                video_id = f"video{len(videos)}"
                path = settings.out / "clips" / f"{video_id}.mp4"
                if not path.exists():
                    write_clip(path, film(settings, names, rng))
                    made += 1
                videos.append({"video_id": video_id, "split": split, "photos": names})
                said = [caption for name in names for caption in captions[name]]
                sentences += [{"video_id": video_id, "caption": caption} for caption in said]
                progress.advance(1)
    write_json(settings.out / "train_val_videodatainfo.json", {"videos": videos, "sentences": sentences})
    seconds = time.perf_counter() - started
    print(f"{made} of {len(videos)} clips made in {seconds:.1f} s, {made / seconds:.1f} clips/s")


if __name__ == "__main__":
    main(tyro.cli(MakeClips))
