"""The split of each row: from the lists of a data set, or drawn so that every label keeps its share."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from truetag.data.copies import copies_across, digests_of, groups_with_copies
from truetag.data.manifest import FIELDS, Manifest, Rows, read_manifest, relative_root, stream_rows, write_manifest
from truetag.data.vocabulary import build_vocabulary
from truetag.errors import InputError
from truetag.io.files import refuse_existing
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import counted, require_file, shown, text_lines

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


@takes_paths
def split(
    manifest: Path,
    out: Path,
    *,
    lists: dict[str, Path] | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    group_copies: bool = False,
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
        group_copies: put copies of one photo or clip into one `group`, which stays together in every split and fold.
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
    digests = digests_of(content)
    groups: list[str | None] = content.rows["group"][:]
    if group_copies:
        groups = groups_with_copies(groups, digests)
    if any(fractions.values()):
        indices = [index for index, name in enumerate(splits) if name in (None, "train")]
        if not indices:
            raise InputError(f"{manifest}: expected train rows to draw from, got none")
        import torch  # here: most mistakes are found without it

        from truetag.data.labels import observed_labels
        from truetag.data.stratify import stratified_split

        candidates = content.rows.select(indices)
        vocabulary = build_vocabulary(candidates, MAX_LABELS)
        wanted = {"train": 1 - sum(fractions.values())} | {name: part for name, part in fractions.items() if part}
        generator = torch.Generator().manual_seed(seed)
        drawn = stratified_split(
            observed_labels(candidates, vocabulary), wanted, generator, [groups[index] for index in indices]
        )
        if empty := set(wanted) - set(drawn):
            raise InputError(f"{manifest}: {len(indices)} train rows are too few for {wanted}; none for {min(empty)}")
        for name, fraction in fractions.items():
            if fraction and (there := splits.count(name)):
                moved = counted(drawn.count(name), "train row")
                tell(f"warning: {moved} moved to the {there} {name} rows of the manifest")
        for index, name in zip(indices, drawn, strict=True):
            splits[index] = name
    _tell_of_copies(content, splits, digests, group_copies)
    header = content.header | {"media_root": relative_root(content.media_root, out)}
    rows = zip(stream_rows(content.rows, FIELDS), splits, groups, strict=True)
    write_manifest(out, (row | {"split": name, "group": group} for row, name, group in rows), header)
    return dict(sorted(Counter(name or "" for name in splits).items()))


def _tell_of_copies(
    content: Manifest, splits: Sequence[str | None], digests: Sequence[str | None], group_copies: bool
) -> None:
    """Say how many rows have a copy in another split: scores on them are too high.

    Args:
        content: the manifest.
        splits: of its rows.
        digests: of their content.
        group_copies: whether copies were kept together already.
    """
    pairs = list(copies_across(splits, digests))
    if pairs:
        first, second = (content.rows[index]["id"] for index in pairs[0])
        if group_copies:
            advice = "the splits were there before, and are left as they are"
        else:
            advice = "--group-copies keeps copies together"
        copies = f"{counted(len(pairs), 'row')} with a copy of a photo in another split"
        tell(f"warning: {copies}, such as {shown(second)} and {shown(first)}: scores are a little too high; {advice}")


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
