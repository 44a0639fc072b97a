"""One self-contained HTML file that needs no network and no server, in the one design of all our pages.

Texts are data, and escaped wherever a template names them. The policy of a page allows its own style and script, by
their digests, and pictures that are inside it: nothing that a tag or a file name says can run or be fetched.
"""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from truetag.io.files import write_text

_HOME = "truetag.io"


def write_page(path: Path, package: str, template: str, *, app: str | None = None, **values: object) -> None:
    """Render a template into `path`.

    Args:
        path: the page.
        package: has the template in its folder `templates`.
        template: extends base.html; a name in it that has no value is an error.
        app: the page has a style of its own instead of the documents' (APP.css) and a script (APP.js), both beside the
            template.
        values: of the names in the template. Text is escaped; `Markup` is taken as it is.
    """
    own = files(package) / "templates"
    shared = files(_HOME) / "templates"
    style = (shared / "colours.css").read_text() + (
        shared / "page.css" if app is None else own / f"{app}.css"
    ).read_text()
    script = "" if app is None else (own / f"{app}.js").read_text()
    allowed = {"img-src": "data:", "style-src": _digest(style)} | ({"script-src": _digest(script)} if script else {})
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(_HOME)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    environment.filters["signed"] = lambda value: f"{100 * value:+.1f}".replace("-", "−")
    environment.filters["decimals"] = lambda value: "–" if value is None else f"{value:.2f}"
    text = environment.get_template(template).render(
        policy="; ".join(["default-src 'none'", *(f"{name} {value}" for name, value in allowed.items())])
        + "; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        **values,
    )
    write_text(path, text)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
