"""Inference: whole bags in groups, from any bag on, broken photos left out and named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from truetag.data.bags import MediaBags, starts_of
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest
from truetag.errors import InputError
from truetag.media.files import MediaFiles, Reading
from truetag.media.photos import read_photo
from truetag.media.preprocessing import Preprocessing
from truetag.models.classifier import Classifier
from truetag.prediction.inference import BATCH_SIZE, extract_batches, group_bags, predict_manifest


class Colours(torch.nn.Module):
    """A backbone with one region: the mean colour."""

    def forward_features(self, photos):
        return photos.mean((2, 3), keepdim=True)


@given(st.lists(st.integers(0, 2 * BATCH_SIZE), max_size=40))
def test_groups_are_whole_bags_of_at_most_a_batch_of_frames(lengths):
    groups = group_bags(np.array(lengths, dtype=np.int64))
    assert [index for group in groups for index in group] == list(range(len(lengths)))
    sizes = [sum(lengths[index] for index in group) for group in groups]
    assert all(size <= BATCH_SIZE or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    # no group would have held the bag after it
    assert all(size + lengths[following.start] > BATCH_SIZE for size, following in zip(sizes, groups[1:], strict=False))


@pytest.fixture
def bags(tmp_path):
    """Bags of 20, 20, 0, 3 and 1 photos; of the third last one photo is broken, and the last has no other."""
    lengths = [20, 20, 0, 3, 1]
    paths = []
    for index in range(sum(lengths)):
        paths.append(tmp_path / f"{index:02d}.png")
        Image.new("RGB", (4, 4), (5 * index, 0, 255 - 5 * index)).save(paths[-1])
    for broken in (41, 43):
        paths[broken].write_text("no photo")
    ids = list("abcde")
    files = MediaFiles(
        [name for name, length in zip(ids, lengths, strict=True) for _ in range(length)], paths, [None] * 44
    )
    return MediaBags(ids, [Path(name) for name in ids], files, starts_of(np.array(lengths)))


@pytest.mark.parametrize("start", range(6))
def test_features_are_those_of_the_usable_photos_of_each_bag(bags, start):
    preprocessing = Preprocessing(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    batches = list(extract_batches(Classifier(Colours(), 3, 2).eval(), preprocessing, bags, start))
    assert sum(batch.num_bags for batch in batches) == 5 - start
    features = {}
    for batch in batches:
        for row, index in enumerate(batch.indices):
            mask = torch.ones(batch.features.shape[1], dtype=bool) if batch.mask is None else batch.mask[row]
            features[index] = batch.features[row][mask]
    assert list(features) == [index for index in (0, 1, 3) if index >= start]
    for index, got in features.items():
        usable = [frame for frame in bags.frames_of(index) if frame != 41]
        expected = [preprocessing(read_photo(bags.frames.paths[frame])).mean((1, 2)) for frame in usable]
        torch.testing.assert_close(got[:, 0], torch.stack(expected))
    skipped = [entry.path.stem for batch in batches for entry in batch.skipped]
    assert skipped == (["41"] if start <= 3 else []) + (["43"] if start <= 4 else [])


@pytest.fixture
def broken(tiny, tmp_path):
    """A manifest with four test photos, one of them broken."""
    rows = [row for row in iterate_rows(tiny / "scenes.jsonl") if row["split"] == "test"][:4]
    (tmp_path / "broken.jpg").write_text("no photo")
    for row in rows:
        row["image"] = str(tiny / row["image"])
    rows[1]["image"] = str(tmp_path / "broken.jpg")
    write_manifest(tmp_path / "m.jsonl", rows)
    return read_manifest(tmp_path / "m.jsonl")


def test_rows_of_broken_photos_are_absent_and_listed(tiny_run, broken):
    prediction = predict_manifest(tiny_run, broken, "test", Reading(allow_outside=True))
    assert prediction.rows == [0, 2, 3]
    assert len(prediction.logits) == len(prediction.features) == 3
    assert [entry.path.name for entry in prediction.skips] == ["broken.jpg"]
    assert prediction.skips.total == 4


def test_too_many_broken_photos_stop_the_prediction(tiny_run, broken):
    with pytest.raises(InputError, match=r"max_skipped: more than the share 0\.2 of 4 photos cannot be used"):
        predict_manifest(tiny_run, broken, None, Reading(max_skipped=0.2, allow_outside=True))
