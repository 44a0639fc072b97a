"""Photos and clips by name, how they are read, and the list of those that cannot be used; too many stop the command."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from truetag.errors import InputError
from truetag.io.files import write_text
from truetag.io.terminal import tell
from truetag.media.photos import MediaError, PhotoContent, check_file, decode_photo, read_photo

MAX_SKIPPED = 0.5
"""Above this share of unusable files the input as a whole is wrong (another folder, say), not single files of it."""


@dataclass(frozen=True)
class Reading:
    """How a command reads photos and clips."""

    cache: Path | None = None
    """Where features and the frames of clips are cached; by default in the user's cache folder."""
    max_skipped: float = MAX_SKIPPED
    """Stop if more than this share of the photos and clips cannot be used."""
    allow_outside: bool = False
    """Read photos and clips that lie outside the manifest's media root."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped <= 1:
            raise InputError(f"max_skipped: expected a share between 0 and 1, got {self.max_skipped:g}")

    def fence(self, media_root: Path) -> Path | None:
        """The folder that files may not lie outside; None if they may lie anywhere."""
        return None if self.allow_outside else media_root.resolve()


@dataclass(frozen=True)
class MediaFiles:
    """N photos or clips: the ids of their rows, their paths, and the folder each must lie in (None: anywhere)."""

    ids: Sequence[str]
    paths: Sequence[Path]
    roots: Sequence[Path | None]
    contents: Sequence[PhotoContent | None] | None = None
    """What is in memory already and not read from disk; None for a file that is."""
    rows: Sequence[int] | None = None
    """The row of each in a file of embeddings, which `paths` names; None for photos and clips."""

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def select(self, indices: Iterable[int]) -> "MediaFiles":
        """Some of the files, in the order of `indices`."""
        some = list(indices)
        return MediaFiles(
            [self.ids[i] for i in some],
            [self.paths[i] for i in some],
            [self.roots[i] for i in some],
            None if self.contents is None else [self.contents[i] for i in some],
            None if self.rows is None else [self.rows[i] for i in some],
        )

    def read(self, index: int) -> Image.Image:
        """Decode one photo.

        Raises:
            MediaError: it cannot be used.
        """
        if self.rows is not None:
            raise MediaError("embeddings, not a photo")
        content = None if self.contents is None else self.contents[index]
        if content is not None:
            return decode_photo(content)
        return read_photo(self.paths[index], self.roots[index])

    def check(self, index: int) -> os.stat_result:
        """Look at one file without opening it.

        Raises:
            MediaError: it cannot be used.
        """
        return check_file(self.paths[index], self.roots[index])

    def signatures(self) -> Iterator[str]:
        """The path, size and time of each file: what changes when a file does."""
        for path in self.paths:
            try:
                status = path.stat()
                signature = f"{status.st_size} {status.st_mtime_ns}"
            except (OSError, ValueError):
                signature = "none"
            yield json.dumps([str(path), signature])

    def skip(self, index: int, reason: object) -> "Skipped":
        """The entry of one file in a `SkipList`."""
        return Skipped(self.ids[index], self.paths[index], str(reason))


class Skipped(NamedTuple):
    """A photo or clip that cannot be used, and why."""

    id: str
    path: Path
    reason: str


class SkipList:
    """The files that cannot be used, each once, in the order in which readers report them.

    A reader first announces how many files it is going to read (`expect`) and then reports those that it cannot use.
    As soon as more than the share `max_skipped` of all expected files is on the list, a report raises an error.

    >>> skips = SkipList(max_skipped=0.5, total=2)
    >>> skips.report(Skipped("a", Path("a.jpg"), "no such file"))
    >>> len(skips)
    1
    """

    def __init__(self, max_skipped: float = MAX_SKIPPED, total: int = 0) -> None:
        self.max_skipped, self.total = max_skipped, total
        self._entries: dict[tuple[str, Path], Skipped] = {}

    def __len__(self) -> int:
        """How many files cannot be used."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Skipped]:
        return iter(self._entries.values())

    def expect(self, num_files: int) -> None:
        """Announce that so many more files are going to be read."""
        self.total += num_files

    def report(self, entry: Skipped) -> None:
        """Add a file that cannot be used.

        Raises:
            InputError: more than the share `max_skipped` of the expected files cannot be used.
        """
        self.report_all([entry])

    def report_all(self, entries: Iterable[Skipped]) -> None:
        """Add files that cannot be used.

        Raises:
            InputError: more than the share `max_skipped` of the expected files cannot be used; the message counts the
                reasons.
        """
        num_before = len(self)
        for entry in entries:
            self.list_only(entry)
        if len(self) > num_before and len(self) > self.max_skipped * self.total:
            first = next(iter(self))
            raise InputError(
                f"max_skipped: more than the share {self.max_skipped:g} of {self.total} photos cannot be used: "
                f"{self.count_reasons()}; the first is {first.path} ({first.reason})"
            )

    def list_only(self, entry: Skipped) -> None:
        """Add a file without holding the list to `max_skipped`: its reason does not cast doubt on the other files."""
        self._entries.setdefault((entry.id, entry.path), entry)

    def count_reasons(self) -> str:
        """The reasons with their counts, the most frequent first.

        >>> skips = SkipList(total=4)
        >>> skips.report_all([Skipped("a", Path("a"), "no such file"), Skipped("b", Path("b"), "no such file")])
        >>> skips.count_reasons()
        '2 x no such file'
        """
        # the text in brackets differs from file to file
        counts = Counter(entry.reason.partition(" (")[0] for entry in self)
        return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(5))

    def write(self, path: Path) -> None:
        """Write the list as one JSON object per line and say so; an empty list leaves no file, not even an old one."""
        if not len(self):
            path.unlink(missing_ok=True)
            return
        write_text(path, "".join(json.dumps(entry._asdict() | {"path": str(entry.path)}) + "\n" for entry in self))
        tell(f"{len(self)} of {self.total} photos cannot be used ({self.count_reasons()}); they are listed in {path}")

    def to_json(self) -> list[list[str]]:
        """The entries as JSON can hold them: [id, path, reason] each."""
        return entries_to_json(self)

    def restore(self, entries: Iterable[Sequence[str]]) -> None:
        """Report the entries that `to_json` or `entries_to_json` has given.

        Raises:
            InputError: more than the share `max_skipped` of the expected files cannot be used.
        """
        self.report_all(Skipped(name, Path(path), reason) for name, path, reason in entries)


def entries_to_json(entries: Iterable[Skipped]) -> list[list[str]]:
    """Entries as JSON can hold them: [id, path, reason] each."""
    return [[entry.id, str(entry.path), entry.reason] for entry in entries]
