"""The cache of frames: whole or not at all, reused, resumed after a kill, never stale, honest about broken clips."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from made_clips import make_clip
from PIL import Image

from truetag.errors import InputError
from truetag.media import frame_cache
from truetag.media.clips import sample_frames
from truetag.media.files import MediaFiles, SkipList
from truetag.media.frame_cache import cached_frames


@pytest.fixture
def clips(tmp_path):
    """Four clips of 12 frames."""
    paths = [make_clip(tmp_path / f"clip{n}.mp4", [20 * n + 10 * i for i in range(12)]) for n in range(4)]
    return named(paths)


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded."""
    calls = []
    original = frame_cache.iterate_frames
    monkeypatch.setattr(
        frame_cache, "iterate_frames", lambda path, *rest: (calls.append(path.name), original(path, *rest))[1]
    )
    return calls


def named(paths):
    return MediaFiles([path.name for path in paths], paths, [None] * len(paths))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_frames_are_those_of_the_clips(clips, tmp_path):
    skips = SkipList()
    cached = cached_frames(clips, skips, tmp_path / "cache", 5)
    assert not len(skips)
    assert [[path.name for path in paths] for paths in cached] == [[f"{n:02d}.jpg" for n in range(5)]] * 4
    for path, paths in zip(clips.paths, cached, strict=True):
        digest = paths[0].parent.name
        assert paths[0].parent == tmp_path / "cache" / "frames" / "5" / digest[:2] / digest
        for expected, found in zip(sample_frames(path, 5), paths, strict=True):
            with Image.open(found) as photo:
                np.testing.assert_allclose(np.asarray(photo, float), np.asarray(expected, float), atol=3)


def test_a_clip_of_fewer_frames_is_a_smaller_bag_and_more_than_a_hundred_keep_their_order(clips, tmp_path):
    assert [len(paths) for paths in cached_frames(clips, SkipList(), tmp_path / "cache")] == [12] * 4
    long = named([make_clip(tmp_path / "long.mp4", [n % 250 for n in range(120)])])
    (paths,) = cached_frames(long, SkipList(), tmp_path / "cache", 200)
    assert [int(path.stem) for path in paths] == list(range(120))


def test_second_use_decodes_nothing_and_new_clips_only_themselves(clips, tmp_path, decoded):
    first = cached_frames(clips.select([0, 1]), SkipList(), tmp_path / "cache")
    decoded.clear()
    assert cached_frames(clips.select([0, 1]), SkipList(), tmp_path / "cache") == first
    assert decoded == []
    cached_frames(clips, SkipList(), tmp_path / "cache")
    assert sorted(decoded) == ["clip2.mp4", "clip3.mp4"]
    cached_frames(clips, SkipList(), tmp_path / "cache", 3)  # another number is another cache
    assert len(decoded) == 6


def test_a_clip_is_known_by_its_content(clips, tmp_path, decoded):
    first = cached_frames(clips, SkipList(), tmp_path / "cache")
    decoded.clear()
    moved = tmp_path / "moved.mp4"
    shutil.copy(clips.paths[0], moved)
    assert cached_frames(named([moved, moved]), SkipList(), tmp_path / "cache") == [first[0]] * 2
    assert decoded == []
    moved.write_bytes(clips.paths[1].read_bytes())
    assert cached_frames(named([moved]), SkipList(), tmp_path / "cache") == [first[1]]
    make_clip(moved, [99] * 3)
    assert len(cached_frames(named([moved]), SkipList(), tmp_path / "cache")[0]) == 3
    assert decoded == ["moved.mp4"]


def test_broken_clips_are_listed_and_remembered(clips, tmp_path, decoded, monkeypatch):
    clips.paths[1].write_text("no clip")
    clips.paths[2].unlink()
    for turn in range(2):
        skips = SkipList(0.5, 4)
        cached = cached_frames(clips, skips, tmp_path / "cache")
        assert [len(paths) for paths in cached] == [12, 0, 0, 12]
        reasons = {entry.id: entry.reason for entry in skips}
        assert reasons["clip2.mp4"] == "no such file"
        assert reasons["clip1.mp4"].startswith("not a clip")
        assert decoded.count("clip1.mp4") == 1, turn
    with (tmp_path / "cache" / "frames" / "26" / "broken.jsonl").open("a") as file:
        file.write('{"digest": "torn')
    monkeypatch.setattr(frame_cache, "PYAV", "another")  # which may know better
    cached_frames(clips, SkipList(0.5, 4), tmp_path / "cache")
    assert decoded.count("clip1.mp4") == 2


