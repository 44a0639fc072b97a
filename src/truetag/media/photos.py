"""Photos from disk or memory, decoded as a viewer would show them."""

import importlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from truetag.errors import InputError

# whatever the suffix; MPO counts as JPEG; none of these runs another program, as EPS does
_FORMATS = "JPEG PNG WEBP GIF BMP TIFF AVIF JPEG2000 HEIF DIB PPM TGA PCX SGI SUN QOI PSD DDS"
_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs .jp2 .j2k .jpc .jpf .jpx .j2c "
    ".heic .heif .hif .pbm .pgm .ppm .pnm .pfm .tga .icb .vda .vst .pcx .sgi .rgb .rgba .bw .ras .qoi .psd .dds"
)
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())
"""How the names of photos end, in lower case; HEIC needs a plugin."""
MAX_MEGAPIXELS = 256
"""Larger photos are not decoded, unless TRUETAG_MAX_MEGAPIXELS says so."""
_DRAFT_PIXELS = 2**26  # larger JPEGs are decoded at a half, a quarter or an eighth of their size, and take less memory
_DRAFT_SIDE = 4096
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_PILLOW_LIMIT = 1024 * 1024 * 1024 // 4 // 3
_MAX_SIDE = 65535  # the longest side of a JPEG; resizing a strip of 1 x 80,000,000 pixels would take all memory
_TO_UPRIGHT = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]


class MediaError(Exception):
    """A file that cannot be used as a photo or clip, with a one-line reason; callers skip it, count it and list it."""

    def __init__(self, reason: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)[:250])


class UnreadableError(MediaError):
    """A file that the system did not hand out: this says nothing about its content, and it may be readable later."""


def read_photo(path: Path, root: Path | None = None) -> Image.Image:
    """An RGB photo: upright, the first frame of an animation, transparency on white.

    Args:
        path: the file; its suffix does not matter.
        root: the folder that the file must lie in after following symbolic links; None for any.

    Raises:
        MediaError: the file is missing, empty, outside `root`, not a photo, too large, broken, or of an unknown scale.
    """
    with _one_kind_of_error(path):
        check_file(path, root)
        with path.open("rb") as file:
            return _decode(file)


PhotoContent = bytes | Image.Image | np.ndarray
"""A photo in memory: the bytes of a file, an open photo, or uint8 pixels [H, W], [H, W, 3] or [H, W, 4]."""


def decode_photo(content: PhotoContent) -> Image.Image:
    """An RGB photo as `read_photo` gives it, from memory.

    Raises:
        MediaError: it is empty, not a photo, too large, broken, or of an unknown scale.
    """
    with _one_kind_of_error():
        if isinstance(content, bytes):
            if not content:
                raise MediaError("an empty file")
            return _decode(BytesIO(content))
        return _upright_rgb(Image.fromarray(content) if isinstance(content, np.ndarray) else content.copy())


@contextmanager
def _one_kind_of_error(path: Path | None = None) -> Iterator[None]:
    """Whatever goes wrong with the photo, at `path` or in memory, becomes a MediaError."""
    try:
        yield
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # some sizes only Pillow knows
        raise MediaError(f"too large ({error})") from None
    except MemoryError:
        raise UnreadableError("not enough memory to decode it") from None
    except Exception as error:  # Pillow's decoders raise many kinds, and one broken file must not end a long run
        if system := getattr(error, "strerror", None):
            raise UnreadableError(f"cannot be read ({system})") from None
        detail = f"{type(error).__name__}: {error}"
        if path is not None:
            detail = detail.replace(str(path), path.name)
        raise MediaError(f"cannot be decoded ({detail})") from None


def _decode(file: BufferedReader | BytesIO) -> Image.Image:
    try:
        with Image.open(file, formats=_formats()) as photo:
            return _upright_rgb(photo)
    except Image.UnidentifiedImageError:
        file.seek(0)
        raise MediaError(_unidentified(file.read(12))) from None


def _upright_rgb(photo: Image.Image) -> Image.Image:
    _check_size(photo.width, photo.height)
    if photo.width * photo.height > _DRAFT_PIXELS:
        photo.draft(None, (_DRAFT_SIDE, _DRAFT_SIDE))
    tile = getattr(photo, "tile", None)
    layout = str(tile[0][3]) if tile else ""  # how the file packs a pixel; lost on loading
    photo.load()
    orientation, photo = _orientation(photo), _to_rgb(photo, layout)
    photo.info.clear()  # otherwise the orientation could be applied twice
    return photo.transpose(Image.Transpose[_TO_UPRIGHT[orientation - 2]]) if orientation in range(2, 9) else photo


