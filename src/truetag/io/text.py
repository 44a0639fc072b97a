"""Text files made by people: UTF-8, line by line, strict JSON; one short message for whatever is wrong."""

import codecs
import json
import math
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truetag.errors import InputError
from truetag.io.terminal import printable

LINE_LIMIT = 100_000_000  # bytes; a longer line is refused


def parse_line(where: str, text: str) -> dict[str, Any] | None:
    """The JSON object of a line, or None for a blank line.

    Raises:
        InputError: the line holds something else; the message begins with `where`.
    """
    text = text.strip()
    if not text:
        return None
    try:
        row = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not a JSON object ({error}); got {shown(text)}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, got {shown(text)}")
    return row


def shown(value: object) -> str:
    """A value as messages quote it: one line of at most 80 characters, with escapes for what cannot be printed."""
    short = reprlib.Repr()  # which bounds the depth too; repr would fail on deep values
    short.maxstring, short.maxother, short.maxlevel = 60, 60, 2
    return one_line(short.repr(value), 80)


def one_line(text: object, most: int = 160) -> str:
    """A text as part of a message: one line of at most `most` characters, with escapes for control characters."""
    start = printable(" ".join(str(text)[: 10 * most].split()))
    return start if len(start) <= most else start[: most - 3] + "..."


def require_file(path: Path, kind: str) -> None:
    """Refuse what is no regular file before it is opened: opening a pipe would wait for a writer.

    Raises:
        InputError: there is no file at `path`; the message calls the missing file a `kind`.
    """
    if not path.is_file():
        raise InputError(f"{path}: is a folder, expected a {kind}" if path.is_dir() else f"{path}: no such {kind}")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""The lines of a UTF-8 file, numbered from 1, with their line ends (\n, \r\n or \r), without a byte-order mark."""
    number = 0
    with path.open("rb") as file:
        require_text(path, file.peek(64))
        while chunk := file.readline(LINE_LIMIT + 1):
            if len(chunk) > LINE_LIMIT:
                raise InputError(f"{path}, line {number + 1}: expected at most {LINE_LIMIT} bytes a line, got more")
            for line in (chunk if number else chunk.removeprefix(codecs.BOM_UTF8)).splitlines(keepends=True):
                number += 1
                yield number, decode(f"{path}, line {number}", line)


def read_json(path: Path) -> Any:
    """The JSON value in a UTF-8 file, with or without a byte-order mark.

    Raises:
        InputError: the file holds something else.
    """
    encoded = path.read_bytes()
    require_text(path, encoded[:64])
    text = decode(str(path), encoded).removeprefix("\ufeff")
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error}); got {shown(text[:80])}") from None


def parse_json(text: str) -> Any:
    """A JSON value without NaN, Infinity, duplicate keys, or half of a surrogate pair.

    Raises:
        ValueError: the text is anything else; the message is short.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg.removesuffix(' at')} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!r} is half of a surrogate pair, no text") from None
    except ValueError as error:  # also an integer of more digits than Python reads
        raise ValueError(one_line(str(error).split(";")[0])) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError(f"a key is given twice; got {shown([name for name, _ in pairs])}")
    return values


# how files begin that people mistake for tables
_SIGNATURES = {
    b"PAR1": "a Parquet file (the name of one must end in .parquet)",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"PK\x03\x04": "a zip archive or an office document; unpack or export it first",
    codecs.BOM_UTF16_LE: "UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16; save it as UTF-8",
}


def require_text(path: Path, start: bytes) -> None:
    """Refuse a file that does not begin like UTF-8 text.

    Raises:
        InputError: it begins like another kind of file; the message names that kind.
    """
    zeros = sorted((start[:64:2].count(0), start[1:64:2].count(0)))
    if len(start) >= 8 and zeros[0] == 0 and zeros[1] >= 0.4 * len(start[:64]):  # letters without a byte-order mark
        start = codecs.BOM_UTF16_LE
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(f"{path}: not UTF-8 text; expected UTF-8, this looks like {kind}")


def decode(where: str, content: bytes) -> str:
    """Decode UTF-8 text.

    Raises:
        InputError: the content is not UTF-8; the message names the first wrong byte.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        got = f"0x{content[error.start]:02x} as byte {error.start + 1} of it ({error.reason})"
        raise InputError(f"{where}: not UTF-8 text; expected UTF-8, got {got}; was it saved as Latin-1?") from None


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "row"), counted(1200, "row"), counted(2, "copy", "copies")
    ('1 row', '1,200 rows', '2 copies')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """A time as a person reads it.

    >>> duration(12.3), duration(600.0), duration(9000.0)
    ('12 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def file_size(size: int) -> str:
    """A number of bytes as a person reads it."""
    return f"{math.ceil(size / 1e5) / 10:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
