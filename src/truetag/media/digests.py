"""Files identified by their content: digests, with a memo so that unchanged files are not read again.

Also where the caches live, which are keyed by these digests.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from truetag.io.files import naming
from truetag.io.fingerprints import fingerprint_file
from truetag.media.files import MediaFiles, SkipList
from truetag.media.photos import MediaError


def default_cache_folder() -> Path:
    """`$TRUETAG_CACHE`, or `truetag` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TRUETAG_CACHE") or Path(home) / "truetag")


def digest_files(files: MediaFiles, memo_path: Path, skips: SkipList) -> list[str | None]:
    """The content digest of each file, None for one that cannot be read; unchanged files come from the memo.

    Raises:
        InputError: too many files cannot be read.
    """
    memo = _read_memo(memo_path)
    digests: list[str | None] = []
    with naming(memo_path), memo_path.open("a") as memo_file:
        memo_file.write("\n")  # ends a torn line
        for index, path in enumerate(files.paths):
            try:
                status = files.check(index)
                name = str(path.resolve())
                # programs cannot set the change time, so a rewritten file never looks unchanged
                signature = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                if memo.get(name, ("", ""))[0] != signature:
                    memo[name] = (signature, fingerprint_file(path))
                    memo_file.write(json.dumps([name, *memo[name]]) + "\n")
                digests.append(memo[name][1])
            except (MediaError, OSError) as error:
                digests.append(None)
                reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                skips.report(files.skip(index, reason))
    return digests


def _read_memo(path: Path) -> dict[str, tuple[str, str]]:
    """Path -> signature and digest."""
    memo: dict[str, tuple[str, str]] = {}
    path.touch()
    for line in path.read_text(encoding="ascii", errors="replace").split("\n"):
        with suppress(ValueError, TypeError):  # a crash may have torn a line; its file is read again
            name, signature, digest = json.loads(line)
            memo[str(name)] = (str(signature), str(digest))
    return memo


@dataclass(frozen=True)
class Lookup:
    """What a cache has, and what it lacks, of some files."""

    files: MediaFiles
    digests: list[str | None]
    """The content digest of each file; None for one that cannot be used."""
    missing: dict[str, list[int]]
    """Each digest that the cache lacks, and the indices of the files with this content."""
    skips: SkipList

    def missing_files(self) -> MediaFiles:
        """One file for each missing digest, in the order of `missing`."""
        return self.files.select(indices[0] for indices in self.missing.values())

    def report_broken(self, digest: str, reason: str) -> None:
        """Report the files with this missing digest as unusable.

        Raises:
            InputError: too many files cannot be used.
        """
        for index in self.missing[digest]:
            self.digests[index] = None
        self.skips.report_all(self.files.skip(index, reason) for index in self.missing[digest])


def look_up(
    files: MediaFiles,
    memo_path: Path,
    broken: Mapping[str, str],
    is_cached: Callable[[str], bool],
    skips: SkipList,
) -> Lookup:
    """Find files in a cache by their content.

    Args:
        files: what to look for.
        memo_path: the memo of `digest_files`.
        broken: digest -> reason of the contents that the cache knows to be unusable.
        is_cached: whether the cache has a digest.
        skips: gets the files that cannot be used.

    Raises:
        InputError: too many files cannot be used.
    """
    lookup = Lookup(files, digest_files(files, memo_path, skips), {}, skips)
    for index, digest in enumerate(lookup.digests):
        if digest is None:
            continue
        if digest in broken:
            lookup.digests[index] = None
            skips.report(files.skip(index, broken[digest]))
        elif not is_cached(digest):
            lookup.missing.setdefault(digest, []).append(index)
    return lookup
