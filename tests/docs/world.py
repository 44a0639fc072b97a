"""What the pages of docs/ take for given, drawn: photos, clips, tables and features under the names that they use."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np

from truetag.data.manifest import iterate_rows
from truetag.demo.moving_scenes import draw_clips
from truetag.demo.scenes import draw_scenes

NEW = 4
"""How many photos and clips come later, without tags."""


def make_world(folder: Path) -> None:
    """Write photos, clips and their tables into `folder`."""
    scenes = draw_scenes(folder / "drawn", 90, 0, NEW, size=32)
    rows = list(iterate_rows(scenes))
    _divide(folder, scenes.parent, rows, "image", "photos", "new_photos")
    given = [row for row in rows if row["split"] == "train"]
    names = [Path(row["image"]).name for row in given]
    captions = [(name, caption) for name, row in zip(names, given, strict=True) for caption in row["captions"]]
    _write_csv(folder / "captions.csv", ("image", "caption"), captions)
    tags = [row["true_tags"] for row in given]
    _write_csv(folder / "tags.csv", ("image", "tags"), zip(names, map(", ".join, tags), strict=True))
    num_tags = len({tag for one in tags for tag in one})
    rng = np.random.default_rng(0)
    np.save(folder / "X.npy", rng.normal(size=(len(given), 8)).astype(np.float32))
    np.save(folder / "P.npy", rng.uniform(0.01, 0.99, size=(len(given), num_tags)))
    decision = {"id": names[0], "kind": "incorrect", "label": tags[0][0], "decision": "reject", "when": "2026-01-01"}
    (folder / "decisions.jsonl").write_text(json.dumps(decision) + "\n")

    (folder / "small.json").write_text('{"stage1_epochs": 1}\n')

    clips = draw_clips(folder / "drawn_clips", 24, 8, NEW, size=32, frames_per_scene=3)
    rows = list(iterate_rows(clips))
    _divide(folder, clips.parent, rows, "video", "clips", "new_clips")
    given = [row for row in rows if row["split"] != "test"]
    lines = [
        (Path(row["video"]).name, row["split"] if number % 8 else "test", caption)
        for number, row in enumerate(given)
        for caption in row["captions"]
    ]
    _write_csv(folder / "clips.csv", ("video", "split", "caption"), lines)


def _divide(folder: Path, drawn: Path, rows: list, kind: str, known: str, new: str) -> None:
    """Move the files of the test rows to the folder `new`, all others to `known`."""
    for name in (known, new):
        (folder / name).mkdir()
    for row in rows:
        shutil.move(drawn / row[kind], folder / (new if row["split"] == "test" else known))


def _write_csv(path: Path, header: tuple, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
