"""kill -9 at random moments of a run, then the same command again: the outcome must be that of an undisturbed run.

    python tests/faults/kills.py [--kills 20] [--seed 0]

Each trial forks a process that runs `truetag train` and then `truetag predict`, waits until it reaches a chosen point
(the n-th feature batch, training step, checkpoint write, ..), sleeps a random moment, and kills it there with SIGKILL.
A second process repeats the commands with `--resume`. Then every file of the run, the feature cache and the predictions
must equal, byte for byte, those of a run that nobody disturbed; the history but for its seconds.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import truetag.io.tensors
import truetag.models.features
import truetag.prediction.table
import truetag.prediction.tagged_bags
import truetag.runs.folder
import truetag.training.stage
import truetag.training.train
from truetag.cli import main
from truetag.data.corruption import corrupt
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import build_vocabulary, write_vocabulary
from truetag.demo.scenes import draw_scenes

# point -> the least number of times that the commands below reach it
FROZEN_POINTS = {"features": 3, "checkpoint": 36, "step": 24, "stage 2": 1, "finish": 3, "prediction": 3}
TUNED_POINTS = {"checkpoint": 36, "step": 24, "between stages": 1, "finish": 3, "prediction": 3}
SETTINGS = (
    "--backbone test_resnet --weights none --resolution 32 --batch-size 16 --stage1-epochs 3 --stage2-epochs 3 "
    "--checkpoint-seconds 0"
)


def make_data(folder: Path) -> None:
    """Drawn photos with swapped captions, two of them broken."""
    clean = draw_scenes(folder, 64, 16, 80, size=32)
    for name in ("train-00003.jpg", "test-00007.jpg"):
        (folder / "photos" / name).write_bytes(b"not a photo")
    write_vocabulary(folder / "vocabulary.tsv", build_vocabulary(read_manifest(clean).in_split("train"), 20))
    corrupt(clean, folder / "swapped.jsonl", swap_captions=2)


def commands(data: Path, work: Path, frozen: bool) -> Iterator[list[str]]:
    """The commands of one trial; to repeat them is to go on with them."""
    recipe, frozen_flag = ("nmn-fd", ["--freeze-backbone"]) if frozen else ("nmn-fi", [])
    manifest = str(data / "swapped.jsonl")
    names = ["--data", manifest, "--vocabulary", str(data / "vocabulary.tsv"), "--cache", str(work / "cache")]
    yield ["train", recipe, *names, "--out", str(work / "run"), *SETTINGS.split(), *frozen_flag, "--resume"]
    yield ["predict", str(work / "run"), manifest, "--split", "test", "--out", str(work / "predictions.parquet")]


def run(data: Path, work: Path, frozen: bool, point: str = "", count: int = 0, pipe: int = -1) -> int:
    """Run the commands in a child process; at the `count`-th arrival at `point` it writes to `pipe`. Returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (work / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        # every batch reaches the disk, as it does in a real run every ten seconds
        truetag.models.features._FLUSH_SECONDS = truetag.prediction.tagged_bags._FLUSH_SECONDS = -1.0  # type: ignore[assignment]
        _announce(point, count, pipe)
        code = max(main(arguments) for arguments in commands(data, work, frozen))
    finally:
        os._exit(code)


def _announce(point: str, count: int, pipe: int) -> None:
    """Tell the parent process about the `count`-th arrival at `point`."""
    arrivals = 0

    def arrive(*ignored: Any) -> None:
        nonlocal arrivals
        arrivals += 1
        if arrivals == count:
            os.write(pipe, b"!")

    def watch(owner: Any, name: str, wanted: Callable[..., bool] = lambda *arguments: True) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            if wanted(*arguments):
                arrive()
            return original(*arguments, **named)

        setattr(owner, name, watched)

    match point:
        case "features":
            watch(truetag.models.features, "_to_bytes")
        case "checkpoint":  # the write itself: a kill falls before, into or after it
            watch(truetag.io.tensors, "save_file", lambda state, *rest: any("network/" in name for name in state))
        case "step":
            watch(truetag.training.stage, "q_likelihood")
        case "between stages":
            watch(truetag.runs.folder.Run, "save_state", lambda run, name, state: name == "stage1")
        case "stage 2":
            watch(truetag.training.train, "make_noise_model")
        case "finish":
            watch(truetag.runs.folder.Run, "save_state")
        case "prediction":
            watch(truetag.prediction.table.PartialTable, "add")


def kill_once(data: Path, work: Path, frozen: bool, point: str, count: int, delay: float) -> bool:
    """Start the commands and kill them; False if they came to their end before."""
    reader, writer = os.pipe()
    child = run(data, work, frozen, point, count, writer)
    os.close(writer)
    reached = os.read(reader, 1) == b"!"
    os.close(reader)
    if reached:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def outcome(work: Path) -> dict[str, bytes | str]:
    """All that a run leaves and that must not depend on kills."""
    found: dict[str, bytes | str] = {}
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        name = path.relative_to(work).as_posix()
        if path.name == "history.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = json.dumps([{**record, "seconds": 0} for record in records])
        elif path.name not in ("log.txt", "lock", "lock.holder", "files.txt") and "tensorboard" not in name:
            found[name] = path.read_bytes()
    return found


def trials(seed: int) -> Iterator[tuple[bool, str, int, float]]:
    """Endlessly: which run, where it is killed, at which arrival, after how many seconds; each point in its turn."""
    chance = random.Random(seed)
    while True:
        for frozen, points in ((True, FROZEN_POINTS), (False, TUNED_POINTS)):
            for point, most in points.items():
                yield frozen, point, chance.randint(1, most), chance.uniform(0, 0.006)


def main_kills(num_kills: int, seed: int) -> int:
    """Returns how many trials did not end as an undisturbed run."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    data = folder / "data"
    data.mkdir()
    make_data(data)
    expected = {}
    for frozen in (True, False):
        work = folder / f"undisturbed-{frozen}"
        work.mkdir()
        _, status = os.waitpid(run(data, work, frozen), 0)
        if status:
            print((work / "log.txt").read_text(), file=sys.stderr)
            return num_kills
        expected[frozen] = outcome(work)
    killed = failed = 0
    for frozen, point, count, delay in trials(seed):
        work = folder / "disturbed"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if not kill_once(data, work, frozen, point, count, delay):
            continue  # it was over before the signal came: no trial
        left = sorted(path.name for path in (work / "run" / "checkpoints").glob("*"))
        _, status = os.waitpid(run(data, work, frozen), 0)
        got = outcome(work)
        different = [
            name for name in got.keys() | expected[frozen].keys() if got.get(name) != expected[frozen].get(name)
        ]
        killed += 1
        failed += bool(status or different)
        state = "recovered" if not (status or different) else f"FAILED, exit status {status}, different: {different}"
        kind = "frozen" if frozen else "fine-tuned"
        print(f"{killed:3} {kind:10} {point:14} {count:3} +{1000 * delay:.1f} ms, {len(left)} files left: {state}")
        if status:
            print((work / "log.txt").read_text(), file=sys.stderr)
        if killed == num_kills:
            break
    print(f"{killed - failed} of {killed} kills recovered, byte for byte")
    shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(main_kills(options.kills, options.seed) > 0)
