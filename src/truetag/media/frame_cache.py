"""The cache of frames: a clip is decoded once, after that it is a bag of photos like any other.

A cache folder belongs to one number of frames a clip and holds

    ab/abcd..01/00.jpg, 01.jpg ..  the frames of the clip whose content has the digest abcd..01, in order
    broken.jsonl                   the digests of clips that are broken, why, and which PyAV says so
    files.txt                      what each path held when last seen (size, times, digest)

A clip's folder appears whole or not at all, so a killed run goes on where it was. A clip is known by its content:
changed, it is decoded again; moved or copied, not.
"""

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
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
from truetag.media.files import Photos, Skipped
from truetag.media.photos import MediaError, UnreadableError

_QUALITY = 95
_FIRST_CLIPS = 8  # which tell how much disk and time the rest will take


@dataclass(frozen=True)
class CachedFrames:
    """The frames of a list of clips: `paths[i]` are the photos of clip i, none for a skipped one."""

    paths: list[list[Path]]
    skipped: list[Skipped]


def cached_frames(
    clips: Photos, folder: Path | None = None, num_frames: int = NUM_FRAMES, max_skipped: float = 1.0
) -> CachedFrames:
    """Frames of all clips, decoding those that the cache lacks.

    Args:
        clips: their ids, paths and roots.
        folder: the folder of all caches; by default the user's.
        num_frames: frames of a clip; a clip that has fewer gives all of them.
        max_skipped: stop if more than this share of the clips cannot be used.

    Raises:
        InputError: the frames will not fit on the disk, or more than the share `max_skipped` of the clips is broken.
    """
    if num_frames < 1:
        raise InputError(f"num_frames must be at least 1, got {num_frames}")
    cache = (folder or default_cache_folder()) / "frames" / str(num_frames)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        broken = _read_broken(cache / "broken.jsonl")
        lookup = look_up(
            clips, cache / "files.txt", broken, lambda digest: _clip_folder(cache, digest).is_dir(), max_skipped
        )
        if lookup.missing:
            _extract(lookup, cache, num_frames)
    paths = [
        [] if digest is None or position in lookup.reasons else _frame_paths(_clip_folder(cache, digest))
        for position, digest in enumerate(lookup.digests)
    ]
    return CachedFrames(paths, lookup.skipped)


def _clip_folder(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / digest


def _frame_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"), key=lambda path: int(path.stem))


def _read_broken(path: Path) -> dict[str, str]:
    """Digest -> reason. Another PyAV may decode what this one cannot, so its verdicts count for itself alone."""
    broken: dict[str, str] = {}
    path.touch()
    for line in path.read_text(encoding="ascii", errors="replace").split("\n"):
        with suppress(ValueError, TypeError, KeyError):  # a line torn by a crash: its clip is tried again
            entry = json.loads(line)
            if entry["pyav"] == PYAV:
                broken[entry["digest"]] = entry["reason"]
    return broken


def _extract(lookup: Lookup, cache: Path, num_frames: int) -> None:
    """Write the frames of the missing clips to the cache."""
    clips, wanted = lookup.files, lookup.wanted

    def write(digest: str) -> tuple[str, int | MediaError]:
        position = wanted[digest]
        try:
            frames = iterate_frames(clips.paths[position], num_frames, clips.roots[position])
            return digest, _write_clip(_clip_folder(cache, digest), frames)
        except MediaError as error:
            return digest, error

    started, size = time.monotonic(), 0
    pool = ThreadPoolExecutor(os.cpu_count())  # decoders release Python's lock
    with (
        (cache / "broken.jsonl").open("a") as broken_file,
        Progress("frames", len(wanted)) as progress,
        stoppable() as stop,
    ):
        broken_file.write("\n")  # ends a torn line
        try:
            for digest, outcome in _map_ahead(pool, write, list(wanted)):
                progress.advance(1)
                if isinstance(outcome, MediaError):
                    if not isinstance(outcome, UnreadableError):  # which says nothing of the content
                        line = {"digest": digest, "reason": str(outcome), "pyav": PYAV}
                        broken_file.write(json.dumps(line) + "\n")
                        broken_file.flush()
                    lookup.note_broken(digest, str(outcome))
                else:
                    size += outcome
                if progress.done == _FIRST_CLIPS < len(wanted):
                    seconds = (time.monotonic() - started) / progress.done * len(wanted)
                    needed = size * len(wanted) // progress.done
                    _check_disk(cache, len(wanted), size, needed)
                    progress.say(
                        f"frames of {len(wanted)} clips: about {file_size(needed)} on disk, about {seconds:.0f} s"
                    )
                if stop.requested:
                    progress.say(f"stopped after {progress.done} of {len(wanted)} clips; the same command goes on")
                stop.check()
        finally:
            pool.shutdown(cancel_futures=True)


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[str], tuple[str, int | MediaError]], digests: list[str]
) -> Iterator[tuple[str, int | MediaError]]:
    """The results in order; only a few clips are begun ahead of the one that is waited for."""
    ahead: deque[Future[tuple[str, int | MediaError]]] = deque()
    for digest in digests:
        ahead.append(pool.submit(function, digest))
        if len(ahead) >= 4 * (os.cpu_count() or 1):
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _write_clip(folder: Path, frames: Iterator[Image.Image]) -> int:
    """Write a clip's frames, whole or not at all; returns their bytes. Only the holder of the lock may."""
    temporary = folder.with_name(f".{folder.name}.new")
    size = 0
    with naming(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
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
    if needed - size > free:  # what is there already fits
        raise InputError(
            f"frames of {num_clips} clips need about {file_size(needed)}, but {cache} has {file_size(free)} free"
        )
