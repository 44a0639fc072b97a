"""The review page: one HTML file, without a server or a network, on which a person decides what is right.

Texts are data: they are put into the page as JSON, in which `<` cannot end the script, and shown as text alone.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from truetag.audit.decisions import OPPOSITE, PHOTO_KINDS
from truetag.data.bags import MediaBags
from truetag.io.fingerprints import fingerprint
from truetag.io.pages import write_page
from truetag.io.terminal import Progress, tell
from truetag.media.data_urls import inline_picture
from truetag.media.photos import MediaError

if TYPE_CHECKING:
    import pandas as pd

MOST_ISSUES = 10_000
"""On the page; the tables have all."""
MOST_PICTURES = 5_000
"""A page of so many pictures is about 40 MB."""
_SIDE, _QUALITY = 224, 70


def write_review(
    path: Path,
    issues: "pd.DataFrame",
    media: MediaBags | None,
    title: str,
    given: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the page; its script, review.js, reads `issues`, `pictures` and `digest`.

    Args:
        path: where to.
        issues: the ranked list of an audit.
        media: the photos or clips of the examples; None where there are none.
        title: what was audited.
        given: the tags of each example as they were given, by its id.
    """
    if len(issues) > MOST_ISSUES:
        tell(f"the page shows the first {MOST_ISSUES} of {len(issues)} issues; issues.csv has all")
        of_photos = np.isin(issues["kind"].to_numpy(), PHOTO_KINDS)  # they stand at the end, and get a tenth at least
        room = MOST_ISSUES - min(int(of_photos.sum()), MOST_ISSUES // 10)
        kept = np.concatenate([np.flatnonzero(~of_photos)[:room], np.flatnonzero(of_photos)])
        issues = issues.iloc[kept[:MOST_ISSUES]]
    pictures = {} if media is None else _pictures(list(dict.fromkeys(issues["id"])), media)
    numbers = {name: number for number, name in enumerate(pictures)}
    entries: list[dict[str, Any]] = []
    for issue in issues.to_dict("records"):
        name = str(issue["id"])
        entry: dict[str, Any] = {"id": name, "kind": issue["kind"], "picture": numbers.get(name, -1)}
        if issue["kind"] not in PHOTO_KINDS:
            entry["probability"] = round(issue["probability"], 4)
        entry |= {"label": str(issue["label"])} if issue["kind"] in OPPOSITE else {"record": issue["record"]}
        if isinstance(issue.get("source"), str):
            entry["source"] = issue["source"]
        if given and given.get(name):
            entry["tags"] = ", ".join(given[name])
        entries.append(entry)
    digest = fingerprint([json.dumps([[entry["id"], entry["kind"], entry.get("label")] for entry in entries])])
    data = {"digest": digest[:16], "issues": entries, "pictures": list(pictures.values())}
    content = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    write_page(path, "truetag.audit", "review.html", app="review", title=title, data=Markup(content))


def _pictures(names: Sequence[str], media: MediaBags) -> dict[str, str]:
    """A small picture of each example, by its id: of a clip the frame in the middle."""
    if len(names) > MOST_PICTURES:
        tell(f"the page has pictures of the first {MOST_PICTURES} of {len(names)} examples")
    indices = {name: index for index, name in enumerate(media.ids)}
    pictures: dict[str, str] = {}
    with Progress("pictures for the page", min(len(names), MOST_PICTURES)) as progress:
        for name in names[:MOST_PICTURES]:
            frames = media.frames_of(indices[name])
            with suppress(MediaError):  # the page says that there is none
                pictures[name] = str(inline_picture(media.frames.read(frames[len(frames) // 2]), _SIDE, _QUALITY))
            progress.advance(1)
    return pictures
