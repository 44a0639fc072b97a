"""Frames of a clip: the right ones, upright, in colour; and every broken or wily clip is one short reason."""

import os
import resource
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from made_clips import flat, levels, make_clip
from PIL import Image

from truetag.errors import InputError
from truetag.media import clips
from truetag.media.clips import frame_times, iterate_frames, sample_frames
from truetag.media.photos import MediaError

RAMP = list(range(10, 250, 4))  # 60 frames
WITH_B = {"g": "12", "bf": "3"}
# suffix -> codec, options, pixels
CODECS = {
    "mp4": ("libx264", WITH_B, "yuv420p"),
    "mkv": ("libx264", WITH_B, "yuv420p"),
    "ts": ("libx264", WITH_B, "yuv420p"),
    "mov": ("mpeg4", {"g": "12", "bf": "2"}, "yuv420p"),
    "avi": ("mpeg4", {"g": "12", "bf": "2"}, "yuv420p"),
    "mpg": ("mpeg2video", {"g": "12"}, "yuv420p"),
    "webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "12"}, "yuv420p"),
    "flv": ("flv", {"g": "12"}, "yuv420p"),
    "wmv": ("wmv2", {"g": "12"}, "yuv420p"),
    "mjpeg": ("mjpeg", {}, "yuvj420p"),
    "gif": ("gif", {}, "gray"),
}


@pytest.fixture(autouse=True)
def silence(capfd):
    """FFmpeg says nothing on the terminal, whatever it reads."""
    yield
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """60 frames in 6 seconds, a keyframe each 12."""
    return make_clip(tmp_path_factory.mktemp("clips") / "ramp.mp4", RAMP, options=WITH_B)


def reason(path, root=None, num_frames=26):
    with pytest.raises(MediaError) as caught:
        sample_frames(path, num_frames, root)
    text = str(caught.value)
    assert text
    assert text.isprintable()
    assert str(path.parent) not in text
    return text


def outcome(path, num_frames):
    """How many frames there are, or the reason why there are none."""
    try:
        return len(sample_frames(path, num_frames))
    except MediaError as error:
        return str(error)


