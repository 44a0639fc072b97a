"""A person's changes to the words of a vocabulary: a table with the columns word, action and to.

add      the word is kept, however rare
drop     the word is no entry
merge    the word is no entry; where it is named, `to` is present (plural, synonym)
rename   the same, for a word that shall have another name
imply    the word stays, and where it is named, `to` is present too (child and parent)
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from truetag.data.words import normalise
from truetag.errors import InputError
from truetag.io.text import require_file, shown, text_lines

ACTIONS = ("add", "drop", "merge", "rename", "imply")
_COLUMNS = ["word", "action", "to"]


@dataclass(frozen=True)
class WordChanges:
    """What a table of changes says, with chains followed to their end."""

    added: tuple[str, ...] = ()
    """Words to keep, however rare."""
    removed: frozenset[str] = frozenset()
    """Words that are no entries."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each word the other words that make it present."""

    @property
    def names(self) -> list[str]:
        """All words to look for in the captions."""
        return list(
            dict.fromkeys([*self.added, *self.aliases, *(name for names in self.aliases.values() for name in names)])
        )


class _Change(NamedTuple):
    location: str
    word: str
    action: str
    to: str


def read_changes(path: Path) -> WordChanges:
    """Read a table of changes, with commas, semicolons or tabs between its columns.

    Raises:
        InputError: the file is missing or malformed, or its changes contradict each other.
    """
    changes = list(_read_table(path))
    decided: dict[str, _Change] = {}
    targets: dict[str, list[str]] = {}
    for change in changes:
        if change.action != "imply" and decided.setdefault(change.word, change) is not change:
            first = decided[change.word]
            raise InputError(
                f"{change.location}: {shown(change.word)}: expected one of add, drop, merge and rename, got "
                f"{first.action} and {change.action}"
            )
        if change.to:
            targets.setdefault(change.word, []).append(change.to)
    for change in changes:
        if change.to in decided and decided[change.to].action == "drop":
            raise InputError(f"{change.location}: {shown(change.to)} is dropped in the same table")
    aliases: dict[str, list[str]] = {}
    for word in targets:
        for target in _reached(path, word, targets):
            aliases.setdefault(target, []).append(word)
    removed = {word for word, change in decided.items() if change.action != "add"}
    return WordChanges(
        tuple(word for word, change in decided.items() if change.action == "add"),
        frozenset(removed),
        {target: tuple(words) for target, words in aliases.items() if target not in removed},
    )


def _reached(path: Path, word: str, targets: Mapping[str, list[str]]) -> list[str]:
    reached: list[str] = []
    frontier = list(targets[word])
    while frontier:
        target = frontier.pop(0)
        if target == word:
            raise InputError(f"{path}: {shown(word)} leads back to itself")
        if target not in reached:
            reached.append(target)
            frontier += targets.get(target, [])
    return reached


def _read_table(path: Path) -> Iterator[_Change]:
    require_file(path, "table of changes")
    header: list[str] | None = None
    separator = ","
    for number, line in text_lines(path):
        location = f"{path}, line {number}"
        if not line.strip():
            continue
        if header is None:
            separator = next((mark for mark in "\t;" if mark in line), ",")
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
        if header is None:
            header = [cell.lower() for cell in cells]
            if header != _COLUMNS:
                raise InputError(f"{location}: expected the columns {','.join(_COLUMNS)}, got {shown(','.join(cells))}")
            continue
        word, action, to, *others = [*cells, "", ""] if len(cells) < 3 else cells
        word, action, to = normalise(word), action.lower(), normalise(to)
        if not word or any(others):
            raise InputError(
                f"{location}: expected a word, an action and at most one target, got {shown(line.strip())}"
            )
        if action not in ACTIONS:
            raise InputError(f"{location}: action: expected one of {', '.join(ACTIONS)}, got {shown(action)}")
        if bool(to) != (action in ("merge", "rename", "imply")):
            expected = "no word in column `to`" if to else "a word in column `to`"
            raise InputError(f"{location}: {action}: expected {expected}, got {shown(to)}")
        yield _Change(location, word, action, to)
    if header is None:
        raise InputError(f"{path}: holds no changes")
