"""Which rows belong to which split: by the lists of a data set, or drawn so that every label keeps its share."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import torch

from truetag.data.labels import observed_labels
from truetag.data.manifest import FIELDS, Rows, read_manifest, relative_root, stream_rows, write_manifest
from truetag.data.stratify import stratified_split
from truetag.data.vocabulary import build_vocabulary
from truetag.errors import InputError
from truetag.io.text import require_file, shown, text_lines

MOST_LABELS = 500


def assign_by_list(rows: Rows, lists: Mapping[str, Collection[str]]) -> list[str | None]:
    """The split of each row, by the ids or file names that the lists hold; unlisted rows keep theirs (or None).

    A file name may be the path as the row has it or its last part.

    Raises:
        InputError: a name fits no row or several, or a row is in two lists.
    """
    splits: list[str | None] = []
    by_id: dict[str, int] = {}
    by_path: dict[str, int] = {}
    by_name: dict[str, list[int]] = {}
    ids: list[str] = []
    for place, row in enumerate(stream_rows(rows, ("id", "image", "video", "split"))):
        splits.append(row.get("split"))
        ids.append(row["id"])
        by_id[row["id"]] = place
        if path := row.get("image") or row.get("video"):
            by_path[path] = place
            by_name.setdefault(PurePosixPath(path).name, []).append(place)
    assigned: dict[int, str] = {}
    for split, names in lists.items():
        found = {name: by_id.get(name, by_path.get(name)) for name in names}
        fitting = {name: by_name.get(name, []) if place is None else [place] for name, place in found.items()}
        for problem, odd in (
            ("no row has", [name for name, places in fitting.items() if not places]),
            ("several rows have", [name for name, places in fitting.items() if len(places) > 1]),
        ):
            if odd:
                some = ", ".join(map(shown, sorted(odd)[:3])) + (", .." if len(odd) > 3 else "")
                raise InputError(
                    f"list of split {split!r}: {problem} the id or file name of {len(odd)} entries: {some}"
                )
        for (place,) in fitting.values():
            if assigned.setdefault(place, split) != split:
                both = f"both {assigned[place]!r} and {split!r}"
                raise InputError(f"row {shown(ids[place])}: is in the lists of {both}")
    return [assigned.get(place, split) for place, split in enumerate(splits)]


def split(
    manifest: Path,
    out: Path,
    *,
    lists: dict[str, Path] | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> dict[str, int]:
    """Write a copy of a manifest with its rows divided into splits.

    Args:
        manifest: the manifest to divide.
        out: the manifest to write.
        lists: text files of the ids or file names, one a line, of named splits; other rows keep the split they have.
        validation_fraction: of the train rows (after the lists; a row without a split counts as train) to `validation`.
        test_fraction: of the same train rows to `test`.
        seed: of the random numbers.

    Returns:
        The number of rows of each split ("" for rows without one).

    Raises:
        InputError: nothing is asked for, a list is not what it should be, or a fraction leaves a split without rows.
    """
    fractions = {"validation": validation_fraction, "test": test_fraction}
    if not lists and not any(fractions.values()):
        raise InputError("split: expected lists, validation_fraction or test_fraction; got none of them")
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise InputError(f"split: expected fractions of 0 or more that leave rows to train, got {fractions}")
    content = read_manifest(manifest)
    named = {name: _read_list(path) for name, path in (lists or {}).items()}
    try:
        splits = assign_by_list(content.rows, named)
    except InputError as error:
        raise InputError(f"{manifest}: {error}") from None
    if any(fractions.values()):
        places = [place for place, name in enumerate(splits) if name in (None, "train")]
        if not places:
            raise InputError(f"{manifest}: no row of the split train is left to draw from")
        candidates = content.rows.select(places)
        vocabulary = build_vocabulary(candidates, MOST_LABELS)
        wanted = {"train": 1 - sum(fractions.values())} | {name: part for name, part in fractions.items() if part}
        generator = torch.Generator().manual_seed(seed)
        drawn = stratified_split(observed_labels(candidates, vocabulary), wanted, generator, candidates["group"][:])
        if empty := set(wanted) - set(drawn):
            raise InputError(f"{manifest}: {len(places)} train rows are too few for {wanted}; none for {min(empty)}")
        for place, name in zip(places, drawn, strict=True):
            splits[place] = name
    header = content.header | {"media_root": relative_root(content.media_root, out)}
    rows = zip(stream_rows(content.rows, FIELDS), splits, strict=True)
    write_manifest(out, (row | {"split": name} for row, name in rows), header)
    return dict(sorted(Counter(name or "" for name in splits).items()))


def _read_list(path: Path) -> set[str]:
    require_file(path, "list of ids or file names")
    names = {line.strip() for _, line in text_lines(path)} - {""}
    if odd := [name for name in names if "\0" in name]:
        raise InputError(f"{path}: expected ids or file names, got a NUL character in {shown(min(odd))}")
    if not names:
        raise InputError(f"{path}: names no row")
    return names
