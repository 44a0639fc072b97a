"""Clips from disk: frames at even distances of time, upright, as a viewer would show them.

A clip is read in two steps. First its packets are listed without decoding them, a few percent of the work of decoding,
which tells when each frame is shown, whatever the header says or leaves out. Then what lies between each wanted frame
and the keyframe before it is decoded, a stretch that several frames need only once; the rest of the clip is not.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from truetag.errors import InputError
from truetag.media.photos import MediaError, UnreadableError, check_file

NUM_FRAMES = 26
"""Frames of a clip, as in the paper."""
CLIP_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov")
"""How the files of clips end, where they are looked for by name; the first that is there counts."""
# kinds of file, whatever the suffix; playlists and scripts, which lead to other files, are not among them
_KINDS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,mxf,dv,gif,mjpeg,mp3,flac,wav"
_MAX_SIDE = 65535  # the longest side of a JPEG
_KEPT_BYTES = 32_000_000  # up to this size a clip's packets are kept in memory, beyond it the file is read twice


def sample_frames(path: Path, num_frames: int = NUM_FRAMES, root: Path | None = None) -> list[Image.Image]:
    """The frames on the screen in the middle of each of `num_frames` equal parts of a clip's time, in RGB.

    A frame is given once, so that there are fewer of them where fewer are shown; what is transparent is white.

    Args:
        path: the file; its suffix does not matter.
        num_frames: how many frames.
        root: the folder that the file has to lie in, symbolic links followed.

    Raises:
        MediaError: the file is missing, empty, outside `root`, no clip, too large, or more than half of it is broken.
    """
    return list(iterate_frames(path, num_frames, root))


def iterate_frames(path: Path, num_frames: int = NUM_FRAMES, root: Path | None = None) -> Iterator[Image.Image]:
    """The same, one by one: 26 frames of a large film at once would take gigabytes.

    Raises:
        MediaError: as `sample_frames`; after the last frame where too many others are broken.
    """
    if num_frames < 1:
        raise InputError(f"num_frames must be at least 1, got {num_frames}")
    try:
        check_file(path, root)
        yield from _decode(path, num_frames)
    except MediaError:
        raise
    except MemoryError:
        raise UnreadableError("not enough memory to decode it") from None
    except Exception as error:  # of many kinds, and one broken file must not end a long run
        if isinstance(error, OSError) and not isinstance(error, FFmpegError):
            raise UnreadableError(f"cannot be read ({error.strerror})") from None
        detail = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".replace(str(path), path.name)
        raise MediaError(f"cannot be decoded ({detail})") from None


@dataclass
class _Listing:
    """The packets of a clip in the order of decoding: when each is shown, and which of them are keyframes."""

    times: list[int | None] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    last_duration: int = 0

    def add(self, packet: Packet) -> None:
        if packet.is_keyframe:
            self.keyframes.append(len(self.times))
        time = packet.dts if packet.pts is None else packet.pts
        self.times.append(None if packet.is_discard else time)
        self.last_duration = packet.duration or 0

    def choose(self, num_frames: int) -> tuple[list[int], int]:
        """The places of the wanted frames' packets, and how long the clip is."""
        shown = sorted((time, place) for place, time in enumerate(self.times) if time is not None)
        if not shown:
            raise MediaError("holds no frames" if not self.times else "its frames have no times")
        start, last = shown[0][0], shown[-1][0]
        length = last - start + (self.last_duration or (last - start) // max(len(shown) - 1, 1))
        if len(shown) <= num_frames:
            return sorted(place for _, place in shown), length
        middles = [start + (2 * part + 1) * length // (2 * num_frames) for part in range(num_frames)]
        # a frame is on the screen from its time to that of the next
        chosen = {bisect_right(shown, middle, key=lambda entry: entry[0]) - 1 for middle in middles}
        return sorted(shown[rank][1] for rank in chosen), length

    def stretches(self, wanted: list[int]) -> list[tuple[int, int]]:
        """First and last packet of what has to be decoded for them, each stretch from a keyframe on."""
        found: list[tuple[int, int]] = []
        for place in wanted:
            rank = bisect_right(self.keyframes, place) - 1
            # what is shown before a keyframe but stored after it needs the keyframe before that one, too
            while rank > 0 and _before(self.times[place], self.times[self.keyframes[rank]]):
                rank -= 1
            first = self.keyframes[rank] if rank >= 0 else 0
            while found and first <= found[-1][1] + 1:
                first = min(first, found.pop()[0])
            found.append((first, place))
        return found


def _before(time: int | None, other: int | None) -> bool:
    return time is not None and other is not None and time < other


def _decode(path: Path, num_frames: int) -> Iterator[Image.Image]:
    listing = _Listing()
    with _opened(path) as (container, stream):
        small = path.stat().st_size <= _KEPT_BYTES
        kept: list[Packet] = []
        for packet in _packets(container, stream):
            listing.add(packet)
            if small:
                kept.append(packet)
        wanted, length = listing.choose(num_frames)
        _check_length(container, stream, length)
        if small:
            yield from _decode_wanted(iter(kept), stream, listing, wanted)
    if not small:
        with _opened(path) as (container, stream):
            yield from _decode_wanted(_packets(container, stream), stream, listing, wanted)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A clip and what is to be seen in it."""
    # before it takes memory for a frame; decoders pad frames, so that the exact limit is ours to hold
    limits = {"max_pixels": str(2 * (Image.MAX_IMAGE_PIXELS or 2**29) + 10**6)}
    # FFmpeg gets an open file and no path, and is told which kinds it may take this file for
    with path.open("rb") as file:
        try:
            container = av.open(file, "r", options=limits, container_options={"format_whitelist": _KINDS})
        except (ValueError, EOFError):
            raise MediaError("not a clip of a known kind, or broken at its start") from None
        with container:
            cover = Disposition.attached_pic  # of a song
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise MediaError("holds no video")
            context = streams[0].codec_context
            if context is None:
                raise MediaError("no decoder for its video")
            _check_size(context.width, context.height)
            context.options = limits
            context.thread_count = 1  # clips are decoded side by side
            yield container, streams[0]


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets of a stream, as far as they can be read."""
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            if packet.size:  # the last one is empty
                yield packet


def _check_length(container: InputContainer, stream: VideoStream, length: int) -> None:
    """Refuse a clip of which less than half is there. Where sound may be longer, the header does not tell."""
    promised = stream.duration or 0
    if not promised and container.duration and stream.time_base and len(container.streams) == 1:
        promised = container.duration / av.time_base / stream.time_base
    if 2 * length < promised:
        raise MediaError(f"cut short ({length / promised:.0%} of it is there)")


def _decode_wanted(
    packets: Iterator[Packet], stream: VideoStream, listing: _Listing, wanted: list[int]
) -> Iterator[Image.Image]:
    position = given = 0
    reformatter = VideoReformatter()
    for first, last in listing.stretches(wanted):
        times = (listing.times[place] for place in wanted if first <= place <= last)
        due = sorted((time for time in times if time is not None), reverse=True)
        stream.codec_context.flush_buffers()
        for frame in _decode_packets(stream, islice(packets, first - position, last + 1 - position)):
            if due and frame.pts is not None and frame.pts >= due[-1]:
                while due and frame.pts >= due[-1]:  # it stands for frames before it that are broken, too
                    due.pop()
                yield _to_photo(frame, reformatter)
                given += 1
        position = last + 1
    if 2 * given < len(wanted):
        raise MediaError(f"cannot be decoded ({given} of {len(wanted)} frames can)")


def _decode_packets(stream: VideoStream, packets: Iterator[Packet]) -> Iterator[VideoFrame]:
    """The frames of packets in the order of showing; what is broken is left out."""
    for packet in chain(packets, [None]):  # which makes the decoder give what it holds back
        with suppress(FFmpegError):
            yield from stream.codec_context.decode(packet)


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if max(width, height) > _MAX_SIDE or (limit is not None and width * height > limit):
        raise MediaError(f"too large ({width} x {height} = {width * height} pixels)")


def _to_photo(frame: VideoFrame, reformatter: VideoReformatter) -> Image.Image:
    _check_size(frame.width, frame.height)
    if any(component.is_alpha for component in frame.format.components):
        pixels = Image.fromarray(reformatter.reformat(frame, format="rgba").to_ndarray())
        photo = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
    else:
        photo = reformatter.reformat(frame, format="rgb24").to_image()
    turn = _to_upright(frame)
    return photo if turn is None else photo.transpose(turn)


def _to_upright(frame: VideoFrame) -> Image.Transpose | None:
    """What the display matrix does to a frame, to the nearest quarter turn; PyAV's `rotation` knows no mirrors."""
    try:
        a, b, _, c, d = struct.unpack("=9i", bytes(frame.side_data[Type.DISPLAYMATRIX]))[:5]  # pyright: ignore
    except KeyError:
        return None
    # a pixel (x, y) is shown at (ax + cy, bx + dy)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        turns = {(True, True): None, (False, True): "FLIP_LEFT_RIGHT", (True, False): "FLIP_TOP_BOTTOM"}
        turn = turns.get((a >= 0, d >= 0), "ROTATE_180")
    else:
        turns = {(True, True): "TRANSPOSE", (True, False): "ROTATE_270", (False, True): "ROTATE_90"}
        turn = turns.get((b >= 0, c >= 0), "TRANSVERSE")
    return None if turn is None else Image.Transpose[turn]
