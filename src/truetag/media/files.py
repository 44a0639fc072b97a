"""Photos by name, and those that cannot be used: skipped, counted, listed; too many of them stop the run."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from truetag.errors import InputError
from truetag.io.files import write_text
from truetag.io.terminal import tell
from truetag.media.photos import check_file, read_photo

MAX_SKIPPED = 0.5
"""Share of the photos that may be unusable before a command stops: above it the input is wrong, not a photo."""


class Skipped(NamedTuple):
    """A photo that could not be used, and why."""

    id: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Photos:
    """N photos: the ids of their rows, their files, and the folder that each may not lead out of (None: any)."""

    ids: Sequence[str]
    paths: Sequence[Path]
    roots: Sequence[Path | None]

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def select(self, positions: Iterable[int]) -> "Photos":
        """Some of them, in the order of `positions`."""
        chosen = list(positions)
        return Photos([self.ids[i] for i in chosen], [self.paths[i] for i in chosen], [self.roots[i] for i in chosen])

    def read(self, position: int) -> Image.Image:
        """Decode one.

        Raises:
            MediaError: it cannot be used.
        """
        return read_photo(self.paths[position], self.roots[position])

    def check(self, position: int) -> os.stat_result:
        """Look at the file of one, without reading it.

        Raises:
            MediaError: it cannot be used.
        """
        return check_file(self.paths[position], self.roots[position])

    def skip(self, position: int, reason: object) -> Skipped:
        """The entry of the skip list for one."""
        return Skipped(self.ids[position], self.paths[position], str(reason))

    def skip_all(self, reasons: Mapping[int, str]) -> list[Skipped]:
        """The skip list of those at the positions that have a reason, in order."""
        return [self.skip(position, reasons[position]) for position in sorted(reasons)]

    def check_reasons(self, reasons: Mapping[int, str], max_skipped: float) -> None:
        """`check_skipped` for reasons by position; the list is made only where it is told.

        Raises:
            InputError: there are more than the share `max_skipped` of all photos.
        """
        if len(reasons) > max_skipped * len(self):
            check_skipped(self.skip_all(reasons), len(self), max_skipped)


def check_skipped(skipped: Sequence[Skipped], total: int, max_skipped: float) -> None:
    """Stop as soon as more than the share `max_skipped` of `total` photos is known to be unusable.

    Raises:
        InputError: it is; the message counts the reasons.
    """
    if len(skipped) > max_skipped * total:
        first = skipped[0]
        raise InputError(
            f"max_skipped: more than the share {max_skipped:g} of {total} photos cannot be used: "
            f"{count_reasons(skipped)}; the first is {first.path} ({first.reason})"
        )


def check_share(max_skipped: float) -> None:
    """Hold `max_skipped` to its range.

    Raises:
        InputError: it is not a share.
    """
    if not 0 <= max_skipped <= 1:
        raise InputError(f"max_skipped must be between 0 and 1, got {max_skipped}")


def count_reasons(skipped: Sequence[Skipped]) -> str:
    """The reasons, the most frequent first.

    >>> count_reasons([Skipped("a", Path("a.jpg"), "no such file"), Skipped("b", Path("b.jpg"), "no such file")])
    '2 x no such file'
    """
    # what stands in brackets differs from file to file
    counts = Counter(entry.reason.partition(" (")[0] for entry in skipped)
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(5))


def write_skipped(path: Path, skipped: Sequence[Skipped], total: int) -> None:
    """List those of `total` photos that could not be used, one JSON line each, and tell of it.

    Without any, no list (nor an older one) is left.
    """
    if not skipped:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps(entry._asdict() | {"path": str(entry.path)}) + "\n" for entry in skipped]
    write_text(path, "".join(lines))
    tell(f"{len(skipped)} of {total} photos cannot be used ({count_reasons(skipped)}); they are listed in {path}")
