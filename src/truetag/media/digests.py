"""Files known by their content: digests, with a memo so that unchanged files are not read again; where caches live."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from truetag.io.files import naming
from truetag.media.files import Photos, Skipped
from truetag.media.photos import MediaError


def default_cache_folder() -> Path:
    """`$TRUETAG_CACHE`, or `truetag` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TRUETAG_CACHE") or Path(home) / "truetag")


def digest_files(photos: Photos, memo_path: Path) -> tuple[list[str | None], dict[int, str]]:
    """Content digests, None for files that cannot be read (with the reasons); unchanged files come from the memo."""
    memo: dict[str, tuple[str, str]] = {}
    memo_path.touch()
    for line in memo_path.read_text(encoding="ascii", errors="replace").split("\n"):
        with suppress(ValueError, TypeError):  # a line torn by a crash: its file is read again
            path, signature, digest = json.loads(line)
            memo[str(path)] = (str(signature), str(digest))
    digests: list[str | None] = []
    reasons: dict[int, str] = {}
    with naming(memo_path), memo_path.open("a") as file:
        file.write("\n")  # ends a torn line
        for position, path in enumerate(photos.paths):
            try:
                status = photos.check(position)
                name = str(path.resolve())
                # the change time cannot be set by a program: a rewritten file never looks unchanged
                signature = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                if memo.get(name, ("", ""))[0] != signature:
                    with path.open("rb") as photo:
                        digest = hashlib.file_digest(photo, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
                    memo[name] = (signature, digest)
                    file.write(json.dumps([name, signature, digest]) + "\n")
                digests.append(memo[name][1])
            except (MediaError, OSError) as error:
                digests.append(None)
                reasons[position] = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
    return digests, reasons


@dataclass(frozen=True)
class Lookup:
    """What a cache has and lacks of some files: `missing` leads from a digest to the positions that have it."""

    files: Photos
    digests: list[str | None]
    reasons: dict[int, str]
    missing: dict[str, list[int]]
    max_skipped: float

    @property
    def wanted(self) -> dict[str, int]:
        """Each missing digest, and the first position that has it."""
        return {digest: places[0] for digest, places in self.missing.items()}

    @property
    def skipped(self) -> list[Skipped]:
        """The files that cannot be used."""
        return self.files.skip_all(self.reasons)

    def note_broken(self, digest: str, reason: str) -> None:
        """A missing one cannot be used.

        Raises:
            InputError: more than the share `max_skipped` of the files cannot.
        """
        self.reasons.update(dict.fromkeys(self.missing[digest], reason))
        self.files.check_reasons(self.reasons, self.max_skipped)


def look_up(
    files: Photos, memo_path: Path, broken: Mapping[str, str], is_cached: Callable[[str], bool], max_skipped: float
) -> Lookup:
    """Find files in a cache by their content.

    Args:
        files: their ids, paths and roots.
        memo_path: the memo of `digest_files`.
        broken: digest -> reason of those that are known to be of no use.
        is_cached: whether the cache has a digest.
        max_skipped: share of the files that may be of no use.

    Raises:
        InputError: more of them are.
    """
    digests, reasons = digest_files(files, memo_path)
    missing: dict[str, list[int]] = {}
    for position, digest in enumerate(digests):
        if digest is None:
            continue
        if digest in broken:
            reasons[position] = broken[digest]
        elif not is_cached(digest):
            missing.setdefault(digest, []).append(position)
    files.check_reasons(reasons, max_skipped)
    return Lookup(files, digests, reasons, missing, max_skipped)
