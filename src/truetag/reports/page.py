"""One self-contained HTML file: a template, its values, and pictures inlined as data."""

import base64
import mimetypes
from io import BytesIO
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from truetag.io.files import write_text


def write_page(path: Path, template: str, **values: object) -> None:
    """Render a template of this package into `path`; text is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("truetag.reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    environment.filters["signed"] = lambda value: f"{100 * value:+.1f}".replace("-", "−")
    environment.filters["decimals"] = lambda value: "–" if value is None else f"{value:.2f}"
    environment.filters["inline"] = inline_photo
    write_text(path, environment.get_template(template).render(**values))


def inline_photo(path: Path) -> Markup:
    """A photo file as the value of an `src` attribute."""
    return _data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/jpeg")


def inline_picture(picture: Image.Image, side: int) -> Markup:
    """A small copy of a picture, of at most `side` pixels each way, as the value of an `src` attribute."""
    picture = picture.convert("RGB")
    picture.thumbnail((side, side))
    content = BytesIO()
    picture.save(content, "JPEG", quality=85)
    return _data_url(content.getvalue(), "image/jpeg")


def _data_url(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
