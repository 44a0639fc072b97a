"""What the site needs beside mkdocs: pages of other folders, and equations as MathML, which needs no script."""

import html
import os
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Add the README as the first page, the changelog, and what was measured."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    measured = [path for path in sorted((ROOT / "benchmarks").iterdir()) if path.suffix in (".md", ".png", ".svg")]
    for path in (ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *measured):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they work in the repository, made to work between the pages of the site."""
    folder = Path(page.file.abs_src_path).parent

    def on_site(match: re.Match) -> str:
        target = Path(os.path.normpath(folder / match[1])).relative_to(ROOT).as_posix()
        target = "index.md" if target == "README.md" else target.removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(on_site, markdown)


def on_page_content(content, page, config, files):
    """Equations as MathML."""

    def mathml(match: re.Match) -> str:
        return convert(html.unescape(match[2]), display="inline" if match[1] == "span" else "block")

    return EQUATION.sub(mathml, content)
