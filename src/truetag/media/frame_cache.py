"""The cache of frames: a clip is decoded once and is a bag of photos like any other from then on.

A cache folder belongs to one number of frames per clip and holds

    ab/abcd..01/00.jpg, 01.jpg ..  the frames of the clip whose content has the digest abcd..01, in order
    broken.jsonl                   the digests of broken clips, the reasons, and the PyAV that could not decode them
    files.txt                      what each path held when it was last seen (size, times, digest)

A clip's folder appears whole or not at all, so the next run continues after a kill. Clips are identified by their
content: a changed clip is decoded again, a moved or copied one is not.
"""

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from av import __version__ as PYAV
from PIL import Image

from truetag.errors import InputError
from truetag.io.files import locked, naming, sync_folder
from truetag.io.signals import stoppable
from truetag.io.terminal import Progress
from truetag.io.text import file_size
from truetag.media.clips import NUM_FRAMES, iterate_frames
from truetag.media.digests import Lookup, default_cache_folder, look_up
from truetag.media.files import MediaFiles, SkipList
from truetag.media.photos import MediaError, UnreadableError

_QUALITY = 95
_FIRST_CLIPS = 8  # their size and time predict those of the rest


def cached_frames(
    clips: MediaFiles, skips: SkipList, cache: Path | None = None, num_frames: int = NUM_FRAMES
) -> list[list[Path]]:
    """The frames of each clip as photos on disk; clips that the cache lacks are decoded.

    Args:
        clips: the files to decode.
        skips: gets the clips that cannot be used; they have no frames.
        cache: the folder of all caches; by default the user's.
        num_frames: frames per clip; a clip that has fewer gives all of them.

    Raises:
        InputError: the frames do not fit on the disk, or too many clips cannot be used.
    """
    if num_frames < 1:
        raise InputError(f"num_frames: expected at least 1, got {num_frames}")
    folder = (cache or default_cache_folder()) / "frames" / str(num_frames)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        broken = _read_broken(folder / "broken.jsonl")
        lookup = look_up(
            clips, folder / "files.txt", broken, lambda digest: _clip_folder(folder, digest).is_dir(), skips
        )
        if lookup.missing:
            _decode_missing(lookup, folder, num_frames)
    return [[] if digest is None else _frame_paths(_clip_folder(folder, digest)) for digest in lookup.digests]


def _clip_folder(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / digest


def _frame_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"), key=lambda path: int(path.stem))


def _read_broken(path: Path) -> dict[str, str]:
    """Digest -> reason. Another PyAV may decode what this one cannot, so entries of other versions do not count."""
    broken: dict[str, str] = {}
    path.touch()
    for line in path.read_text(encoding="ascii", errors="replace").split("\n"):
        with suppress(ValueError, TypeError, KeyError):  # a crash may have torn a line; its clip is tried again
            entry = json.loads(line)
            if entry["pyav"] == PYAV:
                broken[entry["digest"]] = entry["reason"]
    return broken


def _decode_missing(lookup: Lookup, cache: Path, num_frames: int) -> None:
    """Write the frames of the missing clips to the cache."""
    digests, clips = list(lookup.missing), lookup.missing_files()

    def write(index: int) -> int | MediaError:
        try:
            frames = iterate_frames(clips.paths[index], num_frames, clips.roots[index])
            return _write_clip(_clip_folder(cache, digests[index]), frames)
        except MediaError as error:
            return error

    started, size = time.monotonic(), 0
    pool = ThreadPoolExecutor(os.cpu_count())  # decoders release Python's lock
    with (
        (cache / "broken.jsonl").open("a") as broken_file,
        Progress("frames", len(clips)) as progress,
        stoppable() as stop,
    ):
        broken_file.write("\n")  # ends a torn line
        try:
            for digest, outcome in zip(digests, _map_ahead(pool, write, len(clips)), strict=True):
                progress.advance(1)
                if isinstance(outcome, MediaError):
                    if not isinstance(outcome, UnreadableError):  # an unreadable file says nothing about its content
                        line = {"digest": digest, "reason": str(outcome), "pyav": PYAV}
                        broken_file.write(json.dumps(line) + "\n")
                        broken_file.flush()
                    lookup.report_broken(digest, str(outcome))
                else:
                    size += outcome
                if progress.done == _FIRST_CLIPS < len(clips):
                    seconds = (time.monotonic() - started) / progress.done * len(clips)
                    needed = size * len(clips) // progress.done
                    _check_disk(cache, len(clips), size, needed)
                    progress.say(
                        f"frames of {len(clips)} clips: about {file_size(needed)} on disk, about {seconds:.0f} s"
                    )
                if stop.requested:
                    progress.say(f"stopped after {progress.done} of {len(clips)} clips; the same command goes on")
                stop.check()
        finally:
            pool.shutdown(cancel_futures=True)


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[int], int | MediaError], count: int
) -> Iterator[int | MediaError]:
    """The results for 0 to `count` - 1 in order; only a few calls start ahead of the result that is due."""
    ahead: deque[Future[int | MediaError]] = deque()
    for index in range(count):
        ahead.append(pool.submit(function, index))
        if len(ahead) >= 4 * (os.cpu_count() or 1):
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _write_clip(folder: Path, frames: Iterator[Image.Image]) -> int:
    """Write a clip's frames, whole or not at all, and return their size in bytes; the caller holds the cache's lock."""
    temporary = folder.with_name(f".{folder.name}.new")
    size = 0
    with naming(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # a killed run may have left it
        temporary.mkdir(parents=True)
        try:
            for number, frame in enumerate(frames):
                with (temporary / f"{number:02d}.jpg").open("wb") as file:
                    frame.save(file, "JPEG", quality=_QUALITY)
                    file.flush()
                    os.fsync(file.fileno())
                    size += file.tell()
            sync_folder(temporary)
            temporary.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return size


def _check_disk(cache: Path, num_clips: int, size: int, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if needed - size > free:  # what is on the disk already fits
        raise InputError(
            f"frames of {num_clips} clips need about {file_size(needed)}, but {cache} has {file_size(free)} free"
        )