def near(found, expected, tolerance=3):
    assert len(found) == len(expected), (found, expected)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance, (found, expected)


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("num_frames", [1, 7, 26, 60, 100])
def test_each_frame_is_the_one_in_the_middle_of_its_part(tmp_path, suffix, num_frames):
    codec, options, pixels = CODECS[suffix]
    path = make_clip(tmp_path / f"clip.{suffix}", RAMP, codec=codec, options=options, pixels=pixels, rate=25)
    num_parts = min(num_frames, 60)
    frames = sample_frames(path, num_frames)
    assert {(frame.mode, frame.size) for frame in frames} == {("RGB", (32, 32))}
    near(levels(frames), [RAMP[(2 * part + 1) * 60 // (2 * num_parts)] for part in range(num_parts)])


@pytest.mark.parametrize("num_frames", [3, 13, 26, 59])
def test_frames_are_those_of_decoding_all_of_it(tmp_path, num_frames):
    """Also where keyframes are few, and where frames shown before a keyframe are stored after it."""
    noise = np.random.default_rng(0)
    photos = [Image.fromarray(noise.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(60)]
    for name, settings in {
        "closed": "keyint=7:bframes=3",
        "open": "open-gop=1:keyint=9:bframes=4:b-pyramid=normal",
        "one": "keyint=999:scenecut=0",
    }.items():
        path = make_clip(tmp_path / f"{name}.mp4", photos, options={"x264-params": settings})
        with av.open(str(path)) as container:
            whole = [frame.to_image() for frame in container.decode(video=0)]
        chosen = [(2 * part + 1) * 60 // (2 * num_frames) for part in range(num_frames)]
        for frame, number in zip(sample_frames(path, num_frames), chosen, strict=True):
            np.testing.assert_allclose(np.asarray(frame, float), np.asarray(whole[number], float), atol=2)


def test_no_stretch_is_decoded_twice_and_little_of_a_long_clip(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "long.mp4", [100, 150] * 600, options={"g": "10", "bf": "0"}, rate=25)
    decoded = []
    original = clips._decode_packets

    def count(stream, packets):
        def counted():
            for packet in packets:
                decoded.append(packet.pts)
                yield packet

        return original(stream, counted())

    monkeypatch.setattr(clips, "_decode_packets", count)
    assert len(sample_frames(path)) == 26
    assert len(decoded) == len(set(decoded)) < 26 * 10
    decoded.clear()
    sample_frames(path, 1200)
    assert len(decoded) == len(set(decoded)) == 1200


def test_a_large_file_is_read_twice_instead_of_kept(ramp, monkeypatch):
    kept = levels(sample_frames(ramp))
    monkeypatch.setattr(clips, "_KEPT_BYTES", 0)
    assert levels(sample_frames(ramp)) == kept


def test_times_count_and_not_numbers(tmp_path):
    """Half of the frames in the first second, then one that stays for nine."""
    times = [*range(0, 1000, 20), 1000, 9980]
    path = make_clip(tmp_path / "slow.mkv", [*([20] * 50), 120, 220], times=times)
    near(levels(sample_frames(path, 8)), [20, 120], 4)  # the one that stays is given once
    near(levels(sample_frames(path, 100))[-3:], [20, 120, 220], 4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_clip_that_starts_late(tmp_path, suffix):
    times = [5000 + 100 * number for number in range(60)]
    path = make_clip(tmp_path / f"late.{suffix}", RAMP, times=times, options=WITH_B)
    near(levels(sample_frames(path, 3)), [RAMP[10], RAMP[30], RAMP[50]])


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "avi"])
def test_one_frame(tmp_path, suffix):
    codec, options, pixels = CODECS[suffix]
    path = make_clip(tmp_path / f"one.{suffix}", [77], codec=codec, options=options, pixels=pixels)
    near(levels(sample_frames(path)), [77])


def test_longer_sound_does_not_count(tmp_path):
    for suffix in ("mp4", "mkv"):
        path = make_clip(tmp_path / f"sound.{suffix}", RAMP, sound=20.0)
        near(levels(sample_frames(path, 3)), [RAMP[10], RAMP[30], RAMP[50]])


# how a point (x, y) is shown at (ax + cy, bx + dy)
@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), None),
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
        ((1, 0, 0, -1), Image.Transpose.FLIP_TOP_BOTTOM),
        ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
        ((0, -1, -1, 0), Image.Transpose.TRANSVERSE),
    ],
)
def test_frames_are_upright(tmp_path, matrix, turn):
    photo = flat(60, (48, 32))
    photo.paste((220, 220, 220), (0, 0, 16, 16))  # a corner that tells where it went
    path = make_clip(tmp_path / "turned.mp4", [photo] * 3)
    content = bytearray(path.read_bytes())
    offset = content.index(b"tkhd") + 44
    a, b, c, d = (65536 * value for value in matrix)
    content[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    expected = photo if turn is None else photo.transpose(turn)
    for frame in sample_frames(path):
        assert frame.size == expected.size
        assert np.abs(np.asarray(frame, int) - np.asarray(expected, int)).mean() < 8


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p", "yuv444p", "gray", "yuvj420p"])
def test_odd_pixels(tmp_path, pixels):
    photo = Image.new("RGB", (32, 32), (120, 120, 120) if pixels == "gray" else (200, 60, 40))
    path = make_clip(tmp_path / "odd.mkv", [photo] * 3, pixels=pixels)
    for frame in sample_frames(path):
        assert frame.mode == "RGB"
        assert np.abs(np.asarray(frame, int) - np.asarray(photo, int)).mean() < 6


def test_an_odd_size(tmp_path):
    path = make_clip(tmp_path / "odd.mp4", [flat(90, (35, 17))] * 3, pixels="yuv444p")
    assert [frame.size for frame in sample_frames(path)] == [(35, 17)] * 3


def test_what_is_transparent_is_white(tmp_path):
    photo = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    photo.paste((200, 60, 40, 255), (0, 0, 32, 16))
    path = make_clip(tmp_path / "clear.mov", [photo] * 3, codec="png", pixels="rgba")
    for frame in sample_frames(path):
        assert frame.mode == "RGB"
        assert frame.getpixel((5, 5)) == (200, 60, 40)
        assert frame.getpixel((5, 25)) == (255, 255, 255)


def test_the_suffix_does_not_matter(ramp, tmp_path):
    (tmp_path / "clip.txt").write_bytes(ramp.read_bytes())
    assert levels(sample_frames(tmp_path / "clip.txt")) == levels(sample_frames(ramp))


def test_sound_alone_and_the_cover_of_a_song_are_no_video(tmp_path):
    song, cover = tmp_path / "song.mp3", tmp_path / "cover.mp3"
    with av.open(str(song), "w") as container:
        stream = container.add_stream("mp3", rate=44100)
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16p", "mono")
        heard.sample_rate = 44100
        container.mux([*stream.encode(heard), *stream.encode(None)])
    assert reason(song) == "holds no video"
    Image.new("RGB", (16, 16), "red").save(tmp_path / "cover.png")
    picture = b"\0image/png\0\3\0" + (tmp_path / "cover.png").read_bytes()
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    cover.write_bytes(b"ID3\3\0\0" + size + frame + song.read_bytes())
    with av.open(str(cover)) as container:
        assert container.streams.video
    assert reason(cover) == "holds no video"


def test_cut_short(tmp_path):
    """With more than half of it there, that is used."""
    noise = np.random.default_rng(0)
    photos = [Image.fromarray(noise.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(60)]
    for suffix in ("mkv", "webm", "ts", "avi"):
        codec, options, pixels = CODECS[suffix]
        path = make_clip(tmp_path / f"whole.{suffix}", photos, codec=codec, options=options, pixels=pixels)
        content = path.read_bytes()
        path.write_bytes(content[: int(0.7 * len(content))])
        assert 20 <= len(sample_frames(path)) <= 26
        path.write_bytes(content[:60])
        reason(path)
        if suffix in ("mkv", "webm", "avi"):
            path.write_bytes(content[: int(0.3 * len(content))])
            assert "cut short" in reason(path)


def test_broken_in_the_middle(tmp_path):
    noise = np.random.default_rng(0)
    photos = [Image.fromarray(noise.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(60)]
    for suffix in ("mp4", "mkv", "ts", "avi", "webm", "gif"):
        codec, options, pixels = CODECS[suffix]
        path = make_clip(tmp_path / f"clip.{suffix}", photos, codec=codec, options=options, pixels=pixels)
        content = bytearray(path.read_bytes())
        third = len(content) // 3
        content[third : third + 3000] = noise.bytes(3000)
        path.write_bytes(content)
        found = outcome(path, 26)
        assert found in range(1, 27) or str(found).startswith(("cannot be decoded", "cut short"))


def test_broken_all_over_is_refused(ramp, tmp_path):
    content = bytearray(ramp.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = np.random.default_rng(0).bytes(end - start)
    (tmp_path / "noise.mp4").write_bytes(content)
    assert "of 26 frames can" in reason(tmp_path / "noise.mp4")


def test_damage_anywhere_is_frames_or_a_reason(ramp, tmp_path):
    noise = np.random.default_rng(0)
    whole = ramp.read_bytes()
    path = tmp_path / "clip.mp4"
    for _ in range(60):
        content = bytearray(whole)
        for offset in noise.integers(0, len(content), 8):
            content[offset] = noise.integers(0, 256)
        path.write_bytes(content)
        found = outcome(path, 5)
        assert found in range(1, 6) or str(found).isprintable()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"\0", "not a clip"),
        (b"\0" * 5000, "not a clip"),
        (b"<html>404</html>\n", "not a clip"),
        (b"this is a text\n" * 500, "not a clip"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not a clip"),
    ],
)
def test_what_is_no_clip(tmp_path, content, expected):
    (tmp_path / "clip.mp4").write_bytes(content)
    assert expected in reason(tmp_path / "clip.mp4")


def test_a_photo_is_no_clip(tmp_path):
    for suffix in ("png", "jpg", "webp"):
        flat(90).save(tmp_path / f"photo.{suffix}")
        os.rename(tmp_path / f"photo.{suffix}", tmp_path / "photo.mp4")  # noqa: PTH104
        assert "not a clip" in reason(tmp_path / "photo.mp4")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip.ffconcat", "clip.sdp", "clip.mpd"])
def test_playlists_and_scripts_lead_nowhere(ramp, tmp_path, name):
    (tmp_path / "secret.mp4").write_bytes(ramp.read_bytes())
    make_clip(tmp_path / "secret.ts", RAMP)
    for file in ("secret.ts", "secret.mp4", f"{tmp_path}/secret.ts", f"file:{tmp_path}/secret.ts"):
        for text in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6.0,\n{file}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{file}'\n",
            f"<?xml version='1'?><MPD><Period><AdaptationSet><BaseURL>{file}</BaseURL></AdaptationSet></Period></MPD>",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        ):
            (tmp_path / name).write_text(text)
            assert "not a clip" in reason(tmp_path / name)


def test_the_track_of_another_file_is_not_read(ramp, tmp_path):
    """A QuickTime file may say that its samples lie elsewhere."""
    (tmp_path / "other.mp4").write_bytes(ramp.read_bytes())
    content = ramp.read_bytes()
    offset = content.index(b"url \0\0\0\1") - 4
    alias = str(tmp_path / "other.mp4").encode() + b"\0"
    entry = struct.pack(">I", 12 + len(alias)) + b"url \0\0\0\0" + alias
    grown = bytearray(content[:offset] + entry + content[offset + 12 :])
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        start = grown.rindex(box, 0, offset) - 4
        size = int.from_bytes(grown[start : start + 4], "big") + len(entry) - 12
        grown[start : start + 4] = struct.pack(">I", size)
    start = grown.index(b"mdat") + 4
    grown[start : grown.index(b"moov") - 4] = bytes(grown.index(b"moov") - 4 - start)
    (tmp_path / "clip.mp4").write_bytes(grown)
    reason(tmp_path / "clip.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") == "not a regular file"
    assert reason(Path(os.devnull)) == "not a regular file"
    assert reason(tmp_path) == "a folder, not a file"
    assert reason(tmp_path / "none.mp4") == "no such file"


def test_links_are_followed_within_the_root_only(ramp, tmp_path):
    (tmp_path / "link.mp4").symlink_to(ramp)
    assert reason(tmp_path / "link.mp4", tmp_path).startswith("leads outside the media root")
    assert len(sample_frames(tmp_path / "link.mp4")) == 26
    assert len(sample_frames(ramp, root=ramp.parent)) == 26


def test_odd_names(ramp, tmp_path):
    for name in (b"caf\xe9.mp4", "Größe 日本.mp4".encode(), b"line\nbreak.mp4", b"no suffix", b"a:b.mp4", b"%03d.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(ramp.read_bytes())
        assert len(sample_frames(path)) == 26
    reason(tmp_path / "nul\0.mp4")


def test_more_pixels_than_the_limit(ramp, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1023)
    assert "too large (32 x 32 = 1024 pixels;" in reason(ramp)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)
    assert len(sample_frames(ramp)) == 26
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(sample_frames(ramp)) == 26


@pytest.mark.parametrize("suffix", ["mjpeg", "gif"])
def test_a_header_that_promises_enormous_frames_takes_no_memory(tmp_path, suffix):
    codec, _, pixels = CODECS[suffix]
    path = make_clip(tmp_path / f"clip.{suffix}", [50, 60, 70], codec=codec, pixels=pixels)
    content, start = bytearray(path.read_bytes()), 6
    while suffix == "mjpeg" and (start := content.find(b"\xff\xc0", start)) >= 0:
        content[start + 5 : start + 9] = struct.pack(">HH", 65000, 65000)
        start += 5
    if suffix == "gif":
        content[6:10] = struct.pack("<HH", 65000, 65000)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reason(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_threads_do_not_disturb_each_other(ramp, tmp_path):
    other = make_clip(tmp_path / "other.webm", RAMP[::-1], codec="libvpx", options=CODECS["webm"][1])
    expected = {path: levels(sample_frames(path)) for path in (ramp, other)}
    with ThreadPoolExecutor(4) as pool:
        for path, found in pool.map(lambda path: (path, levels(sample_frames(path))), [ramp, other] * 10):
            assert found == expected[path]
    assert threading.active_count() < 10


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of open files")
def test_files_are_closed(ramp, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(ramp.read_bytes()[:3000])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        sample_frames(ramp)
        reason(tmp_path / "broken.mp4")
        frames = iterate_frames(ramp)
        next(frames)
        frames.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    "error", [ValueError("bad\n\x1b[31m {}"), OSError(5, "Input/output error", "{}"), EOFError(), MemoryError()]
)
def test_whatever_is_raised_becomes_a_reason(ramp, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(clips, "_packets", fail)
    assert len(reason(ramp)) < 300


def test_no_frames_at_all_is_the_callers_mistake(ramp):
    with pytest.raises(InputError, match="num_frames: expected at least 1, got 0"):
        sample_frames(ramp, 0)


def test_frame_times_are_those_of_the_sampled_frames(ramp, tmp_path):
    assert frame_times(ramp, 3) == pytest.approx([1, 3, 5])
    late = make_clip(tmp_path / "late.mkv", RAMP, times=[5000 + 100 * number for number in range(60)])
    assert frame_times(late, 3) == pytest.approx([1, 3, 5])
    assert len(frame_times(ramp, 100)) == len(sample_frames(ramp, 100)) == 60


def test_times_of_what_is_no_clip(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(MediaError):
        frame_times(tmp_path / "a.mp4")
