"""Batches: padding is masked, broken photos train nothing, an epoch is repeatable, decoding keeps its order."""

import numpy as np
import pytest
import torch
from PIL import Image

from truetag.data.bags import bags_of_files, join_bags
from truetag.data.batches import EpochBatches, FeatureBags, PhotoBags, even_batches, frame_indices, stream_photos
from truetag.media.preprocessing import Preprocessing

PLAIN = Preprocessing(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_shorter_bags_are_padded_with_their_first_frame():
    starts = np.array([0, 2, 3, 6])
    frames, mask = frame_indices(starts, [2, 1])
    assert frames.tolist() == [[3, 4, 5], [2, 2, 2]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    frames, mask = frame_indices(starts, [1])
    assert (frames.tolist(), mask) == ([[2]], None)


def test_features_are_gathered_by_the_rows_of_their_frames():
    features = np.arange(10, dtype=np.float32).reshape(5, 1, 2)
    bags = FeatureBags(features, np.array([4, 0, 2]), np.array([0, 2, 3]), torch.tensor([[1], [0]]), ["a", "b"])
    batch = bags.__getitems__([(1, False), (0, False)])
    assert batch.inputs[:, :, 0, 0].tolist() == [[4, 4], [8, 0]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert (batch.labels.tolist(), batch.indices.tolist(), batch.skipped) == ([[0], [1]], [1, 0], [])


@pytest.fixture
def photos(tmp_path):
    """Four photos, red on the left and of growing green; the third is broken."""
    for index in range(4):
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[:, :2, 0], pixels[..., 1] = 255, 50 * index
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_text("no photo")
    return bags_of_files(list("abcd"), [tmp_path / f"{index}.png" for index in range(4)])


def test_a_broken_bag_becomes_black_with_unknown_labels_and_is_named(photos):
    batch = PhotoBags(photos, torch.ones(4, 2, dtype=torch.int8), PLAIN).__getitems__([(2, False), (1, True)])
    assert batch.labels.tolist() == [[-1, -1], [1, 1]]
    assert not batch.inputs[0].any()
    assert batch.inputs[1, 0, 0, 0].tolist() == [0, 0, 1, 1]  # mirrored
    assert batch.mask.all()
    assert [entry.id for entry in batch.skipped] == ["c"]


def test_photos_are_streamed_in_order_with_the_broken_ones_apart(photos):
    batches = list(stream_photos(photos.frames, PLAIN, even_batches(4, 3)))
    assert [batch.indices for batch in batches] == [[0, 1], [3]]
    assert [list(batch.broken) for batch in batches] == [[2], []]
    greens = torch.cat([batch.pixels[:, 1, 0, 0] for batch in batches])
    torch.testing.assert_close(greens, torch.tensor([0, 50, 150]) / 255)
    assert list(stream_photos(join_bags([]).frames, PLAIN, [])) == []


def test_seed_and_epoch_alone_decide_an_epoch():
    batches = EpochBatches(41, 4, seed=3, shuffle=True, flip=True)
    batches.set_epoch(1)
    first = list(batches)
    assert first == list(batches)
    batches.set_epoch(2)
    assert first != list(batches)
    assert sorted(index for batch in first for index, _ in batch) == list(range(41))
    assert len({flip for batch in first for _, flip in batch}) == 2
    assert len(first) == len(batches) == 10  # the lone last example joins the batch before it
    in_order = EpochBatches(5, 4, seed=3, shuffle=False)
    assert list(in_order) == [[(0, False), (1, False), (2, False), (3, False)], [(4, False)]]
