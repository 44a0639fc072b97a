"""Clips from disk: frames at even distances in time, upright, as a viewer would show them.

A clip is read in two steps. The first lists its packets without decoding them, which takes a few percent of the time of
decoding and gives the time of each frame, whatever the header claims or leaves out. The second decodes, for each wanted
frame, the packets from the keyframe before it up to the frame; frames that share such a stretch share the work, and the
rest of the clip is never decoded.
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
"""Frames per clip, as in the paper."""
_SUFFIXES = ".mp4 .webm .avi .mkv .mov .m4v .mpg .mpeg .ts .mts .m2ts .wmv .asf .flv .3gp .3g2 .ogv .ogg .mxf .dv .vob"
CLIP_SUFFIXES = tuple(_SUFFIXES.split())
"""How the names of clips end, in lower case."""
# kinds of file, whatever the suffix; without playlists and scripts, as they lead to other files
_KINDS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,mxf,dv,gif,mjpeg,mp3,flac,wav"
_MAX_SIDE = 65535  # the longest side of a JPEG
_KEPT_BYTES = 32_000_000  # the packets of larger clips are not kept in memory: their files are read twice


def sample_frames(path: Path, num_frames: int = NUM_FRAMES, root: Path | None = None) -> list[Image.Image]:
    """RGB frames of a clip: those on the screen in the middle of each of `num_frames` equal parts of its time.

    No frame is repeated, so a clip that shows fewer frames gives fewer. Transparency becomes white.

    Args:
        path: the file; its suffix does not matter.
        num_frames: the largest number of frames.
        root: the folder that the file must lie in after following symbolic links; None for any.

    Raises:
        MediaError: the file is missing, empty, outside `root`, not a clip, too large, or more than half broken.
    """
    return list(iterate_frames(path, num_frames, root))


def iterate_frames(path: Path, num_frames: int = NUM_FRAMES, root: Path | None = None) -> Iterator[Image.Image]:
    """The frames of `sample_frames` one by one: 26 frames of a large film at once would take gigabytes.

    Raises:
        MediaError: as in `sample_frames`; only after the last good frame if too many others are broken.
    """
    if num_frames < 1:
        raise InputError(f"num_frames: expected at least 1, got {num_frames}")
    with _as_media_errors(path):
        check_file(path, root)
        yield from _decode(path, num_frames)


def frame_times(path: Path, num_frames: int = NUM_FRAMES, root: Path | None = None) -> list[float]:
    """When each frame of `sample_frames` comes on the screen, in seconds after the first frame; nothing is decoded.

    Raises:
        MediaError: as in `sample_frames`.
    """
    with _as_media_errors(path):
        check_file(path, root)
        listing = _Listing()
        with _opened(path) as (container, stream):
            for packet in _packets(container, stream):
                listing.add(packet)
            unit = float(stream.time_base or 0)
        times = [time for index in listing.choose(num_frames)[0] if (time := listing.times[index]) is not None]
        start = min(time for time in listing.times if time is not None)
        return [(time - start) * unit for time in sorted(times)]


@contextmanager
def _as_media_errors(path: Path) -> Iterator[None]:
    """FFmpeg raises many kinds of errors, and one broken file must not end a long run."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError:
        raise UnreadableError("not enough memory to decode it") from None
    except Exception as error:
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
        """Choose the frames that `sample_frames` gives.

        Returns:
            The indices of their packets, and the length of the clip in units of the stream's time base.
        """
        shown = sorted((time, index) for index, time in enumerate(self.times) if time is not None)
        if not shown:
            raise MediaError("holds no frames" if not self.times else "its frames have no times")
        start, last = shown[0][0], shown[-1][0]
        length = last - start + (self.last_duration or (last - start) // max(len(shown) - 1, 1))
        if len(shown) <= num_frames:
            return sorted(index for _, index in shown), length
        middles = [start + (2 * part + 1) * length // (2 * num_frames) for part in range(num_frames)]
        # a frame is on the screen from its own time to the time of the next
        chosen = {bisect_right(shown, middle, key=lambda entry: entry[0]) - 1 for middle in middles}
        return sorted(shown[rank][1] for rank in chosen), length

    def stretches(self, wanted: list[int]) -> list[tuple[int, int]]:
        """The stretches of packets to decode for the wanted ones, as (first, last); each starts at a keyframe."""
        stretches: list[tuple[int, int]] = []
        for index in wanted:
            rank = bisect_right(self.keyframes, index) - 1
            # a frame that is stored after a keyframe but shown before it also needs the keyframe before that one
            while rank > 0 and _before(self.times[index], self.times[self.keyframes[rank]]):
                rank -= 1
            first = self.keyframes[rank] if rank >= 0 else 0
            while stretches and first <= stretches[-1][1] + 1:
                first = min(first, stretches.pop()[0])
            stretches.append((first, index))
        return stretches


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
    """An open clip and its video stream."""
    # FFmpeg refuses larger frames before it allocates them; decoders pad frames, so the exact limit is checked by us
    limits = {"max_pixels": str(2 * (Image.MAX_IMAGE_PIXELS or 2**29) + 10**6)}
    # FFmpeg gets an open file instead of a path, and a list of the kinds that it may take the file for
    with path.open("rb") as file:
        try:
            container = av.open(file, "r", options=limits, container_options={"format_whitelist": _KINDS})
        except (ValueError, EOFError):
            raise MediaError("not a clip of a known kind, or broken at its start") from None
        with container:
            cover = Disposition.attached_pic  # the picture that a song carries
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise MediaError("holds no video")
            context = streams[0].codec_context
            if context is None:
                raise MediaError("no decoder for its video")
            _check_size(context.width, context.height)
            context.options = limits
            context.thread_count = 1  # clips are decoded in parallel
            yield container, streams[0]


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets of a stream, up to the first that cannot be read."""
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            if packet.size:  # the last one is empty
                yield packet


def _check_length(container: InputContainer, stream: VideoStream, length: int) -> None:
    """Refuse a clip with less than half of what its header promises; a header that may count sound promises nothing."""
    promised = stream.duration or 0
    if not promised and container.duration and stream.time_base and len(container.streams) == 1:
        promised = container.duration / av.time_base / stream.time_base
    if 2 * length < promised:
        raise MediaError(f"cut short ({length / promised:.0%} of it is there)")


def _decode_wanted(
    packets: Iterator[Packet], stream: VideoStream, listing: _Listing, wanted: list[int]
) -> Iterator[Image.Image]:
    next_packet = num_given = 0
    reformatter = VideoReformatter()
    for first, last in listing.stretches(wanted):
        times = (listing.times[index] for index in wanted if first <= index <= last)
        due = sorted((time for time in times if time is not None), reverse=True)
        stream.codec_context.flush_buffers()
        for frame in _decode_packets(stream, islice(packets, first - next_packet, last + 1 - next_packet)):
            if due and frame.pts is not None and frame.pts >= due[-1]:
                while due and frame.pts >= due[-1]:  # this frame also stands in for broken ones before it
                    due.pop()
                yield _to_photo(frame, reformatter)
                num_given += 1
        next_packet = last + 1
    if 2 * num_given < len(wanted):
        raise MediaError(f"cannot be decoded ({num_given} of {len(wanted)} frames can)")


def _decode_packets(stream: VideoStream, packets: Iterator[Packet]) -> Iterator[VideoFrame]:
    """The frames of packets in the order in which they are shown; broken ones are left out."""
    for packet in chain(packets, [None]):  # None makes the decoder hand out the frames that it holds back
        with suppress(FFmpegError):
            yield from stream.codec_context.decode(packet)


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if max(width, height) > _MAX_SIDE or (limit is not None and width * height > limit):
        raise MediaError(
            f"too large ({width} x {height} = {width * height} pixels; TRUETAG_MAX_MEGAPIXELS sets the limit)"
        )


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
    """The display matrix as the nearest quarter turn; PyAV's own `rotation` ignores mirroring."""
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
