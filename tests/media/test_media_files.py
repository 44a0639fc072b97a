"""Photos by name: what cannot be used is counted against the share that is allowed, and listed."""

import json

import pytest
from PIL import Image

from truetag.errors import InputError
from truetag.media.files import Photos, Skipped, check_share, check_skipped, count_reasons, write_skipped
from truetag.media.photos import MediaError


def test_a_share_is_exceeded_by_the_first_photo_above_it(tmp_path):
    skipped = [Skipped(str(number), tmp_path / f"{number}.jpg", "no such file") for number in range(3)]
    check_skipped(skipped[:2], 8, 0.25)
    with pytest.raises(
        InputError, match=r"more than the share 0\.25 of 8 photos .* 3 x no such file; the first is .*0\.jp"
    ):
        check_skipped(skipped, 8, 0.25)
    check_skipped([], 0, 0.0)
    with pytest.raises(InputError, match="max_skipped"):
        check_skipped(skipped[:1], 8, 0.0)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_lies_between_0_and_1(value):
    with pytest.raises(InputError, match=r"max_skipped must be between 0 and 1"):
        check_share(value)


def test_reasons_are_counted_without_their_details(tmp_path):
    reasons = ["no such file", "too large (1 x 2)", "too large (3 x 4)"]
    assert count_reasons([Skipped("a", tmp_path, reason) for reason in reasons]) == "2 x too large, 1 x no such file"


def test_a_list_is_written_or_removed(tmp_path):
    path = tmp_path / "skipped.jsonl"
    write_skipped(path, [Skipped("a\n", tmp_path / "b\udce9.jpg", "c")], 3)
    assert json.loads(path.read_text()) == {"id": "a\n", "path": f"{tmp_path}/b\udce9.jpg", "reason": "c"}
    write_skipped(path, [], 3)
    assert not path.exists()


def test_a_selection_keeps_ids_paths_and_roots_together(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a.png", "root/b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    photos = Photos(["x", "y", "z"], [tmp_path / "a.png", tmp_path / "a.png", root / "b.png"], [None, root, root])
    chosen = photos.select([2, 1])
    assert (len(chosen), chosen.ids) == (2, ["z", "y"])
    assert chosen.read(0).size == (2, 2)
    with pytest.raises(MediaError, match="outside"):
        chosen.read(1)
    with pytest.raises(MediaError, match="outside"):
        chosen.check(1)
    assert photos.read(0).size == (2, 2)
    assert photos.skip(1, MediaError("why")) == Skipped("y", tmp_path / "a.png", "why")
