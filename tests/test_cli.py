"""The command line as a user sees it: the help of every command, a small run through files, and mistakes."""

import json
import re
from pathlib import Path

import pytest

from truetag.cli import COMMANDS, RECIPE_SUMMARIES, main
from truetag.training.recipes import RECIPES

README = Path(__file__).resolve().parents[1] / "README.md"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = 0
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # how tyro ends after --help and after options that it cannot parse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", [*COMMANDS, *(f"train {name}" for name in RECIPES)])
def test_every_command_has_help(capsys, name):
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    assert f"usage: truetag {name}" in out


def test_overview_lists_every_command(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.MULTILINE), name


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_lists_one_line_per_recipe_and_the_best_first(capsys, arguments):
    _, out, _ = run(capsys, *arguments)
    listed = re.findall(r"^  (\S+)  ", out.partition("ecipes")[2].partition("settings")[0], re.MULTILINE)
    assert listed[0] == "best"
    assert sorted(listed) == sorted({name if not name.startswith("paper-") else "paper-RECIPE" for name in RECIPES})
    assert listed == list(RECIPE_SUMMARIES)


def test_a_full_run_through_files(tiny, tmp_path, capsys):
    table = tmp_path / "captions.csv"
    rows = [json.loads(line) for line in (tiny / "scenes.jsonl").read_text().splitlines()]
    lines = [f'{Path(row["image"]).name},"{caption}"\n' for row in rows for caption in row["captions"]]
    table.write_text("image,caption\n" + "".join(lines))
    (tmp_path / "test.txt").write_text(
        "".join(f"{Path(row['image']).name}\n" for row in rows if row["split"] == "test")
    )

    def ok(*arguments):
        code, out, err = run(capsys, *arguments)
        assert code == 0, err
        return out

    assert "80 rows" in ok("import", "captions", table, tiny / "photos", "--out", tmp_path / "all.jsonl")
    ok(
        "split",
        tmp_path / "all.jsonl",
        "--lists",
        "test",
        tmp_path / "test.txt",
        "--validation-fraction",
        ".2",
        "--out",
        tmp_path / "m.jsonl",
    )
    ok("vocabulary", tmp_path / "m.jsonl", "--size", "20", "--part-of-speech", "none", "--out", tmp_path / "v.tsv")
    out = ok("corrupt", tmp_path / "m.jsonl", "--swap-captions", "2", "--out", tmp_path / "n.jsonl")
    assert "captions_swapped 0.4" in out
    small = ("--backbone", "test_resnet", "--weights", "none", "--resolution", "32", "--stage1-epochs", "1")
    data = ("--data", tmp_path / "n.jsonl", "--vocabulary", tmp_path / "v.tsv")
    ok("train", "mlcn-star", *data, *small, "--stage2-epochs", "1", "--out", tmp_path / "star")
    ok("train", "nmn-fi", *data, *small, "--stage2-epochs", "1", "--out", tmp_path / "fi", "--from", tmp_path / "star")
    assert "truth: captions" in ok("evaluate", tmp_path / "fi", tmp_path / "m.jsonl")
    code, _, error = run(
        capsys, "predict", tmp_path / "fi", tiny / "photos", "--top-k", "3", "--out", tmp_path / "p.csv"
    )
    assert (code, "80 photos tagged" in error) == (0, True)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 81


def test_doctor_shows_weights_and_gpu(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "offline weights" in out
    assert "GPU" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evalute",), "did you mean 'evaluate'"),
        (("import", "cocoa"), "did you mean 'import coco'"),
        (("train",), "expected a recipe"),
        (("train", "nmn-fe"), "did you mean 'nmn-fi'"),
        (("train", "mlcn", "--data", "nowhere.jsonl", "--vocabulary", "v", "--out", "r"), "no such vocabulary"),
        (("evaluate", "nowhere", "nowhere.jsonl"), "not a run folder"),
        (("corrupt", "nowhere.jsonl", "--swap-captions", "2", "--out", "o.jsonl"), "nowhere.jsonl"),
        (("train", "mlcn", "--data", "d", "--vocabulary", "v", "--out", "r", "--dropout", "1.5"), "dropout: expected"),
        (("train", "mlcn", "--data", "d", "--vocabulary", "v", "--out", "r", "--droput", "0.5"), "droput"),
        (("vocabulary",), "MANIFEST|manifest|required"),
    ],
)
def test_mistakes_end_with_2_and_a_short_message(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert re.search(message, out + err)
    assert "Traceback" not in out + err
