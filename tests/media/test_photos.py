import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import broken_photos
from faults.broken_photos import encode, make_broken_photos, make_odd_photos, png
from PIL import Image

from truetag.media import photos
from truetag.media.photos import MediaError, read_photo
from truetag.media.preprocessing import Preprocessing

# Pillow warns of some odd files, and a user's run goes on
pytestmark = pytest.mark.filterwarnings("ignore")


def draw(width, height, shift=0):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 200 / width, y * 220 / height, (x + y) * 120 / (width + height) + shift], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    paths = [folder / "wide.png", folder / "tall.jpg"]
    draw(121, 80).save(paths[0])
    draw(60, 150, shift=100).save(paths[1], quality=95)
    return paths


@pytest.fixture(scope="module")
def broken(good, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    return folder, make_broken_photos(folder, good)


@pytest.fixture(scope="module")
def odd(good, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    return folder, make_odd_photos(folder, good)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    draw(32, 24).save(path)
    return path


def reason(path, root=None):
    with pytest.raises(MediaError) as caught:
        read_photo(path, root)
    text = str(caught.value)
    assert text
    assert text.isprintable()
    assert str(path.parent) not in text
    return text


def in_time(path, seconds=60.0):
    """What became of a file, in a thread that cannot hold up the tests."""
    outcomes: list[object] = []

    def attempt():
        try:
            outcomes.append(read_photo(path))
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcomes[0] if outcomes else TimeoutError(path.name)


def test_broken_photos_are_many_and_of_many_kinds(broken):
    folder, kinds = broken
    assert len(kinds) >= 200
    assert len(set(kinds.values())) >= 25
    assert {path.name for path in folder.iterdir()} == set(kinds)
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 10e6


def test_no_broken_photo_is_used_blocks_or_takes_memory(broken):
    folder, kinds = broken
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, kind in kinds.items():
        outcome = in_time(folder / name)
        assert isinstance(outcome, MediaError), f"{kind}: {outcome!r}"
        assert str(outcome).isprintable(), kind
        assert str(folder) not in str(outcome), kind
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200e6 / (1 if sys.platform == "darwin" else 1024)  # far less than any of the bombs


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dangling link", "no such file"),
        ("folder", "a folder, not a file"),
        ("empty", "an empty file"),
        ("pipe", "not a regular file"),
        ("link loop", "cannot be read"),
        ("EPS", "not a photo of a known kind"),
        ("error page", "not a photo of a known kind"),
        ("JPEG cut near its end", "truncated"),
        ("PNG of broken data", "broken data stream"),
        ("PNG bomb", "2500000000 pixels"),
        ("PNG bomb of 300 MP", "300000000 pixels"),
        ("PNG of an endless side", "80000000 pixels"),
        ("TIFF of floats", "unknown scale"),
        ("TIFF of 32 bits", "unknown scale"),
    ],
)
def test_reasons_say_what_is_wrong(broken, kind, expected):
    folder, kinds = broken
    for name in (name for name, its_kind in kinds.items() if its_kind == kind):
        assert expected in reason(folder / name)


def test_broken_photos_are_the_same_for_a_seed(good, broken, tmp_path):
    def contents(folder, kinds):
        return {name: (folder / name).read_bytes() for name in kinds if (folder / name).is_file()}

    again, other = (make_broken_photos(tmp_path / str(seed), good, seed) for seed in (0, 1))
    assert again == broken[1]
    assert contents(tmp_path / "0", again) == contents(*broken)
    assert contents(tmp_path / "1", other) != contents(*broken)


