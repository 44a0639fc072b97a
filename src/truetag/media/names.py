"""Files for the names in a table: names in another spelling, without suffix, or with folders of another machine.

A file is taken only where it is the one that can be meant. The order of the rules: the name as it stands; another
spelling (case, Unicode form, backslashes, URLs); another suffix or none; the end of the name is the file's path, or the
name is the end of it.
"""

import difflib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from truetag.io.text import counted, shown
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.photos import PHOTO_SUFFIXES

AS_WRITTEN = "as written"
SPELLING = "in another spelling"
SUFFIX = "with another suffix"
TAIL = "by the end of a path"
COMPANIONS = ("._", ".", "Thumbs.db", "__MACOSX", "@eaDir", "desktop.ini")
"""How the names begin of what file managers leave beside photos."""

_SUFFIXES = frozenset({*PHOTO_SUFFIXES, *CLIP_SUFFIXES})
_NUM_NEAREST = 10  # so many missing names are looked for in spellings that are merely near


class FoundFile(NamedTuple):
    """The path below the folder that a name means (None if there is none), by which rule, and what to say otherwise."""

    name: str | None
    how: str = AS_WRITTEN
    hint: str = ""


def find_files(folder: Path, names: Sequence[str]) -> list[FoundFile]:
    """The files in a folder that names mean, in the order of the names.

    The folder is listed only if a name is not there as it stands.
    """
    found = {name: FoundFile(name) for name in set(names) if _is_there(folder, name)}
    missing = [name for name in dict.fromkeys(names) if name not in found]
    if missing:
        index = _Index(list_files(folder))
        found |= index.find(missing, taken=set(found))
    return [found[name] for name in names]


def describe_names(found: Sequence[FoundFile]) -> list[str]:
    """How names were found that do not stand there as written, with an example of each way."""
    notes = []
    for how in (SPELLING, SUFFIX, TAIL):
        examples = [file for file in found if file.name is not None and file.how == how]
        if examples:
            notes.append(f"{counted(len(examples), 'name')} found {how}: {examples[0].hint}")
    return notes


def list_files(folder: Path) -> list[str]:
    """All files below a folder, as paths relative to it, without the companions of file managers.

    A folder that is called like a photo is among them: it cannot be used, and whoever reads it says so.
    """
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(COMPANIONS))
        below = os.path.relpath(where, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        named = [name for name in folders if PurePosixPath(name).suffix.lower() in _SUFFIXES]
        found += [prefix + name for name in sorted([*files, *named]) if not name.startswith(COMPANIONS)]
    return found


class _Index:
    """The files of a folder by what is left of their paths when spelling and suffix do not count."""

    def __init__(self, files: Iterable[str]) -> None:
        self.by_spelling: defaultdict[str, list[str]] = defaultdict(list)
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        self.by_last: defaultdict[str, list[str]] = defaultdict(list)
        self.by_last_stem: defaultdict[str, list[str]] = defaultdict(list)
        for file in files:
            plain = _plain(file)
            self.by_spelling[plain].append(file)
            self.by_last[_last(plain)].append(file)
            if (stem := _stem(plain)) != plain:
                self.by_stem[stem].append(file)
                self.by_last_stem[_last(stem)].append(file)

    def find(self, names: Sequence[str], taken: set[str]) -> dict[str, FoundFile]:
        """The file of each name; a file that several names reach, or that is taken, is given to none of them."""
        reached: defaultdict[str, list[str]] = defaultdict(list)
        how: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for name in names:
            files, how[name] = self._candidates(name)
            if len(files) == 1 and files[0] not in taken:
                reached[files[0]].append(name)
            elif len(files) > 1:
                reasons[name] = f"no such file (it may be {shown(files[0])} or {shown(files[1])})"
            elif files:
                reasons[name] = f"no such file ({shown(files[0])} is named by another row)"
        found = {}
        for file, several in reached.items():
            for name in several:
                if len(several) == 1:
                    found[name] = FoundFile(file, how[name], f"{shown(name)} is {shown(file)}")
                else:
                    reasons[name] = (
                        f"no such file ({shown(several[0])} and {shown(several[1])} both may be {shown(file)})"
                    )
        lost = [name for name in names if name not in found]
        for name in lost[:_NUM_NEAREST]:
            if name not in reasons and (near := self._nearest(name)):
                reasons[name] = f"no such file (the nearest name is {shown(near)})"
        return found | {name: FoundFile(None, hint=reasons.get(name, "")) for name in lost}

    def _candidates(self, name: str) -> tuple[list[str], str]:
        """The files that a name may mean by the first rule that finds any, and that rule."""
        plain = _plain(name)
        if ".." in plain.split("/"):
            return [], AS_WRITTEN
        if files := self.by_spelling.get(plain):
            return files, SPELLING
        stem = _stem(plain)
        if files := self.by_stem.get(stem):
            return files, SUFFIX
        for text, whole, last in ((plain, self.by_spelling, self.by_last), (stem, self.by_stem, self.by_last_stem)):
            parts = text.split("/")
            ends = ("/".join(parts[start:]) for start in range(1, len(parts)))  # the longest first
            if files := next((whole[end] for end in ends if end in whole), []):
                return files, TAIL
            if files := [file for file in last.get(parts[-1], []) if self._ends_with(file, text)]:
                return files, TAIL
        return [], AS_WRITTEN

    def _ends_with(self, file: str, end: str) -> bool:
        plain = _plain(file)
        return f"/{plain}".endswith(f"/{end}") or f"/{_stem(plain)}".endswith(f"/{end}")

    def _nearest(self, name: str) -> str | None:
        close = difflib.get_close_matches(_last(_plain(name)), self.by_last.keys(), 1, 0.8)
        return self.by_last[close[0]][0] if close else None


def _is_there(folder: Path, name: str) -> bool:
    try:
        return bool(name) and os.path.lexists(folder / name)
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _plain(name: str) -> str:
    """A name without what differs between file systems and programs."""
    text = name.strip()
    if "://" in text or text.startswith("file:"):
        text = unquote(urlsplit(text).path)
    text = text.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", "/".join(parts)).casefold())


def _stem(plain: str) -> str:
    """A path without the suffix of a photo or clip."""
    suffix = PurePosixPath(plain).suffix
    return plain.removesuffix(suffix) if suffix in _SUFFIXES else plain


def _last(plain: str) -> str:
    return plain.rpartition("/")[2]
