"""One self-contained HTML file: a template, its values, and pictures inlined as data."""

from pathlib import Path

import jinja2

from truetag.io.files import write_text
from truetag.media.data_urls import inline_photo


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
