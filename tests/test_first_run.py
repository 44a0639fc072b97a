"""What people meet first: text for paths, too few rows, tables for manifests, unfinished runs, nothing to tag."""

import dataclasses
import json
import subprocess
import sys

import pytest
from PIL import Image

from truetag.cli import main
from truetag.data.manifest import iterate_rows, write_manifest
from truetag.data.splits import split
from truetag.evaluate import evaluate
from truetag.prediction.tagging import predict
from truetag.training.recipes import recipe
from truetag.training.train import train

SMALL = {"backbone": "test_resnet", "weights": "none", "resolution": 32, "stage1_epochs": 1, "stage2_epochs": 1}


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        Image.new("RGB", (8, 8), (12 * number, 90, 0)).save(tmp_path / f"{number}.png")
    splits = ["val", "Test", "holdout", "training"]
    rows = [
        {"id": str(n), "image": f"{n}.png", "tags": [("cat", "dog")[n % 2]], "split": splits[min(n // 3, 3)]}
        for n in range(20)
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    (tmp_path / "w.txt").write_text("dog\ncat\n")
    return tmp_path


def small(name="mlcn"):
    return dataclasses.replace(recipe(name), **SMALL)


def test_text_is_taken_for_paths(folder, capsys):
    run = train(small(), str(folder / "m.jsonl"), str(folder / "w.txt"), str(folder / "run"))
    assert predict(str(run.folder), str(folder), str(folder / "p.csv")) == 20
    assert "20 photos tagged" in capsys.readouterr().err
    assert evaluate(str(run.folder), str(folder / "m.jsonl"))["num_examples"] == 3
    assert split(str(folder / "m.jsonl"), str(folder / "s.jsonl"), test_fraction=0.5)["train"] < 11


def test_usual_names_of_splits_mean_the_same(folder, capsys):
    assert [row["split"] for row in iterate_rows(folder / "m.jsonl")][::3][:4] == [
        "validation",
        "test",
        "holdout",
        "train",
    ]
    train(small(), folder / "m.jsonl", folder / "w.txt", folder / "run")
    said = capsys.readouterr().err
    assert "3 rows of split 'test' not learnt from" in said
    assert "3 rows of split 'holdout' not learnt from" in said
    assert "word\tpresent" in (folder / "run" / "labels.tsv").read_text()
    assert "dog\t6\t5" in (folder / "run" / "labels.tsv").read_text()  # of 11 training rows
    assert evaluate(folder / "run", folder / "m.jsonl", split="eval")["num_examples"] == 3


def refusal(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_one_to_three_rows_are_too_few(folder, capsys, num_rows):
    rows = [row | {"split": None} for row in iterate_rows(folder / "m.jsonl")][:num_rows]
    write_manifest(folder / "few.jsonl", rows)
    data = ("--data", folder / "few.jsonl", "--vocabulary", folder / "w.txt", "--out", folder / "few")
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    message = refusal(capsys, "train", "mlcn", *data, *settings)
    assert f"few.jsonl: expected enough rows to learn from and to hold some out, got {num_rows} row" in message


def test_an_unfinished_run(folder, capsys):
    run = train(small(), folder / "m.jsonl", folder / "w.txt", folder / "run")
    (run.folder / "classifier.safetensors").unlink()
    for arguments in (
        ("predict", run.folder, folder, "--out", folder / "p.csv"),
        ("evaluate", run.folder, folder / "m.jsonl"),
    ):
        assert "the run is not finished; go on with the command that began it and --resume" in refusal(
            capsys, *arguments
        )


def test_nothing_to_tag(folder, capsys):
    assert "inputs: expected photos, clips, folders or manifests, got none" in refusal(
        capsys, "predict", folder / "run", "--out", folder / "p.csv"
    )


def test_a_table_is_no_manifest(folder, capsys):
    (folder / "t.csv").write_text("image,tags\n")
    data = ("--data", folder / "t.csv", "--vocabulary", folder / "w.txt", "--out", folder / "run")
    assert "make one with `truetag import tags`" in refusal(capsys, "train", "mlcn", *data)


def test_folders_say_what_they_pass_over(folder, capsys):
    run = train(small(), folder / "m.jsonl", folder / "w.txt", folder / "run")
    (folder / "new").mkdir()
    for name in ("a.PNG", "._b.png", "notes.pdf", "README"):
        Image.new("RGB", (8, 8)).save(folder / "new" / name, "PNG")
    predict(run.folder, [folder / "new"], folder / "p.jsonl")
    assert [json.loads(line)["id"] for line in (folder / "p.jsonl").read_text().splitlines()] == ["a.PNG"]
    assert "2 files passed over (1 x .pdf, 1 x no suffix)" in capsys.readouterr().err


def test_python_m_truetag():
    done = subprocess.run([sys.executable, "-m", "truetag", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


@pytest.mark.parametrize("command", ["doctor", "--help", "train --help"])
def test_a_reader_that_leaves_early_is_no_error(command):
    with subprocess.Popen(
        [sys.executable, "-m", "truetag", *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == b""
    assert process.returncode in (0, 141)


def test_nothing_needs_what_windows_lacks():
    program = (
        "import sys; sys.modules['fcntl'] = None; import signal; "
        "[delattr(signal, name) for name in ('SIGHUP', 'SIGUSR1', 'SIGKILL', 'SIGALRM')]; "
        "import truetag, truetag.cli, truetag.training.train, truetag.prediction.tagging, truetag.tag"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
