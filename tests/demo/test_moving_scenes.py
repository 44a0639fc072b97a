"""Moving clips: the scenes one after another, their captions together, the same bytes for a seed."""

import json

import numpy as np
import pytest
from PIL import Image

from truetag.data.manifest import read_manifest
from truetag.demo.moving_scenes import approach, draw_clips
from truetag.errors import InputError
from truetag.media.clips import sample_frames


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_clips(tmp_path_factory.mktemp("clips"), 3, 2, 1, size=32)


def test_a_clip_shows_its_scenes_and_says_what_is_said_of_them(drawn):
    manifest, scenes = read_manifest(drawn), rows_of(drawn.with_name("scenes.jsonl"))
    assert manifest.rows["split"][:] == ["train"] * 3 + ["validation"] * 2 + ["test"]
    for number, row in enumerate(manifest.rows):
        parts = scenes[2 * number : 2 * number + 2]
        assert {part["split"] for part in parts} == {row["split"]}
        assert row["captions"] == parts[0]["captions"] + parts[1]["captions"]
        assert set(row["true_tags"]) == set(parts[0]["true_tags"]) | set(parts[1]["true_tags"])
        frames = sample_frames(drawn.parent / row["video"])
        assert [frame.size for frame in frames] == [(32, 32)] * 26
        for part, frame in zip(parts, (frames[0], frames[13]), strict=True):
            with Image.open(drawn.parent / part["image"]) as photo:
                assert np.abs(np.asarray(photo, float) - np.asarray(frame, float)).mean() < 12


def test_the_same_seed_gives_the_same_bytes_and_a_longer_split_begins_alike(drawn, tmp_path):
    again = draw_clips(tmp_path / "again", 4, 1, 0, size=32)
    other = draw_clips(tmp_path / "other", 3, 2, 1, size=32, seed=1)
    first = {row["id"]: row for row in rows_of(drawn)}
    for row in rows_of(again):
        if row["id"] in first:
            assert (again.parent / row["video"]).read_bytes() == (drawn.parent / row["video"]).read_bytes()
    assert sum(row["id"] in first for row in rows_of(again)) >= 3
    for row in rows_of(other):
        assert (other.parent / row["video"]).read_bytes() != (drawn.parent / row["video"]).read_bytes()


def test_the_camera_comes_nearer():
    photo = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    first, *others = approach(photo, np.random.default_rng(0), 5, 64)
    assert np.array_equal(np.asarray(first), np.asarray(photo.convert("RGB")))
    ranges = [np.ptp(np.asarray(frame).astype(int)) for frame in (first, *others)]
    assert ranges == sorted(ranges, reverse=True)
    assert ranges[-1] < ranges[0]


@pytest.mark.parametrize("options", [{"size": 33}, {"scenes_per_clip": 0}, {"frames_per_scene": 0}, {"size": 8}])
def test_a_mistake_is_named(tmp_path, options):
    with pytest.raises(InputError, match="expected"):
        draw_clips(tmp_path, 1, 0, 0, **options)
    assert not list(tmp_path.iterdir())
