"""Help and mistakes answer at once: what takes seconds to import is imported when the work begins.

Counted in modules, not in seconds, which depend on the machine.
"""

import subprocess
import sys

import pytest

SLOW = {"torch", "torchvision", "timm", "datasets", "sklearn", "scipy", "matplotlib", "accelerate", "pycocoevalcap"}
PROGRAM = f"""
import sys
from truetag.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as error:
    code = error.code
print("modules", code, len(sys.modules), *sorted({SLOW!r} & set(sys.modules)))
"""
MOST_MODULES = 1000
LIGHT = ["tag", "import tags", "import captions", "import folders", "import coco", "import karpathy", "import msrvtt"]
LIGHT += ["import open-images", "split", "vocabulary", "train", "evaluate", "predict", "audit", "clean", "doctor"]
LIGHT += ["export", "export-issues", "report", "features"]


def modules(tmp_path, *arguments):
    """The exit code, how many modules there are, which slow ones, and what was said."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    code, count, *slow = done.stdout.splitlines()[-1].removeprefix("modules ").split()
    return int(code), int(count), slow, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", ["--help", "import --help", "--version", "nonsense", "train", "train nonsense"])
def test_the_overview_needs_next_to_nothing(tmp_path, arguments):
    _, count, slow, _ = modules(tmp_path, *arguments.split())
    assert slow == []
    assert count < MOST_MODULES


@pytest.mark.parametrize("command", LIGHT)
@pytest.mark.parametrize("option", ["--help", "--no-such-option"])
def test_help_and_wrong_options(tmp_path, command, option):
    code, count, slow, said = modules(tmp_path, *command.split(), *(["best"] if command == "train" else []), option)
    assert code == (0 if option == "--help" else 2)
    assert slow == []
    assert count < MOST_MODULES
    assert "truetag" in said


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Files of which one thing is wrong each."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "table.csv").write_text("image,tags\na.jpg,dog\n")
    (folder / "header.jsonl").write_text("no JSON\n")
    (folder / "good.jsonl").write_text('{"id": "a", "image": "a.jpg", "tags": ["dog"]}\n')
    (folder / "words.txt").write_text("dog\n")
    (folder / "twice.txt").write_text("dog\ndog\n")
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text("{}")
    (folder / "full").mkdir()
    (folder / "full" / "a.txt").write_text("a")
    return folder


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train mlcn --data good.jsonl --vocabulary no.txt --out o", "no.txt: no such vocabulary file"),
        ("train mlcn --data good.jsonl --vocabulary twice.txt --out o", "twice.txt"),
        ("train mlcn --data no.jsonl --vocabulary words.txt --out o", "no.jsonl: no such manifest file"),
        ("train mlcn --data table.csv --vocabulary words.txt --out o", "make one with `truetag import tags`"),
        ("train mlcn --data header.jsonl --vocabulary words.txt --out o", "header.jsonl, line 1: not a JSON object"),
        ("train mlcn --data good.jsonl --vocabulary words.txt --out full", "out: full exists already"),
        ("train mlcn --data good.jsonl --vocabulary words.txt --out run", "an unfinished run: give --resume"),
        ("train mlcn --data good.jsonl --vocabulary words.txt --out o --from full", "full is not a run folder"),
        ("train mlcn --data good.jsonl --vocabulary words.txt --out o --dropout 2", "dropout: expected a number"),
        ("train mlcn --data good.jsonl --vocabulary words.txt --out o --seeds 0", "seeds: expected at least 1"),
        ("predict no a.jpg --out p.csv", "inputs: no such photo"),
        ("predict no full --out p.csv", "no is not a run folder"),
        ("predict run full --out p.csv", "the run is not finished"),
        ("predict run full --out p.zip", "expected a name that ends in"),
        ("predict run full --out p.csv --shard 0/4", "shard: expected NUMBER/COUNT"),
        ("predict run header.jsonl --out p.csv", "line 1: not a JSON object"),
        ("evaluate full good.jsonl", "full is not a run folder"),
        ("evaluate run good.jsonl", "the run is not finished"),
        ("audit full good.jsonl --out o", "full is not a run folder"),
        ("audit --features no.npy --tags t.csv --out o", "no.npy"),
        ("audit --out o", "audit: expected RUN MANIFEST, or"),
        ("split no.jsonl --validation-fraction 0.1 --out o.jsonl", "no.jsonl: no such manifest file"),
        ("vocabulary no.jsonl --out v.tsv", "no.jsonl: no such manifest file"),
        ("import tags no.csv full --out m.jsonl", "no.csv: no such"),
        ("import coco no.json full --out m.jsonl", "no.json: no such annotation file"),
        ("export full --out o --format timm", "full is not a run folder"),
        ("export run --out o --format safetensors", "the run is not finished"),
        ("export run --out o --format timm --clips", "clips: expected with --format onnx only"),
        ("export run --out o --format timm --push-to-hub tagger", "push_to_hub: expected OWNER/NAME"),
        ("export-issues full --formats coco --out o", "no such file of `truetag audit`"),
        ("clean no.jsonl --issues i.csv --out c.jsonl", "no.jsonl: no such manifest file"),
        ("report full", "runs: expected a run folder, or a folder of runs"),
        ("report run run", "runs: expected different folders, got 'run' twice"),
        ("report run --issues no.csv", "no.csv: no such list of issues"),
        ("report run --out words.txt", "out: expected a folder"),
        ("tag no table.csv --out o", "no: "),
    ],
)
def test_mistakes(folder, command, message):
    code, count, slow, said = modules(folder, *command.split())
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert slow == []
    assert count < MOST_MODULES
