"""Bags of files: which frames each bag has, and that ids, paths and frames stay together."""

from pathlib import Path

import numpy as np
import pytest
from made_clips import make_clip
from PIL import Image

from truetag.data.bags import MediaBags, bags_of_files, read_bags, starts_of
from truetag.data.manifest import read_manifest, write_manifest
from truetag.errors import InputError
from truetag.media.files import MediaFiles, Reading, SkipList


@pytest.fixture
def bags():
    """Bags of 2, 0, 1 and 3 frames."""
    paths = [Path(f"{frame}.jpg") for frame in range(6)]
    files = MediaFiles(list("aacddd"), paths, [None] * 6)
    return MediaBags(list("abcd"), [Path(name) for name in "abcd"], files, starts_of(np.array([2, 0, 1, 3])))


def frames(bags):
    """Bag -> numbers of its frames."""
    return {
        name: [int(bags.frames.paths[frame].stem) for frame in bags.frames_of(index)]
        for index, name in enumerate(bags.ids)
    }


def test_a_selection_has_the_frames_of_its_bags(bags):
    assert frames(bags) == {"a": [0, 1], "b": [], "c": [2], "d": [3, 4, 5]}
    some = bags.select([3, 1, 0])
    assert frames(some) == {"d": [3, 4, 5], "b": [], "a": [0, 1]}
    assert some.paths == [Path("d"), Path("b"), Path("a")]
    assert list(some.frames.ids) == list("dddaa")
    assert len(bags.select([])) == 0


def test_bags_without_a_usable_frame_are_dropped(bags):
    some, indices = bags.keep_frames(np.array([True, False, False, False, True, True]))
    assert frames(some) == {"a": [0], "d": [4, 5]}
    assert indices == [0, 3]
    assert some.paths == [Path("a"), Path("d")]


def test_each_frame_can_be_a_bag(bags):
    each = bags.each_frame()
    assert frames(each) == {"a#0": [0], "a#1": [1], "c#0": [2], "d#0": [3], "d#1": [4], "d#2": [5]}


def test_clips_become_frames_and_broken_ones_empty_bags_that_are_listed(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    make_clip(tmp_path / "b.mp4", range(0, 60, 10))
    (tmp_path / "c.mp4").write_text("no clip")
    rows = [
        {"id": "a", "image": "a.png", "tags": []},
        {"id": "b", "video": "b.mp4", "tags": []},
        {"id": "c", "video": "c.mp4", "tags": []},
        {"id": "d", "frames": ["a.png", "none.png"], "tags": []},
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    manifest, reading, skips = read_manifest(tmp_path / "m.jsonl"), Reading(tmp_path / "cache"), SkipList(0.5)
    bags = read_bags(manifest, reading=reading, skips=skips, num_frames=3)
    assert bags.lengths.tolist() == [1, 3, 0, 2]
    assert [path.name for path in bags.paths] == ["a.png", "b.mp4", "c.mp4", "a.png"]
    assert [entry.id for entry in skips] == ["c"]
    assert skips.total == 5  # files, not frames
    files = [tmp_path / name for name in ("a.png", "b.mp4", "c.mp4")]
    assert bags_of_files(list("abc"), files, reading, skips, num_frames=3).lengths.tolist() == [1, 3, 0]
    assert (len(skips), skips.total) == (1, 8)
    with pytest.raises(InputError, match=r"more than the share 0\.1 of 5 photos"):
        read_bags(manifest, reading=Reading(tmp_path / "cache", max_skipped=0.1), num_frames=3)