def test_broken_photos_as_a_script(good, tmp_path):
    command = [sys.executable, broken_photos.__file__, str(tmp_path / "out"), *map(str, good)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "in all" in printed
    assert len(list((tmp_path / "out").iterdir())) >= 200


def test_odd_photos_are_read_rightly(odd):
    folder, expected = odd
    wrong = {}
    for name, (photo, tolerance) in expected.items():
        read = read_photo(folder / name, root=folder)
        assert (read.mode, read.size) == ("RGB", photo.size), name
        assert not read.getexif(), name
        distance = np.abs(np.asarray(read, dtype=int) - np.asarray(photo, dtype=int)).mean()
        if distance > tolerance:
            wrong[name] = distance
    assert not wrong


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_normal_photos_are_what_pillow_decodes(tmp_path, kind):
    path = tmp_path / "photo"
    draw(75, 50).save(path, kind)
    with Image.open(path) as plain:
        np.testing.assert_array_equal(np.asarray(read_photo(path)), np.asarray(plain.convert("RGB")))


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("limit", [767, 400, 10])
def test_more_pixels_than_the_limit(photo, monkeypatch, action, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert "768 pixels" in reason(photo)


@pytest.mark.parametrize("limit", [768, None])
def test_as_many_pixels_as_the_limit(photo, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert read_photo(photo).size == (32, 24)


@pytest.mark.parametrize(("width", "height"), [(1, 60_000), (60_000, 1)])
def test_a_strip_fits_the_square(tmp_path, width, height):
    path = tmp_path / "strip.png"
    path.write_bytes(encode(Image.new("RGB", (width, height), (255, 0, 0)), "PNG"))
    square = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(read_photo(path))
    assert square.shape == (3, 32, 32)
    assert torch.equal(square[:, 0, 0], torch.tensor([1.0, -1.0, -1.0]))


def test_threads_do_not_disturb_each_other(broken, odd):
    def outcome(path):
        try:
            return read_photo(path).tobytes()
        except MediaError as error:
            return str(error)

    paths = [folder / name for folder, names in (broken, odd) for name in names]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outcome, paths)) == [outcome(path) for path in paths]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_without_a_writer_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert str(in_time(tmp_path / "pipe.jpg")) == "not a regular file"  # and no TimeoutError


def test_devices_and_sockets(tmp_path, monkeypatch):
    assert reason(Path(os.devnull)) == "not a regular file"
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert reason(tmp_path / "socket.jpg") == "not a regular file"


@pytest.mark.parametrize("name", ["nul\0.jpg", "surrogate\ud800.jpg", "x" * 5000 + ".jpg", "line\nbreak\x1b[31m.jpg"])
def test_impossible_names(tmp_path, name):
    reason(tmp_path / name)
    reason(tmp_path / name, root=tmp_path)


def test_a_file_used_as_a_folder(photo):
    assert reason(photo / "more.jpg") == "no such file"


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", "Größe 日本.jpg".encode(), b"line\nbreak.png", b"no suffix"])
def test_odd_names(tmp_path, photo, name):
    path = tmp_path / os.fsdecode(name)
    shutil.copy(photo, path)
    assert read_photo(path, root=tmp_path).size == (32, 24)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(photo):
    photo.chmod(0)
    assert reason(photo) == "cannot be read (Permission denied)"


@pytest.mark.parametrize(
    "error", [ValueError("bad\n\x1b[31m\u2028 {}"), OSError(5, "Input/output error", "{}"), EOFError(), MemoryError()]
)
def test_whatever_a_decoder_raises_becomes_a_reason(photo, monkeypatch, error):
    def fail(*args, **kwargs):
        if isinstance(error, ValueError):
            raise ValueError(error.args[0].format(photo))
        raise error

    monkeypatch.setattr(Image, "open", fail)
    assert len(reason(photo)) < 300


def test_links_are_followed_within_the_root_only(tmp_path, photo):
    root, alias = tmp_path / "media", tmp_path / "alias"
    (root / "inner").mkdir(parents=True)
    alias.symlink_to(root)
    shutil.copy(photo, root / "inner" / "photo.png")
    (root / "inside.png").symlink_to("inner/photo.png")
    (root / "outside.png").symlink_to(photo)
    (root / "folder").symlink_to(tmp_path)
    (root / "nowhere.png").symlink_to(tmp_path / "missing.png")

    for path in (root / "inside.png", alias / "inner" / "photo.png", root / "inner" / ".." / "inside.png"):
        assert read_photo(path, root).size == (32, 24)
        assert read_photo(path, alias).size == (32, 24)
    outside = [root / "outside.png", root / "folder" / "photo.png", root / ".." / "photo.png", photo]
    for path in [*outside, root / "nowhere.png"]:
        assert reason(path, root).startswith("leads outside the media root")
    for path in outside:
        assert read_photo(path).size == (32, 24)
    assert reason(root / "missing.png", root) == "no such file"
    (tmp_path / "media-2").mkdir()  # whose name only begins like the root
    assert reason(tmp_path / "media-2" / "photo.png", root).startswith("leads outside the media root")


def test_a_root_relative_to_the_working_folder(photo, monkeypatch):
    monkeypatch.chdir(photo.parent)
    assert read_photo(Path("photo.png"), Path()).size == (32, 24)
    assert read_photo(photo, Path()).size == (32, 24)


def test_other_kinds_are_not_even_tried(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(draw(8, 8), "EPS"))  # Pillow would start another program for it
    assert "known kind" in reason(path)


def test_a_depth_of_16_bits_is_scaled_to_8(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(png(4, 1, 16, 0, np.array([0, 256, 257 * 100, 65535], ">u2").tobytes()))
    assert np.asarray(read_photo(path))[0, :, 0].tolist() == [0, 0, 100, 255]


def test_every_kind_of_photo_has_its_suffixes():
    """Those of Pillow for the formats that are read, and those of HEIC."""
    Image.init()
    kinds = {*photos._formats(), "MPO"}
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds}
    assert photos.PHOTO_SUFFIXES - {".heic", ".heif", ".hif"} == known


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".jfif", ".tga", ".ppm", ".qoi", ".PNG"])
def test_a_file_of_each_suffix_is_read(tmp_path, suffix):
    Image.new("RGB", (8, 6), (250, 0, 0)).save(tmp_path / f"a{suffix}")
    read = read_photo(tmp_path / f"a{suffix}")
    assert read.size == (8, 6)
    assert read.getpixel((4, 3))[0] > 240


