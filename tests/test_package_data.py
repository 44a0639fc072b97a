"""The wheel holds every file of the package: templates, scripts of the review page, `py.typed`."""

import tomllib
from pathlib import Path

import truetag

PACKAGE = Path(truetag.__file__).parent
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def test_every_file_that_is_no_module_is_package_data():
    patterns = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]["package-data"]["truetag"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == {path for path in packed if path.suffix != ".py"}
    assert {"py.typed", "base.html", "review.js", "modeling_truetag.py.txt"} <= {path.name for path in packed}
