"""The split of each row: from the lists of a data set, or drawn so that every label keeps its share."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import torch

from truetag.data.labels import observed_labels
from truetag.data.manifest import FIELDS, Rows, read_manifest, relative_root, stream_rows, write_manifest
from truetag.data.stratify import stratified_split
from truetag.data.vocabulary import build_vocabulary
from truetag.errors import InputError
from truetag.io.files import refuse_existing
from truetag.io.text import require_file, shown, text_lines

MAX_LABELS = 500  # the most frequent words, whose shares a draw keeps


def assign_by_list(rows: Rows, lists: Mapping[str, Collection[str]]) -> list[str | None]:
    """The split of each row, from lists of ids or file names; a row that is in no list keeps its split (or None).

    A file name may be the path as the row has it, or its last part.

    Raises:
        InputError: a name matches no row or several, or a row is in two lists.
    """
    splits: list[str | None] = []
    by_id: dict[str, int] = {}
    by_path: dict[str, int] = {}
    by_name: dict[str, list[int]] = {}
    ids: list[str] = []
    for index, row in enumerate(stream_rows(rows, ("id", "image", "video", "split"))):
        splits.append(row.get("split"))
        ids.append(row["id"])
        by_id[row["id"]] = index
        if path := row.get("image") or row.get("video"):
            by_path[path] = index
            by_name.setdefault(PurePosixPath(path).name, []).append(index)
    assigned: dict[int, str] = {}
    for split, names in lists.items():
        exact = {name: by_id.get(name, by_path.get(name)) for name in names}
        matches = {name: by_name.get(name, []) if index is None else [index] for name, index in exact.items()}
        for problem, wrong in (
            ("no row has", [name for name, indices in matches.items() if not indices]),
            ("several rows have", [name for name, indices in matches.items() if len(indices) > 1]),
        ):
            if wrong:
                first = ", ".join(map(shown, sorted(wrong)[:3])) + (", .." if len(wrong) > 3 else "")
                raise InputError(
                    f"list of split {split!r}: {problem} the id or file name of {len(wrong)} entries: {first}"
                )
        for (index,) in matches.values():
            if assigned.setdefault(index, split) != split:
                both = f"both {assigned[index]!r} and {split!r}"
                raise InputError(f"row {shown(ids[index])}: is in the lists of {both}")
    return [assigned.get(index, split) for index, split in enumerate(splits)]


def split(
    manifest: Path,
    out: Path,
    *,
    lists: dict[str, Path] | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write a copy of a manifest with its rows divided into splits.

    Args:
        manifest: the manifest to divide.
        out: the manifest to write.
        lists: for each named split, a text file with one id or file name per line; other rows keep their split.
        validation_fraction: share of the train rows to move to `validation`, after the lists are applied; a row without
            a split counts as train.
        test_fraction: share of the same train rows to move to `test`.
        seed: of the random draw.
        overwrite: replace `out` if it exists.

    Returns:
        The number of rows in each split ("" for rows without one).

    Raises:
        InputError: no list and no fraction is given, a list is malformed, or a fraction leaves a split without rows, or
            `out` exists.
    """
    refuse_existing(out, overwrite)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    if not lists and not any(fractions.values()):
        raise InputError("split: expected lists, validation_fraction or test_fraction, got none of them")
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise InputError(f"split: expected fractions of 0 or more that leave train rows, got {fractions}")
    content = read_manifest(manifest)
    named = {name: read_list(path) for name, path in (lists or {}).items()}
    try:
        splits = assign_by_list(content.rows, named)
    except InputError as error:
        raise InputError(f"{manifest}: {error}") from None
    if any(fractions.values()):
        indices = [index for index, name in enumerate(splits) if name in (None, "train")]
        if not indices:
            raise InputError(f"{manifest}: expected train rows to draw from, got none")
        candidates = content.rows.select(indices)
        vocabulary = build_vocabulary(candidates, MAX_LABELS)
        wanted = {"train": 1 - sum(fractions.values())} | {name: part for name, part in fractions.items() if part}
        generator = torch.Generator().manual_seed(seed)
        drawn = stratified_split(observed_labels(candidates, vocabulary), wanted, generator, candidates["group"][:])
        if empty := set(wanted) - set(drawn):
            raise InputError(f"{manifest}: {len(indices)} train rows are too few for {wanted}; none for {min(empty)}")
        for index, name in zip(indices, drawn, strict=True):
            splits[index] = name
    header = content.header | {"media_root": relative_root(content.media_root, out)}
    rows = zip(stream_rows(content.rows, FIELDS), splits, strict=True)
    write_manifest(out, (row | {"split": name} for row, name in rows), header)
    return dict(sorted(Counter(name or "" for name in splits).items()))


def read_list(path: Path) -> set[str]:
    """The ids or file names in a text file with one per line.

    Raises:
        InputError: the file is missing, names no row, or contains a NUL character.
    """
    require_file(path, "list of ids or file names")
    names = {line.strip() for _, line in text_lines(path)} - {""}
    if wrong := [name for name in names if "\0" in name]:
        raise InputError(f"{path}: expected ids or file names, got a NUL character in {shown(min(wrong))}")
    if not names:
        raise InputError(f"{path}: names no row")
    return names