def test_clips_outside_the_root_are_skipped(clips, tmp_path):
    (tmp_path / "root").mkdir()
    fenced = MediaFiles(clips.ids, clips.paths, [tmp_path / "root"] * 4)
    skips = SkipList(1.0, 4)
    cached = cached_frames(fenced, skips, tmp_path / "cache")
    assert [entry.reason.partition(",")[0] for entry in skips] == ["leads outside the media root"] * 4
    assert cached == [[]] * 4


def test_too_many_broken_clips_stop(clips, tmp_path):
    clips.paths[1].write_text("no clip")
    clips.paths[2].unlink()
    with pytest.raises(InputError, match=r"more than the share 0\.4 of 4 .* cannot be used: "):
        cached_frames(clips, SkipList(0.4, 4), tmp_path / "cache")
    skips = SkipList(0.5, 4)
    cached_frames(clips, skips, tmp_path / "cache")
    assert len(skips) == 2
    with pytest.raises(InputError, match="num_frames: expected at least 1, got 0"):
        cached_frames(clips, skips, tmp_path / "cache", 0)


def test_frames_that_do_not_fit_are_refused(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frame_cache, "_FIRST_CLIPS", 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"frames of 4 clips need about 0\.1 MB, but .* has 0\.1 MB free"):
        cached_frames(clips, SkipList(), tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setattr(frame_cache, "_FIRST_CLIPS", 2)
    shutil.rmtree(tmp_path / "cache")
    cached_frames(clips, SkipList(), tmp_path / "cache")
    assert "frames of 4 clips: about 0.1 MB on disk, about " in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_of_a_clip(clips, tmp_path, monkeypatch):
    calls = []

    def fail(handle):
        calls.append(handle)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_cache.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        cached_frames(clips, SkipList(), tmp_path / "cache")
    assert str(caught.value.filename).startswith(str(tmp_path / "cache" / "frames"))
    monkeypatch.undo()
    folders = [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and len(path.name) > 4]
    assert {len(list(folder.iterdir())) for folder in folders if folder.name != "frames"} <= {12}
    assert [len(paths) for paths in cached_frames(clips, SkipList(), tmp_path / "cache")] == [12] * 4


def test_what_a_killed_run_left_is_written_anew(clips, tmp_path):
    whole = cached_frames(clips, SkipList(), tmp_path / "cache")
    folder = whole[0][0].parent
    before = contents(tmp_path / "cache")
    half = folder.with_name(f".{folder.name}.new")
    folder.rename(half)
    (half / "11.jpg").write_bytes(b"half")
    (half / "99.jpg").write_bytes(b"more")
    assert cached_frames(clips, SkipList(), tmp_path / "cache") == whole
    assert contents(tmp_path / "cache") == before


def test_ctrl_c_stops_between_clips_and_the_next_run_goes_on(clips, tmp_path, monkeypatch, capsys):
    original = frame_cache._write_clip

    def write(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(frame_cache, "_write_clip", original)
        return original(*arguments)

    monkeypatch.setattr(frame_cache, "_write_clip", write)
    monkeypatch.setattr(frame_cache.os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        cached_frames(clips, SkipList(), tmp_path / "cache")
    assert "of 4 clips; the same command goes on" in capsys.readouterr().err
    assert contents(tmp_path / "cache")
    assert [len(paths) for paths in cached_frames(clips, SkipList(), tmp_path / "cache")] == [12] * 4


SCRIPT = """
import sys
from pathlib import Path
from truetag.media.frame_cache import cached_frames
from truetag.media.files import MediaFiles, SkipList
paths = sorted(Path(sys.argv[1]).glob("*.mp4"))
cached_frames(MediaFiles([path.name for path in paths], paths, [None] * len(paths)), SkipList(), Path(sys.argv[2]))
"""


def test_killed_it_ends_as_if_undisturbed(tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    photos = [Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(26)]
    paths = [make_clip(tmp_path / "clips" / f"{n:02d}.mp4", photos[n % 26 :] + photos[: n % 26]) for n in range(40)]
    cached_frames(named(paths), SkipList(), tmp_path / "whole")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "clips"), str(tmp_path / "cache")]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while run.poll() is None and len(list(tmp_path.glob("cache/frames/26/??/*"))) < 5:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    for folder in tmp_path.glob("cache/frames/26/??/*"):
        assert len(list(folder.iterdir())) in ({26} if folder.name[0] != "." else range(27))
    cached_frames(named(paths), SkipList(), tmp_path / "cache")
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")
    assert not list((tmp_path / "cache").rglob(".*.new"))
    for line in (tmp_path / "cache" / "frames" / "26" / "broken.jsonl").read_text().split():
        json.loads(line)
