"""The site: it builds without a warning, and its pages fetch nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        assert not re.search(r'\bsrc="(https?:)?//', text), page
        assert not re.search(r'<link[^>]*rel="(stylesheet|preconnect)"[^>]*href="(https?:)?//', text), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", sheet.read_text()), sheet


def test_equations_are_mathml(site):
    text = (site / "method.html").read_text()
    assert text.count("<math") > 20
    assert "arithmatex" not in text
    assert "Failed" not in text


def test_pages_of_other_folders_are_there(site):
    index = (site / "index.html").read_text()
    assert "Does it help?" in index
    assert 'href="benchmarks/methods.html"' in index
    assert (site / "benchmarks" / "methods.html").is_file()
    assert (site / "benchmarks" / "methods.png").is_file()


@pytest.mark.parametrize("broken", ["[no page](nowhere.md)", "[no heading](limits.md#nowhere)"])
def test_a_broken_link_is_an_error(tmp_path, broken):
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "benchmarks", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    with (tmp_path / "docs" / "start.md").open("a") as page:
        page.write(f"\n{broken}\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "nowhere" in done.stderr
