"""One part of the inputs, for machines that share nothing but a scheduler."""

import re
from pathlib import Path
from typing import NamedTuple

from truetag.errors import InputError


class Shard(NamedTuple):
    """Part `number` of `total`, counted from 1."""

    number: int
    total: int

    def rows(self, num_rows: int) -> range:
        """The rows of this part: neighbours, so that all parts, one after the other, are all rows in their order.

        >>> [list(Shard(number, 3).rows(7)) for number in (1, 2, 3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range((self.number - 1) * num_rows // self.total, self.number * num_rows // self.total)

    def path(self, out: Path) -> Path:
        """The file of this part; by name, parts stand in their order.

        >>> Shard(3, 64).path(Path("tags.parquet"))
        PosixPath('tags-00003-of-00064.parquet')
        """
        return out.with_name(f"{out.stem}-{self.number:05d}-of-{self.total:05d}{out.suffix}")


def parse_shard(text: str) -> Shard:
    """A part by its name, such as "3/64".

    Raises:
        InputError: it is no such name.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"shard: expected NUMBER/COUNT, from 1/COUNT to COUNT/COUNT, such as 3/64, got {text!r}")
    return Shard(int(match[1]), int(match[2]))
