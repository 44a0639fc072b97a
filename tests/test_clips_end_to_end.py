"""Clips through the whole of it: frames, training at both levels, scores, predictions, broken clips on the way."""

import json
from dataclasses import replace

import pytest

from truetag.data.bags import read_bags
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.data.vocabulary import build_vocabulary, write_vocabulary
from truetag.demo.moving_scenes import draw_clips
from truetag.evaluate import evaluate
from truetag.media.files import Reading, SkipList
from truetag.prediction.tagging import predict
from truetag.training.train import train

NUM_FRAMES = 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Drawn clips, one of them broken, and the same rows as lists of frames."""
    folder = tmp_path_factory.mktemp("clips")
    manifest = draw_clips(folder, 12, 4, 4, size=32)
    write_vocabulary(folder / "vocabulary.tsv", build_vocabulary(read_manifest(manifest).in_split("train"), 10))
    rows = list(iterate_rows(manifest))
    (folder / rows[1]["video"]).write_bytes(b"not a clip")
    (folder / "all.jsonl").write_bytes(manifest.read_bytes())
    return folder


@pytest.fixture(scope="module")
def config(tiny_config):
    return replace(
        tiny_config, num_frames=NUM_FRAMES, pooling="noisy-or", batch_size=4, stage1_epochs=1, stage2_epochs=1
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_backbone": True},
        {},
        {"frames_at_a_time": 3, "noise_model": "fi"},
        {"level": "frame", "pooling": "mean", "freeze_backbone": True},
        {"level": "frame", "noise_model": "fi"},
        {"pooling": "lse", "freeze_backbone": True},
        {"pooling": "max"},
        {"initial_bias": -6.58, "freeze_backbone": True},
    ],
)
def test_clips_are_bags_of_frames(clips, config, tmp_path, settings):
    config, reading = replace(config, **settings), Reading(tmp_path / "cache")
    run = train(config, clips / "all.jsonl", clips / "vocabulary.tsv", tmp_path / "run", reading=reading)
    (skipped,) = map(json.loads, (run.folder / "skipped.jsonl").read_text().splitlines())
    assert skipped["path"].endswith(".mp4")
    assert len(run.history()) == 2
    metrics = evaluate(run.folder, clips / "all.jsonl", reading=reading)
    assert metrics["num_examples"] == 4
    test_clips = [clips / row["video"] for row in iterate_rows(clips / "all.jsonl") if row["split"] == "test"]
    out = tmp_path / "tags.jsonl"
    assert predict(run.folder, test_clips, out, top_k=2, reading=reading) == 4
    by_clip = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["path"] for row in by_clip] == list(map(str, test_clips))
    assert predict(run.folder, [clips / "all.jsonl"], out, top_k=2, split="test", reading=reading) == 4
    by_row = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["probabilities"] for row in by_row] == [row["probabilities"] for row in by_clip]


def test_lists_of_frames_are_the_same_bags_as_their_clips(clips, config, tmp_path):
    """Frames that somebody else cut, one of them missing: the bag is what is left."""
    config, reading = replace(config, freeze_backbone=True), Reading(tmp_path / "cache")
    run = train(config, clips / "all.jsonl", clips / "vocabulary.tsv", tmp_path / "run", reading=reading)
    expected = evaluate(run.folder, clips / "all.jsonl", reading=reading)
    manifest = read_manifest(clips / "all.jsonl")
    skips = SkipList()
    bags = read_bags(manifest, None, reading, skips, NUM_FRAMES)
    (broken,) = skips
    assert broken.reason
    assert set(bags.lengths.tolist()) == {0, NUM_FRAMES}
    rows = []
    for number, row in enumerate(iterate_rows(clips / "all.jsonl")):
        frames = [str(path) for path in bags.frames.paths[bags.starts[number] : bags.starts[number + 1]]]
        if frames:
            rows.append({**row, "video": None, "frames": frames})
    write_manifest(tmp_path / "frames.jsonl", rows)
    again = evaluate(run.folder, tmp_path / "frames.jsonl", reading=replace(reading, allow_outside=True))
    assert again["mean_ap"] == expected["mean_ap"]
    for row in rows:
        row["frames"] = [*row["frames"], str(tmp_path / "nowhere.jpg")]
    write_manifest(tmp_path / "more.jsonl", rows)
    more = evaluate(run.folder, tmp_path / "more.jsonl", reading=replace(reading, allow_outside=True))
    assert more["mean_ap"] == expected["mean_ap"]
    assert more["num_examples"] == expected["num_examples"]
    assert more["num_skipped"] == 4
