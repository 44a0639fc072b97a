"""`truetag caption show`: a page with a captioner's sentences beside the photos or clips, good ones and bad ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truetag import __version__
from truetag.captioning.folder import open_captioner
from truetag.data.manifest import read_manifest
from truetag.errors import InputError
from truetag.io.files import refuse_overwriting
from truetag.io.pages import write_page
from truetag.io.paths import takes_paths
from truetag.io.text import decode, parse_json
from truetag.media.files import Reading
from truetag.reports.pictures import pictured_rows

_GROUPS = ("Those that agree best with people", "Those in the middle", "Those that agree least")


@takes_paths
def show_captions(
    captioner: Path,
    data: Path,
    out: Path,
    split: str | None = "test",
    num_photos: int = 9,
    reading: Reading = Reading(),
) -> Path:
    """Write a page with sentences of a captioner, after `caption evaluate` has scored them.

    A third of them are those with the highest CIDEr, a third those around the middle, a third those with the lowest.

    Args:
        captioner: the folder of `truetag caption train`.
        data: the manifest that was scored.
        out: the page to write.
        split: the split that was scored; `all` for every row.
        num_photos: how many photos or clips to show.
        reading: how photos and clips are read.

    Raises:
        InputError: the sentences were not scored yet, or the manifest has other rows.
    """
    if num_photos < len(_GROUPS):
        raise InputError(f"num_photos: expected {len(_GROUPS)} or more, got {num_photos}")
    refuse_overwriting(out, data)
    name = f"{data.stem}-{split or 'all'}"
    metrics = open_captioner(captioner).folder / "metrics"
    path = metrics / f"{name}.captions.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; `truetag caption evaluate` writes it")
    sentences: list[dict[str, Any]] = parse_json(decode(str(path), path.read_bytes()))
    ranked = sorted(sentences, key=lambda sentence: -sentence["cider"])
    chosen = _choose(ranked, num_photos)
    cards = _cards(data, [sentence for group in chosen for sentence in group], reading)
    groups = [
        (title, [card for sentence in group if (card := cards.get(sentence["id"])) is not None])
        for title, group in zip(_GROUPS, chosen, strict=True)
    ]
    scores = json.loads((metrics / f"{name}.json").read_text())
    write_page(
        out, "truetag.reports", "captions.html", groups=groups, scores=scores, name=captioner.name, version=__version__
    )
    return out


def _choose(ranked: Sequence[dict[str, Any]], count: int) -> list[Sequence[dict[str, Any]]]:
    """The first, the middle and the last sentences; none twice where there are few."""
    share = min(count, len(ranked)) // len(_GROUPS)
    middle = (len(ranked) - share) // 2
    return [ranked[:share], ranked[middle : middle + share], ranked[len(ranked) - share :]]


def _cards(data: Path, sentences: Sequence[dict[str, Any]], reading: Reading) -> dict[str, dict[str, Any]]:
    """By the id of a photo or clip: its picture, the sentence, and what people say."""
    names = [sentence["id"] for sentence in sentences]
    found = pictured_rows(read_manifest(data), names, ("captions", "true_captions"), reading)
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{data}: expected the rows that were scored, got none with the id {missing[0]!r}")
    cards = {}
    for sentence in sentences:
        row, picture = found[sentence["id"]]
        people = row.get("true_captions") or row.get("captions") or []
        cards[sentence["id"]] = sentence | {"picture": picture, "people": people}
    return cards
