"""Pictures inside a page: as the value of an `src` attribute."""

import base64
import mimetypes
from io import BytesIO
from pathlib import Path

from markupsafe import Markup
from PIL import Image


def inline_photo(path: Path) -> Markup:
    """A file as it is."""
    return _data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/jpeg")


def inline_picture(picture: Image.Image, side: int, quality: int = 85) -> Markup:
    """A small copy of a picture, of at most `side` pixels each way."""
    picture = picture.convert("RGB")
    picture.thumbnail((side, side))
    content = BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return _data_url(content.getvalue(), "image/jpeg")


def _data_url(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
