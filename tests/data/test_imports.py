"""Import: every photo is looked at once; those that cannot be used, or lie elsewhere, are left out and listed."""

import json

import pytest
from PIL import Image

from truetag.data.bags import read_bags
from truetag.data.imports import ImportOptions, import_captions, import_tags
from truetag.data.manifest import iterate_rows, read_manifest
from truetag.errors import InputError
from truetag.media.files import Reading


@pytest.fixture
def folder(tmp_path):
    media = tmp_path / "photos"
    (media / "deep").mkdir(parents=True)
    for name in ("photos/a.png", "photos/deep/b.png", "outside.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    (media / "half.png").write_bytes((media / "a.png").read_bytes()[:-30])
    (media / "link.png").symlink_to(tmp_path / "outside.png")
    (media / "inner.png").symlink_to(media / "a.png")
    names = ["a.png", "deep/b.png", "half.png", "link.png", "../outside.png", "inner.png", "none.png", "deep/../a.png"]
    (tmp_path / "t.csv").write_text("image,tags\n" + "".join(f"{name},red\n" for name in names))
    return tmp_path


def skipped(folder):
    lines = (folder / "m.jsonl.skipped.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"].partition(",")[0].partition(" (")[0] for entry in map(json.loads, lines)}


def test_unusable_photos_are_left_out_and_listed(folder, capsys):
    summary = import_tags(folder / "t.csv", folder / "photos", folder / "m.jsonl")
    kept = ["a.png", "deep/b.png", "inner.png", "deep/../a.png"]
    assert [row["id"] for row in iterate_rows(folder / "m.jsonl")] == kept
    assert skipped(folder) == {
        "half.png": "cannot be decoded",
        "link.png": "leads outside the media root",
        "../outside.png": "leads outside the media root",
        "none.png": "no such file",
    }
    assert summary.num_rows == 4
    assert [entry.id for entry in summary.skipped] == list(skipped(folder))
    assert "4 of 8 photos cannot be used (2 x leads outside" in capsys.readouterr().err
    assert len(read_bags(read_manifest(folder / "m.jsonl"))) == 4


def test_photos_elsewhere_are_taken_if_that_is_allowed(folder):
    import_tags(folder / "t.csv", folder / "photos", folder / "m.jsonl", options=ImportOptions(allow_outside=True))
    assert skipped(folder).keys() == {"half.png", "none.png"}
    with pytest.raises(InputError, match=r"'\.\./outside\.png' .* leads out of the media root .* --allow-outside"):
        read_bags(read_manifest(folder / "m.jsonl"))
    assert len(read_bags(read_manifest(folder / "m.jsonl"), reading=Reading(allow_outside=True))) == 6


def test_without_decoding_only_the_files_are_looked_for(folder):
    import_tags(folder / "t.csv", folder / "photos", folder / "m.jsonl", options=ImportOptions(check=False))
    assert "half.png" not in skipped(folder)
    assert "none.png" in skipped(folder)


def test_too_many_unusable_photos_stop_the_import(folder):
    with pytest.raises(InputError, match=r"more than the share 0\.4 of 8 photos cannot be used: 2 x leads outside"):
        import_tags(folder / "t.csv", folder / "photos", folder / "m.jsonl", options=ImportOptions(max_skipped=0.4))
    assert not (folder / "m.jsonl").exists()
    with pytest.raises(InputError, match="max_skipped: expected a share between 0 and 1, got 2"):
        import_tags(folder / "t.csv", folder / "photos", folder / "m.jsonl", options=ImportOptions(max_skipped=2.0))


def test_nothing_usable_is_said_even_where_anything_is_allowed(folder):
    (folder / "c.csv").write_text("image,caption\nnone.png,a dog\na.png,\n")
    with pytest.raises(
        InputError,
        match=r"no photo or clip of it can be used .* the first of 2: .*none\.png \(no such file \(the nearest ",
    ):
        import_captions(folder / "c.csv", folder / "photos", folder / "m.jsonl", options=ImportOptions(max_skipped=1.0))
