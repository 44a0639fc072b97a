"""What comes of annotations as people have them, with two versions of the package, as a table.

    python benchmarks/doors.py --before CHECKOUT [--script CASES.sh]

CHECKOUT is an earlier version's source tree. The cases are those of `tests/data/door_cases.py`. A script of further
cases prints a line `### NAME` before each of them, and calls `truetag` and `python`. Writes benchmarks/doors.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "data"
_DRIVER = """
import contextlib, io, json, os, sys, tempfile, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from PIL import Image
from door_cases import doors
from truetag.cli import main
from truetag.data.manifest import iterate_rows

def labels(manifest):
    said = {}
    for row in iterate_rows(manifest):
        said[row["image"] or row["video"]] = row["tags"] if row["tags"] is not None else row["captions"]
        for field in ("unknown", "rejected"):
            if row.get(f"{field}_tags"):
                said[f"{field} of {row['image']}"] = row[f"{field}_tags"]
    return said

for door in doors():
    folder = Path(tempfile.mkdtemp(dir="."))
    media, out, table = folder / "photos", folder / "m.jsonl", folder / door.file
    for name in door.photos:
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(media / name)
    table.write_bytes(door.content)
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(["import", door.command, str(table), str(media), "--out", str(out), *door.options])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 1
    message = error.getvalue().replace(str(folder) + "/", "")
    if isinstance(door.expected, str):
        is_right = code == 2 and door.expected in message
    else:
        is_right = code == 0 and labels(out) == door.expected
    came = json.dumps(labels(out), ensure_ascii=False) if code == 0 else message
    print(json.dumps({"name": f"{door.command}: {door.name}", "right": is_right, "code": code, "came": came}))
"""


@dataclass(frozen=True)
class Doors:
    """Where the versions and further cases are."""

    before: Path
    """The source tree of an earlier version."""
    script: Path | None = None
    """A shell script of further cases."""


def main(options: Doors) -> None:
    trees = {"before": options.before.resolve(), "now": ROOT}
    cases = {name: _run_cases(tree) for name, tree in trees.items()}
    commits = {name: _commit(tree) for name, tree in trees.items()}
    lines = [
        "# Annotations as people have them",
        "",
        f"`python benchmarks/doors.py --before CHECKOUT`, commit {commits['before']} before, {commits['now']} now.",
        "The cases are those of `tests/data/door_cases.py`, each an import of a table made for it. *Right* is the",
        "manifest that the table means, or, where it is in doubt, a message that says so.",
        "",
        f"Right: {sum(c['right'] for c in cases['before'])} of {len(cases['before'])} before, "
        f"{sum(c['right'] for c in cases['now'])} of {len(cases['now'])} now.",
        "",
        "| case | before | now |",
        "|---|---|---|",
    ]
    for before, now in zip(cases["before"], cases["now"], strict=True):
        lines.append(f"| {before['name']} | {_cell(before)} | {_cell(now)} |")
    if options.script is not None:
        sections = {name: _run_script(options.script.resolve(), tree) for name, tree in trees.items()}
        lines += ["", "Further cases, and what is printed:", "", "| case | before | now |", "|---|---|---|"]
        for name, now in sections["now"].items():
            lines.append(f"| {name} | {_shown(sections['before'].get(name, ''))} | {_shown(now)} |")
    (ROOT / "benchmarks" / "doors.md").write_text("\n".join([*lines, ""]))


def _run_cases(tree: Path) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _DRIVER, str(CASES)]
        done = subprocess.run(
            command, cwd=folder, env=_environment(tree), stdout=subprocess.PIPE, check=True, text=True
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _run_script(script: Path, tree: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(tree) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = ["bash", str(script)]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    parts = done.stdout.replace(f"{tree}/", "").split("\n### ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def _environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _commit(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def _cell(case: dict) -> str:
    kind = (
        "right" if case["right"] else "traceback" if case["code"] == 1 else "refused" if case["code"] else "**wrong**"
    )
    came = case["came"] if not case["right"] or case["code"] else ""
    return kind + (f": {_shown(came, 110)}" if came else "")


def _shown(text: str, most: int = 300) -> str:
    """The end of a text, which says what came of it, as a cell of a table."""
    line = " / ".join(part.strip() for part in text.splitlines() if part.strip(" ╭╮╰╯─│"))
    line = line if len(line) <= most else f".. {line[-most:]}"
    return line.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main(tyro.cli(Doors))
