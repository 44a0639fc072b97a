"""Small pictures of some rows of a manifest, for a page."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from markupsafe import Markup

from truetag.data.bags import read_bags
from truetag.data.manifest import Manifest, stream_rows
from truetag.media.data_urls import inline_picture
from truetag.media.files import Reading, SkipList
from truetag.media.photos import MediaError

_SIDE = 320  # pixels


class PicturedRow(NamedTuple):
    """Some fields of a row, and its picture: of a clip the frame in the middle, None where nothing can be read."""

    row: dict[str, Any]
    picture: Markup | None


def pictured_rows(
    manifest: Manifest, ids: Sequence[str], fields: Sequence[str], reading: Reading
) -> dict[str, PicturedRow]:
    """The rows with these ids, by id; ids that the manifest lacks are left out.

    Args:
        manifest: has the rows.
        ids: some of its ids.
        fields: of the rows, to read.
        reading: how photos and clips are read.
    """
    indices = {name: index for index, name in enumerate(manifest.rows["id"][:])}
    there = [name for name in dict.fromkeys(ids) if name in indices]
    rows = manifest.rows.select([indices[name] for name in there])
    bags = read_bags(manifest, rows, reading, SkipList(max_skipped=1.0))  # a page says which have no picture
    found = {}
    for index, (name, row) in enumerate(zip(there, stream_rows(rows, fields), strict=True)):
        frames, picture = bags.frames_of(index), None
        if frames:
            with suppress(MediaError):
                picture = inline_picture(bags.frames.read(frames[len(frames) // 2]), _SIDE)
        found[name] = PicturedRow(row, picture)
    return found
