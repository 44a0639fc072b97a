"""Photos, clips, folders and manifests as bags, all of them or one part."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

from datasets import Dataset

from truetag.data.bags import MediaBags, bags_of_embeddings, bags_of_files, join_bags, read_bags
from truetag.data.embeddings import is_embeddings, open_embeddings
from truetag.data.manifest import Manifest, read_manifest
from truetag.errors import InputError
from truetag.io.files import readable
from truetag.io.terminal import tell
from truetag.io.text import counted, one_line
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.files import Reading, SkipList
from truetag.media.names import list_files
from truetag.media.photos import PHOTO_SUFFIXES
from truetag.prediction.inputs import MANIFEST_SUFFIXES, require_inputs
from truetag.prediction.shard import Shard


def list_bags(
    num_frames: int,
    inputs: Sequence[Path],
    split: str | None,
    reading: Reading,
    skips: SkipList,
    shard: Shard | None = None,
    features: Path | None = None,
) -> MediaBags:
    """The bags of all inputs; a clip that cannot be used is an empty bag.

    Args:
        num_frames: frames per clip.
        inputs: photos, clips, folders, manifests or files of embeddings.
        split: the split of manifests; None for all rows.
        reading: how photos and clips are read.
        skips: gets the clips that cannot be used.
        shard: the part of all rows that is wanted, which may be empty; None for all.
        features: a file of embeddings to take instead of the photos of manifests.

    Raises:
        InputError: an input does not exist, there are no photos, or too many clips cannot be used.
    """
    require_inputs(inputs)
    listed: list[_Files | _Rows | MediaBags] = []
    for item in inputs:
        if item.is_dir():
            names = _list_folder(item)
            listed.append(_Files(names, [item / name for name in names]))
        elif is_embeddings(item):
            listed.append(bags_of_embeddings(open_embeddings(item)))
        elif item.suffix in MANIFEST_SUFFIXES:
            manifest = read_manifest(item)
            listed.append(_Rows(manifest, manifest.in_split(split)))
        else:
            listed.append(_Files([item.name], [item]))
    if features is not None and not any(isinstance(part, _Rows) for part in listed):
        raise InputError("features: expected together with a manifest, whose ids name them, got it without")
    lengths = [len(part.rows if isinstance(part, _Rows) else part.ids) for part in listed]
    num_rows = sum(lengths)
    if not num_rows:
        raise InputError(f"inputs: no photos or clips in {', '.join(map(str, inputs))}")
    wanted = range(num_rows) if shard is None else shard.rows(num_rows)
    bags: list[MediaBags] = []
    first = 0
    for part, length in zip(listed, lengths, strict=True):
        rows = range(max(wanted.start - first, 0), min(wanted.stop - first, length))  # of this input
        first += length
        if not rows:
            continue
        if isinstance(part, _Rows):
            some = part.rows if len(rows) == length else part.rows.select(rows)
            bags.append(read_bags(part.manifest, some, reading, skips, num_frames, features))
        elif isinstance(part, MediaBags):
            skips.expect(len(rows))
            bags.append(part.select(rows))
        else:
            some = slice(rows.start, rows.stop)
            bags.append(bags_of_files(part.ids[some], part.paths[some], reading, skips, num_frames))
    joined = join_bags(bags)
    return replace(joined, ids=[readable(name) for name in joined.ids])


class _Files(NamedTuple):
    """Photos and clips as they are listed, before any clip is decoded."""

    ids: list[str]
    paths: list[Path]


class _Rows(NamedTuple):
    """Rows of a manifest, likewise."""

    manifest: Manifest
    rows: Dataset


def _list_folder(folder: Path) -> list[str]:
    """The photos and clips below a folder; how many other files are passed over is said."""
    suffixes = {name: PurePath(name).suffix.lower() for name in list_files(folder)}
    known = PHOTO_SUFFIXES | {*CLIP_SUFFIXES}
    if others := Counter(suffix or "no suffix" for suffix in suffixes.values() if suffix not in known):
        kinds = ", ".join(
            f"{count} x {suffix}" for suffix, count in sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
        )
        tell(f"{folder}: {counted(others.total(), 'file')} passed over ({one_line(kinds)})")
    return [name for name, suffix in suffixes.items() if suffix in known]