def check_file(path: Path, root: Path | None = None) -> os.stat_result:
    """Look at a photo's or clip's entry in the file system, without opening the file.

    Raises:
        UnreadableError: the file is missing, empty, outside `root`, or not a regular file.
    """
    try:
        if root is not None and not path.resolve().is_relative_to(root.resolve()):
            raise UnreadableError("leads outside the media root, which --allow-outside would allow")
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableError("no such file") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from None
    except (ValueError, RuntimeError):  # NUL, lone surrogates; some Pythons raise RuntimeError for loops of links
        raise UnreadableError("not the path of any file") from None
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableError("a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("not a regular file")  # opening a pipe would wait for a writer
    if status.st_size == 0:
        raise UnreadableError("an empty file")
    return status


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if max(width, height) > _MAX_SIDE or (limit is not None and width * height > limit):
        raise MediaError(
            f"too large ({width} x {height} = {width * height} pixels; TRUETAG_MAX_MEGAPIXELS sets the limit)"
        )


def _allow_large_photos() -> None:
    """Set Pillow's limit, unless somebody else has set it.

    Raises:
        InputError: TRUETAG_MAX_MEGAPIXELS is no number above 0.
    """
    setting = os.environ.get("TRUETAG_MAX_MEGAPIXELS", str(MAX_MEGAPIXELS))
    try:
        limit = round(float(setting) * 1e6)
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise InputError(f"TRUETAG_MAX_MEGAPIXELS: expected millions of pixels, got {setting!r}")
    if Image.MAX_IMAGE_PIXELS == _PILLOW_LIMIT:
        Image.MAX_IMAGE_PIXELS = limit


def _unidentified(start: bytes) -> str:
    """Why a file that starts so is none of the photos that are read: HEIC and AVIF may lack their decoder."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return "a HEIC photo (pip install pillow-heif, and it is read)"
    if start[4:8] == b"ftyp" and start[8:12] in _AVIF_BRANDS:
        return "an AVIF photo (pip install pillow-avif-plugin, and it is read)"
    return "not a photo of a known kind, or broken at its start"


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    with suppress(ImportError):  # imported here: the packages are optional
        importlib.import_module("pillow_heif").register_heif_opener()
    with suppress(ImportError):
        importlib.import_module("pillow_avif")
    return tuple(kind for kind in _FORMATS.split() if kind in Image.OPEN)


def _orientation(photo: Image.Image) -> int:
    try:
        return int(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF data: the pixels are fine, and most photos are upright
        return 1


def _to_rgb(photo: Image.Image, layout: str) -> Image.Image:
    transparent = photo.info.get("transparency")
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):
        photo = _to_8_bits(photo, 4095 if "I;12" in layout else 65535)
    elif photo.mode == "La":  # Pillow converts La to nothing else
        photo = photo.convert("LA")
    elif isinstance(transparent, int) and "L;" in layout:  # Pillow scales grey of 2 and 4 bits, but not this
        photo.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}.get(layout, 1)
    elif isinstance(transparent, tuple) and ";16" in layout:  # likewise: Pillow keeps the upper byte of a colour only
        photo.info["transparency"] = tuple(value >> 8 for value in transparent)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        background = Image.new("RGBA", photo.size, "white")
        photo = Image.alpha_composite(background, photo)
    return photo.convert("RGB")


def _to_8_bits(photo: Image.Image, white: int) -> Image.Image:
    """Scale grey of more than 8 bits down; convert() would clip it."""
    levels = np.asarray(photo, dtype=np.float32)
    if photo.mode == "F" or levels.min() < 0 or levels.max() > white:
        raise MediaError(f"grey of an unknown scale (mode {photo.mode}, {levels.min():g} to {levels.max():g})")
    if getattr(photo, "tag_v2", {}).get(262) == 0:  # TIFF with white as zero; Pillow inverts it only up to 8 bits
        levels = white - levels
    grey = Image.fromarray((levels / (white / 255)).astype(np.uint8))
    if "transparency" in photo.info:
        grey.putalpha(Image.fromarray(np.asarray(photo) != photo.info["transparency"]).convert("L"))
    return grey


_allow_large_photos()
