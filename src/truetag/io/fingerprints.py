"""Fingerprints: short names of contents, equal for equal contents and, for all practical purposes, only for those."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

NUM_BYTES = 16


def fingerprint(parts: Iterable[str | bytes | memoryview], num_bytes: int = NUM_BYTES) -> str:
    """The fingerprint of parts, one after the other, in hexadecimal digits.

    >>> fingerprint(["ab", b"c"], num_bytes=4) == fingerprint(["abc"], num_bytes=4)
    True
    """
    digest = hashlib.blake2b(digest_size=num_bytes)
    for part in parts:
        digest.update(part.encode(errors="surrogatepass") if isinstance(part, str) else part)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """The fingerprint of a file's content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=NUM_BYTES)).hexdigest()
