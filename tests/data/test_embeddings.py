"""Files of embeddings as people have them: what is in them is found, by id; what is doubtful is refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truetag.data.embeddings import is_embeddings, open_embeddings
from truetag.data.imports import import_tags
from truetag.errors import InputError

X = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS = ["a", "b", "c", "d"]


def write(path, frame):
    pd.DataFrame(frame).to_parquet(path)
    return path


def test_npy_is_memory_mapped_and_has_ids_beside_it(tmp_path):
    np.save(tmp_path / "X.npy", X)
    assert open_embeddings(tmp_path / "X.npy").ids is None
    (tmp_path / "Y.npy.ids.json").write_text(json.dumps(IDS))
    np.save(tmp_path / "Y.npy", X)
    opened = open_embeddings(tmp_path / "Y.npy")
    assert isinstance(opened.array, np.memmap)
    assert opened.ids == IDS
    assert opened.rows_of(["c", "x", "a"]).tolist() == [2, -1, 0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", "uint8"])
def test_numbers_of_any_kind(tmp_path, dtype):
    np.savez(tmp_path / "X.npz", ids=np.array(IDS), features=X.astype(dtype))
    opened = open_embeddings(tmp_path / "X.npz")
    assert opened.array.dtype in (np.float16, np.float32, np.float64)
    assert opened.array.dtype.isnative
    np.testing.assert_array_equal(opened.array, X)


def test_parquet_of_lists_and_of_columns(tmp_path):
    lists = write(tmp_path / "lists.parquet", {"key": IDS, "score": [1, 2, 3, 4], "embedding": list(X)})
    columns = write(tmp_path / "columns.parquet", {"id": [7, 8, 9, 10], "x": X[:, 0], "y": X[:, 1], "z": X[:, 2]})
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    pq.write_table(pa.table({"v": fixed}), tmp_path / "fixed.parquet")
    for path, ids in ((lists, IDS), (columns, ["7", "8", "9", "10"]), (tmp_path / "fixed.parquet", None)):
        opened = open_embeddings(path)
        np.testing.assert_array_equal(opened.array, X)
        assert opened.ids == ids
        assert is_embeddings(path)


def test_a_manifest_is_no_file_of_embeddings(tiny, tmp_path):
    write(tmp_path / "m.parquet", {"id": IDS, "image": IDS, "tags": [["x"]] * 4})
    assert not is_embeddings(tmp_path / "m.parquet")
    assert not is_embeddings(tiny / "swapped.jsonl")


def test_unusable_numbers_are_counted_and_named(tmp_path):
    broken = X.astype(np.float64)
    broken[1, 0], broken[3, 2] = np.nan, 1e300
    np.savez(tmp_path / "X.npz", ids=np.array(IDS), features=broken)
    opened = open_embeddings(tmp_path / "X.npz")
    opened.require_finite(np.array([0, 2]))
    with pytest.raises(InputError, match=r"expected finite numbers, got NaN or infinity in 2 rows \('b', 'd'\)"):
        opened.require_finite(np.arange(4))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.array(["a", "b", "a", "b"]), "features": X}, r"each id once, got 2 ids several times \('a', 'b'\)"),
        ({"ids": np.array(IDS[:3]), "features": X}, "expected an id for each of 4 rows, got 3"),
        ({"ids": np.array(IDS, dtype=object), "features": X}, r"save ids with `.astype\(str\)`"),
        ({"ids": np.arange(4.0), "features": X}, "ids: expected texts or whole numbers, got float64"),
        ({"train": X, "test": X}, "expected one array of numbers, and perhaps `ids`, got train, test"),
        ({"features": X[0]}, r"expected numbers of shape \[examples, columns\], got float32 \(3,\)"),
        ({"features": np.array([["x"]])}, "expected numbers"),
    ],
)
def test_archives_that_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "X.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_embeddings(tmp_path / "X.npz")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"id": IDS, "v": [[1.0], [2.0, 3.0], [4.0], [5.0]]},
            "v: expected lists of one length, got lengths from 1 to 2",
        ),
        ({"id": IDS, "v": [[1.0], None, [4.0], [5.0]]}, "v: expected a value in each row, got 1 without"),
        ({"id": ["a", None, "c", "d"], "v": list(X)}, "id: expected a value in each row"),
        ({"name": IDS, "file": IDS, "v": list(X)}, "expected the ids in a column `id`, got .* name, file"),
        ({"id": IDS, "v": list(X), "w": list(X)}, "expected one column of lists of numbers, .* got v, w"),
        ({"id": IDS}, "expected one column of lists of numbers"),
    ],
)
def test_tables_that_are_refused(tmp_path, frame, message):
    with pytest.raises(InputError, match=message):
        open_embeddings(write(tmp_path / "X.parquet", frame))


@pytest.mark.parametrize("name", ["X.npy", "X.npz", "X.parquet"])
def test_broken_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 garbage")
    with pytest.raises(InputError, match="not a readable"):
        open_embeddings(tmp_path / name)


def test_ids_that_do_not_meet_are_refused(tmp_path):
    np.savez(tmp_path / "X.npz", ids=np.array(IDS), features=X)
    with pytest.raises(InputError, match=r"expected ids such as 'photos/a.jpg', those of the rows, got .* 'a'"):
        open_embeddings(tmp_path / "X.npz").rows_of(["photos/a.jpg"])


def table(path, *lines):
    path.write_text("\n".join(["image,tags", *lines]) + "\n")
    return path


def test_import_by_id_lists_what_has_no_vector(tmp_path):
    np.savez(tmp_path / "X.npz", ids=np.array(IDS), features=X)
    summary = import_tags(
        table(tmp_path / "t.csv", "d,cat", "x,dog", "a,cat"), tmp_path / "X.npz", tmp_path / "m.jsonl"
    )
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()][1:]
    assert [(row["id"], row["features"]) for row in rows] == [("d", "X.npz#3"), ("a", "X.npz#0")]
    assert [(entry.id, entry.reason) for entry in summary.skipped] == [("x", "no features of this id")]


def test_import_by_order_needs_the_same_number_and_no_wrong_row(tmp_path):
    np.save(tmp_path / "X.npy", X)
    few = table(tmp_path / "few.csv", "a,cat", "b,dog")
    with pytest.raises(InputError, match=r"expected 2 rows, one for each of the rows of .*few.csv in their order"):
        import_tags(few, tmp_path / "X.npy", tmp_path / "m.jsonl")
    wrong = table(tmp_path / "wrong.csv", "a,cat", ",dog", "c,cat", "d,dog", "e,dog")
    with pytest.raises(InputError, match="its order counts, got 1: line 3 has no name in 'image'"):
        import_tags(wrong, tmp_path / "X.npy", tmp_path / "m.jsonl")
    good = table(tmp_path / "good.csv", "a,cat", "b,dog", "c,cat", "d,dog")
    assert import_tags(good, tmp_path / "X.npy", tmp_path / "m.jsonl").num_rows == 4


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"features": "X.npy#4"}, "expected FILE#ROW with a row below 4, got 'X.npy#4'"),
        ({"features": "X.npy#-1"}, "expected FILE#ROW"),
        ({"features": "Y.npy#1"}, "in one file, got 'X.npy', 'Y.npy'"),
        ({"image": "b.jpg"}, "in one file, got photos in some rows"),
        ({"features": "../X.npy#1"}, "in one file|leads out of the media root"),
    ],
)
def test_rows_that_name_no_vector_are_refused(tmp_path, second, message):
    from truetag.data.bags import read_bags
    from truetag.data.manifest import read_manifest

    np.save(tmp_path / "X.npy", X)
    rows = [{"id": "a", "features": "X.npy#0"}, {"id": "b"} | second]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=message):
        read_bags(read_manifest(tmp_path / "m.jsonl"))