@pytest.mark.parametrize(("brand", "expected"), [(b"heic", "pip install pillow-heif"), (b"mif1", "a HEIC photo")])
def test_heic_is_named_with_the_plugin_that_reads_it(tmp_path, brand, expected):
    path = tmp_path / "IMG_1.jpg"  # as phones name it when they say that they have converted it
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0" * 2000)
    assert expected in reason(path)


def test_a_plugin_for_heic_is_used(tmp_path, monkeypatch):
    registered = []
    plugin = types.SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    photos._formats.cache_clear()
    photos._formats()
    photos._formats.cache_clear()
    assert registered == [True]


@pytest.mark.parametrize(("width", "height"), [(12000, 9000), (16320, 12240)])
def test_photos_of_108_and_200_megapixels_are_read(tmp_path, width, height):
    Image.new("L", (width, height), 200).save(tmp_path / "large.jpg")
    photo = read_photo(tmp_path / "large.jpg")
    assert photo.mode == "RGB"
    assert photo.width / photo.height == pytest.approx(width / height, rel=1e-3)
    assert photo.width < width  # decoded at a part of its size
    assert photo.getpixel((photo.width // 2, photo.height // 2)) == (200, 200, 200)


@pytest.mark.parametrize(
    ("setting", "expected"), [("300", "300000000"), ("", "expected millions"), ("-1", "expected m")]
)
def test_the_limit_is_a_setting(setting, expected):
    program = "from PIL import Image; import truetag.media.photos; print(Image.MAX_IMAGE_PIXELS)"
    environment = os.environ | {"TRUETAG_MAX_MEGAPIXELS": setting}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert expected in done.stdout + done.stderr
