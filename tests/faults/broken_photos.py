"""Photos that cannot be used, of every kind met in the wild, and odd ones that can: all made from a few good photos.

python tests/faults/broken_photos.py FOLDER GOOD [GOOD ...]
"""

import base64
import gzip
import io
import json
import os
import random
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
SIDE = 160
ROUNDS = 4


class Odd(NamedTuple):
    """What an odd photo should be read as, and how far its pixels may be from that on average."""

    expected: Image.Image
    tolerance: float = 0


def make_broken_photos(folder: Path, good: Sequence[Path], seed: int = 0) -> dict[str, str]:
    """Fill a new folder with files that no reader can use; the kind of each by its name.

    What Pillow cannot notice is left out: flipped bits in the scan of a JPEG, or one that ends early but properly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    photos = [_small(path) for path in good]
    kinds: dict[str, str] = {}

    def name(kind: str, suffix: str | None = None) -> Path:
        path = folder / f"{len(kinds):03d}-{kind}{suffix or rng.choice(list(SUFFIXES.values()))}"
        kinds[path.name] = kind
        return path

    for round_ in range(ROUNDS):
        for kind, (suffix, content) in _broken(photos[round_ % len(photos)], rng).items():
            name(kind, suffix).write_bytes(content)
        name("dangling link").symlink_to("nowhere.jpg")
        loop = name("link loop")
        loop.symlink_to(loop.name)
        name("folder").mkdir()
        with name("sparse").open("wb") as file:
            file.truncate(1 << 20)
        if hasattr(os, "mkfifo"):
            os.mkfifo(name("pipe"))
    return kinds


def make_odd_photos(folder: Path, good: Sequence[Path], seed: int = 0) -> dict[str, Odd]:
    """Fill a new folder with unusual files that a reader has to get right."""
    folder.mkdir(parents=True, exist_ok=True)
    odd: dict[str, Odd] = {}
    photo = _small(random.Random(seed).choice(good))
    for name, (content, expected, tolerance) in (_odd_encodings(photo) | _odd_layouts(photo)).items():
        (folder / name).write_bytes(content)
        pixels = np.asarray(expected)
        if pixels.ndim == 2:
            pixels = np.stack([pixels] * 3, axis=-1)
        odd[name] = Odd(Image.fromarray(pixels.astype(np.uint8)), tolerance)
    return odd


def _small(path: Path) -> Image.Image:
    with Image.open(path) as photo:
        photo = photo.convert("RGB")
    photo.thumbnail((SIDE, SIDE))
    return photo


def encode(photo: Image.Image, kind: str, **options: Any) -> bytes:
    """A photo as the content of a file."""
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, bits: int, colour: int, pixels: bytes, *extra: tuple[bytes, bytes], pack: bool = True
) -> bytes:
    """A PNG by hand: `pixels` are packed rows, `extra` the chunks between its header and its data."""
    row = len(pixels) // max(height, 1)
    rows = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row or 1))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), *extra]
    chunks += [(b"IDAT", zlib.compress(rows) if pack else pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def tiff(
    width: int, height: int, bits: tuple[int, ...], photometric: int, pixels: bytes, order: str = "<", **more: int
) -> bytes:
    """An uncompressed TIFF by hand; `more` are further tags of one value: t339=3."""
    tags: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 258: bits, 259: (1,), 262: (photometric,)}
    tags |= {273: (8,), 277: (len(bits),), 278: (height,), 279: (len(pixels),)}
    tags |= {int(tag[1:]): (value,) for tag, value in more.items()}
    pixels += b"\0" * (len(pixels) % 2)
    start = 8 + len(pixels)
    after, far = start + 2 + 12 * len(tags) + 4, b""
    directory = struct.pack(order + "H", len(tags))
    for tag, values in sorted(tags.items()):
        kind = "H" if tag in (258, 259, 262, 274, 277, 338, 339) else "I"
        packed = struct.pack(order + kind * len(values), *values)
        if len(packed) > 4:
            packed, far = struct.pack(order + "I", after + len(far)), far + packed
        directory += struct.pack(order + "HHI", tag, 3 if kind == "H" else 4, len(values)) + packed.ljust(4, b"\0")
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    return header + pixels + directory + b"\0" * 4 + far


def _broken(photo: Image.Image, rng: random.Random) -> dict[str, tuple[str | None, bytes]]:
    """One file of each kind: its suffix, if it matters, and its content."""
    files: dict[str, tuple[str | None, bytes]] = {}
    whole = {kind: encode(photo, kind) for kind in SUFFIXES}
    for kind, content in whole.items():
        suffix = SUFFIXES[kind]
        files[f"{kind} cut in its header"] = suffix, content[: rng.randrange(2, 21)]
        files[f"{kind} cut in half"] = suffix, content[: int(len(content) * rng.uniform(0.4, 0.6))]
        files[f"{kind} cut near its end"] = suffix, content[: int(len(content) * rng.uniform(0.75, 0.9))]

    jpeg, size = whole["JPEG"], photo.size
    frame = jpeg.index(b"\xff\xc0") + 4  # of its header: bits, height, width

    def framed(bits: int, height: int, width: int) -> bytes:
        return jpeg[:frame] + struct.pack(">BHH", bits, height, width) + jpeg[frame + 5 :]

    files |= {
        "JPEG start only": (".jpg", jpeg[:2]),
        "JPEG start and end only": (".jpg", jpeg[:2] + jpeg[-2:]),
        "JPEG without its start": (".jpg", jpeg[2:]),
        "JPEG of no height": (".jpg", framed(8, 0, size[0])),
        "JPEG of 12 bits": (".jpg", framed(12, size[1], size[0])),
        "JPEG bomb": (".jpg", framed(8, 65500, 65500)),
        "JPEG with swapped bytes": (".jpg", np.frombuffer(jpeg[: len(jpeg) // 2 * 2], np.uint16).byteswap().tobytes()),
        "JPEG sent as text": (".jpg", jpeg.decode("latin-1").encode()),
        "JPEG in base64": (".jpg", base64.b64encode(jpeg)),
        "JPEG in gzip": (".jpg", gzip.compress(jpeg, mtime=0)),
        "JPEG reversed": (".jpg", jpeg[::-1]),
        "JPEG in zip": (".jpg", _zipped(jpeg)),
    }

    plain, packed, lie = whole["PNG"], np.asarray(photo).tobytes(), zlib.compress(bytes(1000))
    middle = plain.index(b"IDAT") + 4
    files |= {
        "PNG of a wrong checksum": (".png", plain[:29] + bytes(b ^ 255 for b in plain[29:33]) + plain[33:]),
        "PNG of broken data": (".png", plain[:middle] + b"\xff" * 99 + plain[middle + 99 :]),
        "PNG without data": (".png", plain[: middle - 8] + _chunk(b"IEND", b"")),
        "PNG of no width": (".png", png(0, size[1], 8, 2, b"")),
        "PNG of an unknown layout": (".png", png(*size, 5, 2, packed)),
        "PNG sent as text": (".png", plain.replace(b"\n", b"\r\n")),
        "PNG bomb": (".png", png(50_000, 50_000, 8, 2, lie, pack=False)),
        "PNG bomb of 300 MP": (".png", png(20_000, 15_000, 8, 2, lie, pack=False)),
        "PNG of an endless side": (".png", png(1, 80_000_000, 8, 0, lie, pack=False)),
        "GIF bomb": (".gif", b"GIF89a" + b"\xff" * 4 + whole["GIF"][10:]),
        "GIF without a frame": (".gif", whole["GIF"][:10] + b"\0\0\0;"),
        "WEBP bomb": (".webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x7f\0" * 2 + bytes(12)),
        "BMP bomb": (".bmp", whole["BMP"][:18] + struct.pack("<ii", 30_000, 30_000) + whole["BMP"][26:]),
        "BMP of an unknown compression": (".bmp", whole["BMP"][:30] + struct.pack("<I", 77) + whole["BMP"][34:]),
    }

    grey = np.asarray(photo.convert("L"))
    shares, counts = (grey / 255).astype("<f4").tobytes(), ((grey + 1.0) * 8_000_000).astype("<u4").tobytes()
    nowhere = whole["TIFF"][:4] + struct.pack("<I", 1 << 30) + whole["TIFF"][8:]
    files |= {
        "TIFF of floats": (".tif", tiff(*size, (32,), 1, shares, t339=3)),
        "TIFF of 32 bits": (".tif", tiff(*size, (32,), 1, counts)),
        "TIFF below zero": (".tif", tiff(*size, (16,), 1, (grey - 300.0).astype("<i2").tobytes(), t339=2)),
        "TIFF bomb": (".tif", tiff(40_000, 40_000, (8,), 1, bytes(64))),
        "TIFF of an unknown compression": (".tif", tiff(*size, (8,), 1, grey.tobytes(), t259=9999)),
        "TIFF without its directory": (".tif", nowhere),
    }

    page = "<!DOCTYPE html><title>{0}</title><h1>{0}</h1><p>Der Zugriff ist geschützt.</p>"
    body = rng.randbytes(2000)
    files |= {
        "empty": (None, b""),
        "zeros": (None, bytes(4096)),
        "random bytes": (None, b"\x01" + body),
        "error page": (".jpg", page.format(rng.choice(["403 Forbidden", "404 Not Found", "502 Bad Gateway"])).encode()),
        "error in XML": (".png", b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n'),
        "JSON": (".jpg", json.dumps({"error": rng.randrange(400, 600)}).encode()),
        "text in Latin-1": (".jpg", "Größe überschritten\n".encode("latin-1") * 20),
        "pointer to large file": (".jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"),
        "PDF": (".jpg", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + body),
        "EPS": (".jpg", encode(photo, "EPS")),
        "SVG": (".png", b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><path d="M0 0h8"/></svg>'),
        "MP4": (".jpg", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + body),
        "HEIC": (".jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + body),
        "PSD": (".jpg", b"8BPS\0\1" + body),
        "script": (".png", b"#!/bin/sh\nexit 1\n"),
    }
    return files


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("photo.jpg"), content)  # ZipInfo: dated 1980, the same at every run
    return file.getvalue()


def _stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a camera stores for this photo, whose EXIF orientation then turns it upright."""
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


