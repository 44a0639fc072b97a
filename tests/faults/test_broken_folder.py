"""280 broken photos of 70 kinds and 100 odd ones among 500 good: every command ends well, and its list is exact."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from broken_photos import make_broken_photos, make_odd_photos
from PIL import Image

from truetag.cli import main
from truetag.data.manifest import iterate_rows, write_manifest

NUM_GOOD = 500
COLOURS = ("red", "green", "blue", "white")
TRAINING = ["--backbone", "test_resnet", "--weights", "none", "--resolution", "32", "--batch-size", "64"]
TRAINING += ["--stage1-epochs", "1", "--stage2-epochs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/ with good, odd and broken ones, a table that names them all, and a manifest that does."""
    root = tmp_path_factory.mktemp("broken")
    photos = root / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(NUM_GOOD):
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"good-{number:03d}.jpg")
    good = sorted(photos.iterdir())[:4]
    odd = sorted(make_odd_photos(photos / "odd", good))
    kinds = make_broken_photos(photos / "broken", good)
    assert len(kinds) >= 200
    assert len(set(kinds.values())) >= 25
    names = [path.name for path in sorted(photos.glob("good-*"))]
    names += [f"odd/{name}" for name in odd] + [f"broken/{name}" for name in kinds]
    random.shuffle(names)
    rows = [
        {
            "id": name,
            "image": name,
            "captions": [f"a {COLOURS[index % 4]} thing"],
            "split": ("train", "test")[index % 2],
        }
        for index, name in enumerate(names)
    ]
    write_manifest(root / "all.jsonl", rows, {"media_root": "photos"})
    lines = [f'"{row["image"]}",{row["captions"][0]},{row["split"]}\n' for row in rows]
    (root / "table.csv").write_text("image,caption,split\n" + "".join(lines))
    (root / "vocabulary.tsv").write_text("".join(f"{colour}\tJJ\t1\n" for colour in COLOURS))
    return root


def broken(folder, split=None):
    rows = [row for row in iterate_rows(folder / "all.jsonl") if split in (None, row["split"])]
    return {row["id"] for row in rows if row["id"].startswith("broken/")}


def listed(path):
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    names = [entry["id"] for entry in entries]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert entry["path"].endswith(entry["id"])
        assert entry["reason"].isprintable()
    return set(names)


def test_import_lists_the_broken_and_keeps_the_rest(folder, tmp_path):
    # in a process of its own, as decoders treat warnings outside the tests
    out = tmp_path / "m.jsonl"
    command = ["import", "captions", str(folder / "table.csv"), str(folder / "photos"), "--out", str(out)]
    code = f"import sys; from truetag.cli import main; sys.exit(main({command!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    num_usable = NUM_GOOD + len(list((folder / "photos/odd").iterdir()))
    assert (done.returncode, done.stdout.partition("\n")[0]) == (0, f"{num_usable} rows")
    assert f"{len(broken(folder))} skipped (" in done.stdout
    assert "photos cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert listed(tmp_path / "m.jsonl.skipped.jsonl") == broken(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [["--freeze-backbone"], [], ["--num-workers", "1"]])
def test_train_evaluate_and_predict_list_the_broken_and_use_the_rest(folder, tmp_path, options, capsys):
    manifest, run = str(folder / "all.jsonl"), tmp_path / "run"
    names = ["--data", manifest, "--vocabulary", str(folder / "vocabulary.tsv"), "--cache", str(tmp_path / "cache")]
    assert main(["train", "nmn-fi", *names, "--out", str(run), *TRAINING, *options]) == 0
    assert listed(run / "skipped.jsonl") == broken(folder, "train")
    assert f"{len(broken(folder, 'train'))} of " in capsys.readouterr().err
    assert main(["evaluate", str(run), manifest, "--cache", str(tmp_path / "cache")]) == 0
    assert listed(run / "metrics" / "all-test.json.skipped.jsonl") == broken(folder, "test")
    for inputs in (manifest, str(folder / "photos")):
        assert main(["predict", str(run), inputs, "--out", str(tmp_path / "p.parquet"), "--top-k", "1"]) == 0
        assert listed(tmp_path / "p.parquet.skipped.jsonl") == broken(folder)
        tagged = set(pq.read_table(tmp_path / "p.parquet")["id"].to_pylist())
        assert not tagged & broken(folder)
        assert len(tagged) >= NUM_GOOD + 100
        assert not list(tmp_path.glob("*.partial.jsonl"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [["--freeze-backbone"], []])
def test_too_many_broken_photos_stop_training_with_the_reasons(folder, tmp_path, options, capsys):
    manifest, run = str(folder / "all.jsonl"), tmp_path / "run"
    names = ["--data", manifest, "--vocabulary", str(folder / "vocabulary.tsv"), "--cache", str(tmp_path / "cache")]
    assert main(["train", "mlcn", *names, "--out", str(run), *TRAINING, *options, "--max-skipped", "0.25"]) == 2
    error = capsys.readouterr().err
    assert "max_skipped: more than the share 0.25 of" in error
    assert " x " in error
