"""MSR-VTT: the official JSON becomes a manifest of the clips that can be used."""

import json

import pytest
from made_clips import make_clip

from truetag.cli import main
from truetag.data.imports import ImportOptions, import_msrvtt
from truetag.data.manifest import iterate_rows, read_manifest
from truetag.data.readers import read_msrvtt
from truetag.errors import InputError


@pytest.fixture
def folder(tmp_path):
    videos = [
        {"video_id": f"video{n}", "split": split, "category": 9, "url": "x", "start time": 1.5, "id": n}
        for n, split in enumerate(["train", "train", "validate", "test", "test"])
    ]
    sentences = [
        {"sen_id": n, "video_id": f"video{n % 5}", "caption": f" a dog of {n}"} for n in range(12) if n % 5 != 4
    ]
    content = {"info": {}, "videos": videos, "sentences": [*sentences, {"video_id": "other", "caption": "a cat"}]}
    (tmp_path / "v.json").write_text(json.dumps(content))
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips" / "video0.mp4", [50] * 4)
    make_clip(tmp_path / "clips" / "video1.webm", [50] * 4, codec="libvpx", options={"deadline": "realtime"})
    make_clip(tmp_path / "clips" / "video2.mkv", [50] * 4)
    (tmp_path / "clips" / "video3.mp4").write_text("no clip")
    make_clip(tmp_path / "clips" / "video4.avi", [50] * 4, codec="mpeg4")
    return tmp_path


def test_rows_are_those_of_the_file(folder):
    rows = read_msrvtt(folder / "v.json").rows
    assert rows[0] == {
        "id": "video0",
        "video": "video0.mp4",
        "captions": ["a dog of 0", "a dog of 5", "a dog of 10"],
        "split": "train",
    }
    assert [row["split"] for row in rows] == ["train", "train", "validation", "test", "test"]
    assert rows[4]["captions"] == []


def test_import_keeps_the_clips_that_can_be_used(folder, capsys):
    summary = import_msrvtt(folder / "v.json", folder / "clips", folder / "m.jsonl")
    assert [row["video"] for row in iterate_rows(folder / "m.jsonl")] == ["video0.mp4", "video1.webm", "video2.mkv"]
    assert read_manifest(folder / "m.jsonl").header == {"media_root": "clips"}
    reasons = {entry.id: entry.reason for entry in summary.skipped}
    assert reasons["video4"] == "no captions"
    assert reasons["video3"].startswith("not a clip")
    assert len(list(folder.glob("m*.skipped.jsonl"))) == 1
    assert "2 of 5 " in capsys.readouterr().err
    assert (
        import_msrvtt(
            folder / "v.json", folder / "clips", folder / "n.jsonl", options=ImportOptions("held-out", check=False)
        ).num_rows
        == 4
    )
    assert {row["split"] for row in iterate_rows(folder / "n.jsonl")} == {"held-out"}


def test_on_the_command_line(folder, capsys):
    out = folder / "m.parquet"
    assert main(["import", "msrvtt", str(folder / "v.json"), str(folder / "clips"), "--out", str(out)]) == 0
    assert "3 rows" in capsys.readouterr().out
    assert [row["split"] for row in iterate_rows(out)] == ["train", "train", "validation"]


def test_without_any_clip_the_message_says_what_is_looked_for(folder):
    (folder / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        import_msrvtt(folder / "v.json", folder / "empty", folder / "m.jsonl")
    assert "of 5 photos cannot be used: 5 x no such file; the first is " in str(caught.value)
    assert "video0.mp4 (no such file)" in str(caught.value)
    with pytest.raises(InputError, match="no such folder of photos or clips"):
        import_msrvtt(folder / "v.json", folder / "none", folder / "m.jsonl")
    (folder / "v.json").write_text('{"videos": [], "sentences": []}')
    with pytest.raises(InputError, match="no photo or clip of it can be used"):
        import_msrvtt(folder / "v.json", folder / "clips", folder / "m.jsonl")


def test_names_that_lead_out_of_the_folder(folder):
    content = json.loads((folder / "v.json").read_text())
    (folder / "clips" / "video0.mp4").rename(folder / "outside.mp4")
    (folder / "clips" / "video2.mkv").unlink()
    (folder / "clips" / "video2.mkv").symlink_to(folder / "outside.mp4")
    content["videos"][0]["video_id"] = content["sentences"][0]["video_id"] = "../outside"
    (folder / "v.json").write_text(json.dumps(content))
    summary = import_msrvtt(
        folder / "v.json", folder / "clips", folder / "m.jsonl", options=ImportOptions(max_skipped=1.0)
    )
    assert [row["id"] for row in iterate_rows(folder / "m.jsonl")] == ["video1"]
    assert sum("leads outside" in entry.reason for entry in summary.skipped) == 2
