"""Copies of one photo or clip: rows whose files have the same content."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from truetag.data.manifest import Manifest, stream_rows
from truetag.io.terminal import Progress
from truetag.media.digests import default_cache_folder, digest_files
from truetag.media.files import MediaFiles, SkipList

_FILES_AT_A_TIME = 256


def digests_of(manifest: Manifest) -> list[str | None]:
    """The content digest of each row's photo or clip; None for rows of other media and for files that cannot be read.

    Files that were read before and have not changed are not read again.
    """
    names = [row.get("image") or row.get("video") for row in stream_rows(manifest.rows, ("image", "video"))]
    rows = [index for index, name in enumerate(names) if name]
    paths = [manifest.media_root / str(names[index]) for index in rows]
    files = MediaFiles([str(index) for index in rows], paths, [None] * len(paths))
    digests: list[str | None] = [None] * len(names)
    memo = default_cache_folder() / "digests.jsonl"
    memo.parent.mkdir(parents=True, exist_ok=True)
    skips = SkipList(1.0, len(files))  # a file that is not there has no copy; other commands list it
    with Progress("looking for copies", len(files)) as progress:
        for start in range(0, len(files), _FILES_AT_A_TIME):
            chunk = range(start, min(start + _FILES_AT_A_TIME, len(files)))
            for index, digest in zip(chunk, digest_files(files.select(chunk), memo, skips), strict=True):
                digests[rows[index]] = digest
            progress.advance(len(chunk))
    return digests


def groups_with_copies(groups: Sequence[str | None], digests: Sequence[str | None]) -> list[str | None]:
    """The groups of N rows with copies in one group; groups that share a copy become one.

    >>> groups_with_copies([None, "g", None, "h", None], ["x", "x", "y", "y", "z"])
    ['g', 'g', 'h', 'h', None]
    """
    rows_of: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (group, digest) in enumerate(zip(groups, digests, strict=True)):
        for kind, name in (("group", group), ("digest", digest)):
            if name is not None:
                rows_of[kind, name].append(row)
    parent = list(range(len(groups)))

    def first_of(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for rows in rows_of.values():
        for row in rows[1:]:
            one, other = sorted((first_of(rows[0]), first_of(row)))
            parent[other] = one
    firsts = [first_of(row) for row in range(len(groups))]
    sizes = Counter(firsts)
    names: dict[int, str] = {}
    for row, first in enumerate(firsts):
        if (group := groups[row]) is not None:
            names.setdefault(first, group)
    return [
        names.get(first, f"copies of row {first + 1}") if sizes[first] > 1 else groups[row]
        for row, first in enumerate(firsts)
    ]


def copies_across(splits: Sequence[str | None], digests: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Pairs of rows with the same content in different splits: each row with the first one of another split."""
    first: dict[str, int] = {}
    for row, digest in enumerate(digests):
        if digest is not None and splits[first.setdefault(digest, row)] != splits[row]:
            yield first[digest], row
