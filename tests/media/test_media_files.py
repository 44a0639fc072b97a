"""Photos by name: what cannot be used is counted against the share that is allowed, and listed once."""

import json
from pathlib import Path

import pytest
from PIL import Image

from truetag.errors import InputError
from truetag.media.files import MediaFiles, Reading, SkipList, Skipped
from truetag.media.photos import MediaError


def entry(name, reason="no such file"):
    return Skipped(name, Path(f"{name}.jpg"), reason)


def test_a_share_is_exceeded_by_the_first_photo_above_it():
    skips = SkipList(0.25, 8)
    skips.report_all([entry("0"), entry("1")])
    with pytest.raises(
        InputError, match=r"more than the share 0\.25 of 8 photos .* 3 x no such file; the first is 0\.jpg \(no such"
    ):
        skips.report(entry("2"))
    SkipList(0.0).report_all([])
    with pytest.raises(InputError, match="max_skipped: more than the share 0 of 8"):
        SkipList(0.0, 8).report(entry("0"))


def test_expected_files_of_several_readers_add_up():
    skips = SkipList(0.5)
    skips.expect(2)
    skips.report(entry("0"))
    skips.expect(2)
    skips.report(entry("1"))
    with pytest.raises(InputError, match="of 4 photos"):
        skips.report(entry("2"))


def test_a_photo_that_is_reported_twice_is_listed_once_in_its_order():
    skips = SkipList(0.5, 6)
    skips.report_all([entry("b"), entry("a"), entry("b", "another reason")])
    skips.report(entry("a"))
    assert list(skips) == [entry("b"), entry("a")]


def test_a_photo_can_be_listed_without_counting_against_the_share():
    skips = SkipList(0.0, 4)
    skips.list_only(entry("a", "no captions"))
    assert list(skips) == [entry("a", "no captions")]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_0_and_1(value):
    with pytest.raises(InputError, match=rf"max_skipped: expected a share between 0 and 1, got {value}"):
        Reading(max_skipped=value)


def test_reasons_are_counted_without_their_details():
    skips = SkipList(1.0, 3)
    reasons = ["no such file", "too large (1 x 2)", "too large (3 x 4)"]
    skips.report_all(entry(str(number), reason) for number, reason in enumerate(reasons))
    assert skips.count_reasons() == "2 x too large, 1 x no such file"


def test_a_list_is_written_or_removed(tmp_path, capsys):
    path = tmp_path / "skipped.jsonl"
    skips = SkipList(0.5, 3)
    skips.report(Skipped("a\n", tmp_path / "b\udce9.jpg", "c"))
    skips.write(path)
    assert json.loads(path.read_text()) == {"id": "a\n", "path": f"{tmp_path}/b\udce9.jpg", "reason": "c"}
    assert "1 of 3 photos cannot be used (1 x c); they are listed in" in capsys.readouterr().err
    SkipList().write(path)
    assert not path.exists()


def test_a_list_survives_json(tmp_path):
    skips = SkipList(0.5, 4)
    skips.report_all([Skipped("a", tmp_path / "b\udce9.jpg", "c"), entry("d")])
    restored = SkipList(0.5, 4)
    restored.restore(json.loads(json.dumps(skips.to_json())))
    assert list(restored) == list(skips)
    with pytest.raises(InputError, match="max_skipped"):
        SkipList(0.25, 4).restore(skips.to_json())


def test_a_selection_keeps_ids_paths_and_roots_together(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a.png", "root/b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    photos = MediaFiles(["x", "y", "z"], [tmp_path / "a.png", tmp_path / "a.png", root / "b.png"], [None, root, root])
    chosen = photos.select([2, 1])
    assert (len(chosen), chosen.ids) == (2, ["z", "y"])
    assert chosen.read(0).size == (2, 2)
    with pytest.raises(MediaError, match="outside"):
        chosen.read(1)
    with pytest.raises(MediaError, match="outside"):
        chosen.check(1)
    assert photos.read(0).size == (2, 2)
    assert photos.skip(1, MediaError("why")) == Skipped("y", tmp_path / "a.png", "why")