OddFiles = dict[str, tuple[bytes, np.ndarray | Image.Image, float]]


def _odd_encodings(photo: Image.Image) -> OddFiles:
    """Orientation, odd JPEGs, animations, wrong suffixes, broken EXIF data, odd sizes."""
    rgb, other = np.asarray(photo), Image.new("RGB", photo.size, "blue")
    fine: dict[str, Any] = {"quality": 95, "subsampling": 0}
    files: OddFiles = {}
    for orientation in range(1, 9):
        stored = Image.fromarray(_stored(rgb, orientation))
        exif = _exif(orientation)
        raw = tiff(*stored.size, (8, 8, 8), 2, stored.tobytes(), t274=orientation)
        files[f"exif-{orientation}.jpg"] = encode(stored, "JPEG", exif=exif, **fine), rgb, 3
        files[f"exif-{orientation}.png"] = encode(stored, "PNG", exif=exif), rgb, 0
        files[f"exif-{orientation}.webp"] = encode(stored, "WEBP", lossless=True, exif=exif), rgb, 0
        files[f"exif-{orientation}.tif"] = raw, rgb, 0
        packed = encode(stored, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
        files[f"exif-{orientation}-lzw.tif"] = packed, rgb, 0
    for orientation in (0, 9, 65535):
        files[f"exif-unknown-{orientation}.png"] = encode(photo, "PNG", exif=_exif(orientation)), rgb, 0

    broken_exif = {
        "noise": b"Exif\0\0" + bytes(range(200)),
        "header": b"Exif\0\0II*\0",
        "short": _exif(6)[:-9],
        "order": b"Exif\0\0XX*\0\x08\0\0\0\1\0",
        "far": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "count": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x05\xff\xff\xff\xff\0\0\0\0" * 3,
        "type": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
    }
    for kind, exif in broken_exif.items():
        files[f"broken-exif-{kind}.jpg"] = encode(photo, "JPEG", exif=exif, **fine), rgb, 3
        files[f"broken-exif-{kind}.png"] = encode(photo, "PNG", exif=exif), rgb, 0
        files[f"broken-exif-{kind}.webp"] = encode(photo, "WEBP", lossless=True, exif=exif), rgb, 0
    lost = tiff(*photo.size, (8, 8, 8), 2, photo.tobytes(), t34665=0xFFFFFFF0)
    files["broken-exif.tif"] = lost, rgb, 0

    animation: dict[str, Any] = {"save_all": True, "append_images": [other], "duration": 50}
    palette = photo.quantize(64)
    files |= {
        "animated.webp": (encode(photo, "WEBP", lossless=True, **animation), rgb, 0),
        "animated.png": (encode(photo, "PNG", **animation), rgb, 0),
        "animated.gif": (encode(palette, "GIF", **animation), palette.convert("RGB"), 0),
        "pages.tif": (encode(photo, "TIFF", save_all=True, append_images=[other]), rgb, 0),
        "stereo.jpg": (encode(photo, "MPO", save_all=True, append_images=[other], **fine), rgb, 3),
        "PROGRESSIVE.JPG": (encode(photo, "JPEG", progressive=True, **fine), rgb, 3),
        "grey.jpg": (encode(photo.convert("L"), "JPEG", **fine), photo.convert("L"), 3),
        "cmyk.jpg": (encode(Image.fromarray(255 - rgb).convert("RGB").convert("CMYK"), "JPEG", **fine), 255 - rgb, 3),
        "ycck.jpg": (_ycck(rgb), rgb, 3),
        "trailing.jpg": (encode(photo, "JPEG", **fine) + b"and more" * 99, rgb, 3),
        "endless.png": (encode(photo, "PNG")[:-12], rgb, 0),
        "png.jpg": (encode(photo, "PNG"), rgb, 0),
        "webp.jpg": (encode(photo, "WEBP", lossless=True), rgb, 0),
        "jpeg.png": (encode(photo, "JPEG", **fine), rgb, 3),
        "bmp.gif": (encode(photo, "BMP"), rgb, 0),
    }
    for width, height in ((1, 1), (1, 5000), (5000, 1)):
        strip = np.arange(width * height * 3).reshape(height, width, 3).astype(np.uint8)
        files[f"{width}x{height}.png"] = encode(Image.fromarray(strip), "PNG"), strip, 0
    Image.init()
    if "AVIF" in Image.SAVE:
        files["avif.jpg"] = encode(photo, "AVIF", quality=95, subsampling="4:4:4"), rgb, 3
    return files


def _ycck(rgb: np.ndarray) -> bytes:
    """A JPEG as a press wants it: inverted CMYK whose first three channels are YCbCr."""
    ycc = np.asarray(Image.fromarray(255 - rgb).convert("YCbCr"))
    four = 255 - np.concatenate([ycc, np.full_like(ycc[..., :1], 255)], axis=-1)  # Pillow inverts when it writes
    content = encode(Image.frombytes("CMYK", four.shape[1::-1], four.tobytes()), "JPEG", quality=95, subsampling=0)
    transform = content.index(b"Adobe") + 11
    return content[:transform] + b"\x02" + content[transform + 1 :]


def _odd_layouts(photo: Image.Image) -> OddFiles:
    """Depths, palettes, transparency."""
    rgb, grey, size = np.asarray(photo), np.asarray(photo.convert("L")), photo.size
    hole = np.zeros(grey.shape, bool)
    hole[: grey.shape[0] // 2, : grey.shape[1] // 3] = True
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    holed, grey_holed = np.where(hole[..., None], 255, rgb), np.where(hole, 255, grey)
    wide = grey.astype(np.uint16) * 257  # 8 bits spread over 16
    marked = np.where(hole, 4660, wide)  # 0x1234, which no spread value equals
    black = np.asarray(photo.convert("1"))
    few = grey >> 6  # four levels
    colours = np.array([[200, 0, 0], [0, 150, 0], [0, 0, 100], [10, 20, 30]], np.uint8)
    on_white = np.array([[200, 0, 0], [127, 202, 127], [255, 255, 255], [10, 20, 30]], np.uint8)  # 255, 128, 0, 255

    def raw(pixels: np.ndarray, kind: str = ">u2") -> bytes:
        return np.ascontiguousarray(pixels, dtype=kind).tobytes()

    rgb_marked = np.where(hole[..., None], [3, 2, 1], np.maximum(rgb, 4))
    rgb_marked16 = np.where(hole[..., None], 4660, rgb.astype(np.uint16) | 0x80 << 8)
    upper = np.where(hole[..., None], 255, rgb_marked16 >> 8)
    four_bits = np.where(hole, 5, np.where(grey >> 4 == 5, 6, grey >> 4))
    if size[0] % 2:
        four_bits = np.pad(four_bits, ((0, 0), (0, 1)))
    nibbles = raw(four_bits[:, ::2] << 4 | four_bits[:, 1::2], "u1")
    four_bits = four_bits[:, : size[0]]
    twelve = np.pad(grey.astype(np.uint32) * 4095 // 255, ((0, 0), (0, size[0] % 2)))
    pairs = twelve[:, ::2] << 12 | twelve[:, 1::2]
    triples = np.stack([pairs >> 16, pairs >> 8 & 255, pairs & 255], axis=-1).reshape(len(grey), -1)
    triples = triples[:, : -(-size[0] * 12 // 8)]
    return {
        "la.png": (png(*size, 8, 4, raw(np.dstack([grey, alpha]), "u1")), grey_holed, 0),
        "la16.png": (png(*size, 16, 4, raw(np.dstack([wide, alpha * np.uint16(257)]))), grey_holed, 0),
        "rgba.png": (png(*size, 8, 6, raw(np.dstack([rgb, alpha]), "u1")), holed, 0),
        "rgba16.png": (png(*size, 16, 6, raw(np.dstack([rgb, alpha]) * np.uint16(257))), holed, 0),
        "rgba.webp": (encode(Image.fromarray(np.dstack([rgb, alpha])), "WEBP", lossless=True), holed, 0),
        "rgba.tif": (tiff(*size, (8,) * 4, 2, raw(np.dstack([rgb, alpha]), "u1"), t338=2), holed, 0),
        "la-associated.tif": (tiff(*size, (8, 8), 1, raw(np.dstack([grey, alpha]), "u1"), t338=1), grey_holed, 0),
        "rgb16.png": (png(*size, 16, 2, raw(rgb * np.uint16(257))), rgb, 0),
        "rgb16.tif": (tiff(*size, (16,) * 3, 2, raw(rgb * np.uint16(257), "<u2")), rgb, 0),
        "grey16.png": (png(*size, 16, 0, raw(wide)), grey, 0),
        "grey16-big.tif": (tiff(*size, (16,), 1, raw(wide), ">"), grey, 0),
        "grey16-little.tif": (tiff(*size, (16,), 1, raw(wide, "<u2")), grey, 0),
        "grey16-turned.tif": (tiff(*grey.shape, (16,), 1, raw(_stored(wide, 6)), ">", t274=6), grey, 0),
        "grey16-lzw.tif": (encode(Image.fromarray(wide), "TIFF", compression="tiff_lzw"), grey, 0),
        "grey16-negative.tif": (tiff(*size, (16,), 0, raw(65535 - wide, "<u2")), grey, 0),
        "grey16-in-32.tif": (tiff(*size, (32,), 1, raw(wide, "<u4")), grey, 0),
        "grey12.tif": (tiff(*size, (12,), 1, raw(triples, "u1")), grey, 1),
        "negative.tif": (tiff(*size, (8,), 0, raw(255 - grey, "u1")), grey, 0),
        "black-and-white.png": (encode(photo.convert("1"), "PNG"), black * 255, 0),
        "black-and-white.tif": (encode(photo.convert("1"), "TIFF", compression="group4"), black * 255, 0),
        "palette.png": (png(*size, 8, 3, raw(few, "u1"), (b"PLTE", colours.tobytes())), colours[few], 0),
        "palette-alpha.png": (
            png(*size, 8, 3, raw(few, "u1"), (b"PLTE", colours.tobytes()), (b"tRNS", b"\xff\x80\0")),
            on_white[few],
            0.5,  # a half-transparent green is rounded
        ),
        "palette-hole.gif": (
            encode(_with_palette(few, colours), "GIF", transparency=2),
            np.where((few == 2)[..., None], 255, colours[few]),
            0,
        ),
        "rgb-hole.png": (
            png(*size, 8, 2, raw(rgb_marked, "u1"), (b"tRNS", struct.pack(">3H", 3, 2, 1))),
            np.where(hole[..., None], 255, rgb_marked),
            0,
        ),
        "rgb16-hole.png": (
            png(*size, 16, 2, raw(rgb_marked16), (b"tRNS", struct.pack(">3H", 4660, 4660, 4660))),
            upper,
            0,
        ),
        "grey16-hole.png": (png(*size, 16, 0, raw(marked), (b"tRNS", struct.pack(">H", 4660))), grey_holed, 0),
        "grey4-hole.png": (
            png(*size, 4, 0, nibbles, (b"tRNS", struct.pack(">H", 5))),
            np.where(hole, 255, four_bits * 17),
            0,
        ),
        "cmyk.tif": (encode(photo.convert("CMYK"), "TIFF"), rgb, 0),
        "PHOTO.BMP": (encode(photo, "BMP"), rgb, 0),
    }


def _with_palette(indices: np.ndarray, colours: np.ndarray) -> Image.Image:
    photo = Image.fromarray(indices.astype(np.uint8)).convert("P")
    photo.putdata(indices.ravel().tolist())
    photo.putpalette(colours.tobytes())
    return photo


if __name__ == "__main__":
    made = make_broken_photos(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    for kind, count in sorted(Counter(made.values()).items()):
        print(f"{count:4d}  {kind}")
    print(f"{len(made):4d}  in all")
