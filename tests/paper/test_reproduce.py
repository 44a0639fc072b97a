"""Tables and figures come from the official files, and a reproduction resumes after an interruption."""

import json
import re

import matplotlib.figure
import pytest

from truetag.captioning.folder import open_captioner
from truetag.cli import main
from truetag.data.manifest import iterate_rows
from truetag.demo.moving_scenes import draw_clips
from truetag.demo.scenes import draw_scenes
from truetag.paper import captioners
from truetag.paper.tables import CAPTION_COLUMNS, TABLE1
from truetag.reports.figures import plot_gradients
from truetag.runs.folder import open_run

SMALL = ["--backbone", "test_resnet", "--weights", "none", "--resolution", "32", "--num-words", "12"]


def test_figure_3_has_small_gradients_where_a_tag_is_probably_wrong():
    panel = plot_gradients().axes[0]
    assert isinstance(panel.figure, matplotlib.figure.Figure)
    curves = {line.get_label(): line.get_xydata() for line in panel.lines}
    for value, sign in ((0, 1), (1, -1)):
        plain, spared = curves[f"z = {value}, no noise model"], curves[f"z = {value}, noise model"]
        assert plain[:, 1] == pytest.approx(plain[:, 0] - value)
        # the most surprising tag: p near 1 where the tag is absent, near 0 where it is present
        surprising = -1 if value == 0 else 0
        assert abs(plain[surprising, 1]) > 0.99
        assert abs(spared[surprising, 1]) < 0.01
        assert (sign * spared[:, 1] > -1e-12).all()


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Drawn scenes with the files and names of COCO 2014."""
    folder = tmp_path_factory.mktemp("coco")
    rows = list(iterate_rows(draw_scenes(folder / "scenes", 24, 8, 8, size=32)))
    (folder / "annotations").mkdir()
    for part, splits in (("train", ("train",)), ("val", ("validation", "test"))):
        images, annotations = [], []
        (folder / f"{part}2014").mkdir()
        for number, row in enumerate((row for row in rows if row["split"] in splits), 100 * len(splits)):
            name = f"{number:012d}.png"
            (folder / "scenes" / row["image"]).rename(folder / f"{part}2014" / name)
            images.append({"id": number, "file_name": name})
            for caption in row["captions"]:
                annotations.append({"id": len(annotations), "image_id": number, "caption": caption})
        content = json.dumps({"images": images, "annotations": annotations})
        (folder / "annotations" / f"captions_{part}2014.json").write_text(content)
    return folder


def test_table_1_from_official_files_resumes(coco, tmp_path, capsys):
    command = ["reproduce", "table1", "--data", str(coco), "--out", str(tmp_path), *SMALL, "--batch-size", "8"]
    assert main([*command, "--plan-only"]) == 0
    assert "8 runs on 24 photos (and 8 for validation, 8 for the test)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(command) == 0
    table = capsys.readouterr().out
    lines = json.loads((tmp_path / "table1.json").read_text())
    assert [line["model"] for line in lines] == [row.label for row in TABLE1]
    for row, line in zip(TABLE1, lines, strict=True):
        assert tuple(line["paper"]) == row.published
        if row.recipe is None:
            assert line["ours"] is None
        else:
            metrics = tmp_path / "runs" / "coco-swap0" / row.recipe / "metrics" / "manifest-test.json"
            assert line["ours"][-1] == pytest.approx(100 * json.loads(metrics.read_text())["count_mean_ap"])
            assert f"{line['ours'][-1]:.2f}" in table
    star, first = (open_run(tmp_path / "runs" / "coco-swap0" / name) for name in ("mlcn-star", "mlcn"))
    assert [epoch["stage"] for epoch in star.history()] == [1, 1, 1, 2, 2]
    assert star.history()[:3] == first.history()
    page = (tmp_path / "index.html").read_text()
    assert "Table 1" in page
    assert "backbone = test_resnet" in page
    assert "24 photos for train" in page
    assert re.search(r"8 photos for test, \d+ words", page)
    assert page.index("<th>All</th>") < page.index("<th>VB</th>")  # what a narrow screen shows first
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert main(command) == 0
    assert "every run is finished" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")} == written

    assert main([*command, "--seeds", "2"]) == 0  # the first seed is there already
    printed = capsys.readouterr()
    assert "8 runs on 24 photos" in printed.err
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for row, line in zip(TABLE1, json.loads((tmp_path / "table1.json").read_text()), strict=True):
        if row.recipe is not None:
            paths = [f"runs/{seed}coco-swap0/{row.recipe}/metrics/manifest-test.json" for seed in ("", "seed-1/")]
            values = [100 * json.loads((tmp_path / path).read_text())["count_mean_ap"] for path in paths]
            assert line["ours"][-1] == pytest.approx(sum(values) / 2)
            assert line["spread"][-1] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
            assert f"{line['ours'][-1]:.2f} ± {line['spread'][-1]:.2f}" in printed.out


def test_figure_4_shows_photos_of_the_test_split(coco, tmp_path, capsys):
    command = ["reproduce", "figure4", "--data", str(coco), "--out", str(tmp_path), *SMALL, "--batch-size", "8"]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "figure4.png")
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure4.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in (tmp_path / "runs" / "coco-swap2").iterdir()) == ["mlcn", "mlcn-star", "nmn-fd"]
    assert main(["reproduce", "figure3", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64") == 2


@pytest.fixture
def msrvtt(tmp_path):
    """Drawn clips with the files and names of MSR-VTT."""
    rows = list(iterate_rows(draw_clips(tmp_path / "drawn", 6, 4, 0, size=32, frames_per_scene=3)))
    (tmp_path / "TrainValVideo").mkdir()
    videos, sentences = [], []
    for number, row in enumerate(rows):
        (tmp_path / "drawn" / row["video"]).rename(tmp_path / "TrainValVideo" / f"video{number}.mp4")
        split = {"train": "train", "validation": "validate"}[row["split"]]
        videos.append({"video_id": f"video{number}", "split": split})
        sentences += [{"video_id": f"video{number}", "caption": caption} for caption in row["captions"]]
    content = json.dumps({"videos": videos, "sentences": sentences})
    (tmp_path / "train_val_videodatainfo.json").write_text(content)
    return tmp_path


def test_table_3_from_clips_laid_out_like_msrvtt(msrvtt, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["reproduce", "table3", "--data", str(msrvtt), "--out", str(out), *SMALL, "--num-frames", "4"]
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 0
    assert "8 runs on 6 clips" in capsys.readouterr().err
    lines = json.loads((out / "table3.json").read_text())
    assert [line["level"] for line in lines] == ["frame"] * 4 + ["bag"] * 4
    assert all(line["ours"][-1] > 0 for line in lines)
    config = open_run(out / "runs" / "msrvtt-swap0" / "mil").config
    assert (config.batch_size, config.frames_at_a_time) == (1, 2)
    assert open_run(out / "runs" / "msrvtt-swap0-frame" / "mlcn").config.batch_size == 4


def test_table_4_is_gone_on_with_and_shares_the_runs_of_table_3(msrvtt, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    small = [
        "--captioner",
        "epochs",
        "15",
        "batch_size",
        "1",
        "learning_rate",
        "0.02",
        "state_size",
        "16",
        "word_size",
        "8",
    ]
    settings = [*SMALL, "--num-frames", "4", "--cache", str(tmp_path / "cache")]
    command = ["reproduce", "table4", "--data", str(msrvtt), "--out", str(out), *settings, *small]
    assert main([*command, "--plan-only"]) == 0
    plan = capsys.readouterr().err
    assert "4 runs on 6 clips" in plan
    assert "3 captioners with" in plan
    assert not out.exists()
    train = captioners.train_captioner

    def interrupted(config, data, folder, **rest):
        if folder.name == "mil-nmn-fi":
            raise KeyboardInterrupt
        return train(config, data, folder, **rest)

    monkeypatch.setattr(captioners, "train_captioner", interrupted)
    assert main(command) == 130
    folder = out / "runs" / "msrvtt-swap0" / "captioners" / "mil-star"
    finished = (folder / "captioner.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(captioners, "train_captioner", train)
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "2 captioners with" in printed.err
    assert (folder / "captioner.safetensors").stat().st_mtime_ns == finished
    lines = json.loads((out / "table4.json").read_text())
    assert [line["model"] for line in lines[:3]] == ["MIL*", "MIL-FI", "MIL-FD"]
    assert all(len(line["ours"]) == 4 and line["ours"][2] > 0 for line in lines[:3])
    assert [line["ours"] for line in lines[3:]] == [None] * 8
    assert "| MIL-FI | paper | 36.50 | 36.20 | 58.30 | 26.40 |" in printed.out
    page = (out / "index.html").read_text()
    assert all(f"<th>{column}</th>" in page for column in CAPTION_COLUMNS)
    assert open_captioner(folder).config.select == "last"
    assert main([*command[:-1], "9"]) == 2
    assert "was begun with word_size 8, got 9" in capsys.readouterr().err
    assert main(["reproduce", "table3", "--data", str(msrvtt), "--out", str(out), *settings, "--plan-only"]) == 0
    assert "4 runs on 6 clips" in capsys.readouterr().err  # the other four are those of table 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["table1", "--data", "EMPTY", "--captioner", "epochs", "2"],
            "captioner: expected with table4 only, got table1",
        ),
        (
            ["table4", "--data", "EMPTY", "--captioner", "epoch", "2"],
            "'epoch' is not a setting; did you mean 'epochs'?",
        ),
        (["table4", "--data", "EMPTY", "--captioner", "epochs", "x"], "captioner: epochs: expected a whole number"),
        (["table1"], "data: table1 needs the folder of the official files"),
        (["table1", "--data", "EMPTY"], "captions_train2014.json, got no such file"),
        (["table3", "--data", "EMPTY"], "train_val_videodatainfo.json, got no such file"),
        (["table1", "--data", "EMPTY", "--pooling", "max"], "pooling: the rows of table1 decide it, got 'max'"),
        (["table2", "--data", "EMPTY", "--noise-model", "fi"], "noise_model: the rows of table2 decide it"),
    ],
)
def test_misuse_is_refused(tmp_path, capsys, arguments, message):
    arguments = [str(tmp_path) if argument == "EMPTY" else argument for argument in arguments]
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_other_settings_are_refused(coco, tmp_path, capsys):
    command = ["reproduce", "figure4", "--data", str(coco), "--out", str(tmp_path), *SMALL]
    assert main([*command, "--stage1-epochs", "1", "--stage2-epochs", "1"]) == 0
    assert main(command) == 2
    assert "was begun with stage1_epochs 1, got 3" in capsys.readouterr().err
    assert main([*command, "--vocabulary", str(tmp_path / "coco" / "vocabulary.tsv")]) == 2
    assert "was begun with vocabulary None" in capsys.readouterr().err
