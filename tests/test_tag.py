"""`truetag tag`: from photos and a table to tags, by commands that it prints; it goes on where it was stopped."""

import csv
import shlex

import pytest
from PIL import Image

from truetag.cli import main
from truetag.data.manifest import iterate_rows

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my photos").mkdir()
    lines = []
    for number in range(60):
        name = list(COLOURS)[number % 3]
        photo = Image.new("RGB", (16, 16), COLOURS[name])
        photo.putpixel((0, 0), (4 * number, 0, 0))  # no two of them are copies
        photo.save(tmp_path / "my photos" / f"{number}.png")
        lines.append([f"{number}.png", f"{name}, colour" if number % 2 else name, f"a {name} wall"])
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["File", "Keywords", "text"], *lines])
    return tmp_path


def run(capsys, folder, *options):
    arguments = ["tag", str(folder / "my photos"), str(folder / "t.csv"), "--out", str(folder / "out")]
    small = ["--backbone", "test_resnet", "--weights", "none"]
    code = main([*arguments, *small, *options])
    return code, capsys.readouterr()


def test_tags_come_out_and_every_step_is_a_command(folder, capsys):
    code, printed = run(capsys, folder)
    assert code == 0, printed.err
    commands = [shlex.split(line[2:]) for line in printed.err.splitlines() if line.startswith("$ ")]
    steps = ["import", "split", "vocabulary", "train", "evaluate", "predict", "audit"]
    assert [command[1] for command in commands] == steps
    assert (folder / "out" / "audit" / "index.html").is_file()
    with (folder / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["split"] for row in iterate_rows(folder / "out" / "data.jsonl")} == {"train", "validation", "test"}
    assert "most frequent: colour 30, blue 20, green 20, red 20" in printed.out
    (folder / "out" / "predictions.csv").rename(folder / "first.csv")
    assert main(commands[-2][1:]) == 0  # as printed
    assert (folder / "out" / "predictions.csv").read_bytes() == (folder / "first.csv").read_bytes()


def test_the_same_command_goes_on(folder, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("truetag.training.train.prepare_data", interrupt)
    code, printed = run(capsys, folder)
    assert code == 130
    assert "truetag: interrupted; the same command goes on" in printed.err
    monkeypatch.undo()
    code, printed = run(capsys, folder)
    assert code == 0
    assert printed.err.count("# done already") == 3
    code, printed = run(capsys, folder)
    assert code == 0
    assert printed.err.count("# done already") == 6  # training itself says that it is finished
    (folder / "t.csv").write_text("File,Keywords\n1.png,red\n")
    code, printed = run(capsys, folder)
    assert code == 2
    assert "was made of another table; give a new folder" in printed.err


def test_captions_by_their_column(folder, capsys):
    code, printed = run(capsys, folder, "--caption-column", "text")
    assert code == 0, printed.err
    assert "import captions" in printed.err
    words = (folder / "out" / "words.tsv").read_text().split()
    assert {"red", "wall"} <= set(words)
    assert "a" not in words


def test_a_folder_of_somebody_else_is_left_alone(folder, capsys):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").touch()
    code, printed = run(capsys, folder)
    assert code == 2
    assert "is not empty and was not made by this command" in printed.err


def test_a_table_without_labels_is_refused_by_its_import(folder, capsys):
    (folder / "t.csv").write_text("File,width\n1.png,3\n")
    code, printed = run(capsys, folder)
    assert code == 2
    assert "expected a column of tags, got the columns 'File', 'width'; name them with --tags-column" in printed.err
