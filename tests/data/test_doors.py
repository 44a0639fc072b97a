"""Annotations as people have them come in right, or one message says what is wrong."""

from pathlib import Path

import pytest
from door_cases import Door, doors
from PIL import Image

from truetag.cli import main
from truetag.data.manifest import iterate_rows

DOORS = doors()


def labels(manifest: Path) -> dict[str, list[str]]:
    """What a manifest says of each photo."""
    said: dict[str, list[str]] = {}
    for row in iterate_rows(manifest):
        said[row["image"]] = row["tags"] if row["tags"] is not None else row["captions"]
        for field in ("unknown", "rejected"):
            if row[f"{field}_tags"]:
                said[f"{field} of {row['image']}"] = row[f"{field}_tags"]
    return said


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.command}: {door.name}")
def test_what_people_have_comes_in_right(tmp_path: Path, capsys: pytest.CaptureFixture[str], door: Door) -> None:
    media, out, table = tmp_path / "photos", tmp_path / "m.jsonl", tmp_path / door.file
    for name in door.photos:
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(media / name)
    table.write_bytes(door.content)
    code = main(["import", door.command, str(table), str(media), "--out", str(out), *door.options])
    printed = capsys.readouterr()
    if isinstance(door.expected, str):
        assert door.expected in printed.err
        assert (code, out.exists()) == (2, False)
    else:
        assert code == 0, printed.err
        assert labels(out) == door.expected
        assert door.said in printed.out


def test_there_are_many() -> None:
    assert len({(door.command, door.name) for door in DOORS}) == len(DOORS) > 80
