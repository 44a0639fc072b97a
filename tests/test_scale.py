"""docs/scale.md: the Ray job as it is printed there, on a local Ray of two workers, killed and resumed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truetag import Tagger

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'ray[data]'")

DOCS = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text()
ROWS = 16


@pytest.fixture
def job(tmp_path):
    """The job as a file, with small steps, and the start of its command."""
    code = DOCS.partition("<!-- job.py -->\n```python\n")[2].partition("```")[0]
    assert "ROWS = 256" in code
    (tmp_path / "job.py").write_text(code.replace("ROWS = 256", f"ROWS = {ROWS}"))
    start = "import ray, runpy, sys; ray.init(num_cpus=2, include_dashboard=False); sys.argv = sys.argv[1:]; "
    return [sys.executable, "-c", start + "runpy.run_path(sys.argv[0], run_name='__main__')", str(tmp_path / "job.py")]


def read(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def test_the_job_survives_a_kill(tiny, tiny_run, tmp_path, job):
    paths = sorted((tiny / "photos").glob("*.jpg"))
    ids = [f"{number:03d}" for number in range(10 * ROWS)]
    photos = pa.table(
        {
            "id": ids,
            "path": ["nowhere.jpg" if number == 7 else str(paths[number % len(paths)]) for number in range(len(ids))],
            "tags": [[tiny_run.vocabulary.words[number % 20]] for number in range(len(ids))],
        }
    )
    pq.write_table(photos, tmp_path / "photos.parquet")
    command = [*job, str(tiny_run.folder), str(tmp_path / "photos.parquet"), str(tmp_path / "out")]
    environment = os.environ | {"RAY_TMPDIR": tempfile.gettempdir(), "PYTHONWARNINGS": "ignore"}
    first = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    done = tmp_path / "out" / "predictions-done"
    deadline = time.monotonic() + 240
    while len([*done.glob("*.parquet")] if done.is_dir() else []) < 3:
        assert first.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").glob("*.parquet")}
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)

    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").glob("*.parquet")} == before
    predictions = read(tmp_path / "out" / "predictions").sort_by("id")
    assert predictions["id"].to_pylist() == ids
    expected = Tagger(tiny_run.folder)(photos)
    for name in ("tags", "given_tags", "missing_tags", "error"):
        assert predictions[name].to_pylist() == expected[name].to_pylist()
    assert predictions["error"].to_pylist()[7] == "no such file"
    for mine, theirs in zip(predictions["posterior"].to_pylist(), expected["posterior"].to_pylist(), strict=True):
        assert mine == (theirs if theirs is None else pytest.approx(theirs, abs=1e-6))
    issues = read(tmp_path / "out" / "issues")
    incorrect = sum(value < 0.5 for values in expected["posterior"].to_pylist() for value in values or [])
    missing = sum(len(tags or []) for tags in expected["missing_tags"].to_pylist())
    kinds = issues["kind"].to_pylist()
    assert (kinds.count("incorrect"), kinds.count("missing")) == (incorrect, missing)


def test_the_issues_of_the_job(job):
    names: dict = {}
    exec(Path(job[-1]).read_text().partition("\ndef step(")[0], names)
    rows = {
        "id": ["a", "b"],
        "given_tags": [["dog", "unknown", "cat"], None],
        "posterior": [[0.75, float("nan"), 0.25], None],
        "missing_tags": [["sofa"], None],
        "missing_posterior": [[0.875], None],
    }
    found = names["issues"](pa.table(rows)).to_pylist()
    assert [tuple(issue.values()) for issue in found] == [
        ("a", "cat", "incorrect", 0.75),
        ("a", "sofa", "missing", 0.875),
    ]
    assert names["issues"](pa.table(rows).slice(1)).schema == names["issues"](pa.table(rows)).schema
