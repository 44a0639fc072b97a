"""Whatever bytes a reader is given, it reads them or raises one InputError that is fit to be shown."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from malformed_tables import COCO, GOOD, GOOD_PARQUET, INSTANCES, READERS, ROW, assert_clear, lines, parquet

from truetag.data.manifest import FIELDS, iterate_rows, read_header
from truetag.errors import InputError
from truetag.io.text import parse_json
from truetag.runs.config import config_from_dict

fuzzed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from((*FIELDS, "media_root", "caption", ""))
# pieces which mean something to one reader or another
pieces = st.sampled_from(
    [
        *(bytes([code]) for code in b'\n\r,\t|"{}[]:'),
        b"\\u",
        b"\\ud800",
        b"\xff",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xc2\x85",
        *b"PAR1 PK\x03\x04 image caption tags id NN NaN 1e999 null -1".split(),
    ]
)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), pieces | st.binary(max_size=4)), min_size=1, max_size=4)


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """The bytes with some stretches of them replaced."""
    for position, length, piece in changes:
        start = int(position * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


def survives(reader: str, path: Path, content: bytes) -> None:
    """Nothing but an InputError comes out of a reader, and its message is clear."""
    path.write_bytes(content)
    try:
        READERS[reader](path)
    except InputError as error:
        assert_clear(str(error), path.name)


@pytest.mark.parametrize("reader", GOOD)
@fuzzed
@given(content=st.binary(max_size=80) | st.lists(pieces, max_size=20).map(b"".join))
def test_random_bytes(tmp_path: Path, reader: str, content: bytes) -> None:
    survives(reader, tmp_path / GOOD[reader][0], content)


@pytest.mark.parametrize("reader", GOOD)
@fuzzed
@given(changes=edits)
def test_mutated_files(tmp_path: Path, reader: str, changes: list[tuple[float, int, bytes]]) -> None:
    survives(reader, tmp_path / GOOD[reader][0], mutated(GOOD[reader][1], changes))


@pytest.mark.parametrize("reader", ["manifest", "header"])
@settings(fuzzed, max_examples=300)
@given(changes=edits, is_footer=st.booleans())
def test_mutated_parquet(tmp_path: Path, reader: str, changes: list[tuple[float, int, bytes]], is_footer: bool) -> None:
    # a file whose end is damaged is not looked into any further
    start = len(GOOD_PARQUET) // 2 if is_footer else 4
    content = GOOD_PARQUET[:start] + mutated(GOOD_PARQUET[start:-8], changes) + GOOD_PARQUET[-8:]
    survives(reader, tmp_path / "m.parquet", content)


@fuzzed
@given(row=st.dictionaries(keys, json_values, max_size=5), is_ascii=st.booleans())
@example(row={"tags": ["\ud800"]}, is_ascii=True)
def test_rows_of_any_json(tmp_path: Path, row: dict[str, Any], is_ascii: bool) -> None:
    encoded = json.dumps(ROW | {"id": "2"} | row, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    survives("manifest", tmp_path / "m.jsonl", lines(ROW) + encoded)
    survives("header", tmp_path / "m.jsonl", json.dumps(row).encode())


@fuzzed
@given(data=st.data())
def test_coco_of_any_json(tmp_path: Path, data: st.DataObject) -> None:
    reader, good = data.draw(st.sampled_from([("coco", COCO), ("categories", INSTANCES)]))
    content = json.loads(json.dumps(good))
    key = data.draw(st.sampled_from(list(content)))
    record = data.draw(st.sampled_from(content[key]))
    record[data.draw(st.sampled_from(list(record)))] = data.draw(json_values)
    if data.draw(st.booleans()):
        content[key] = data.draw(json_values)
    survives(reader, tmp_path / "c.json", json.dumps(content).encode())


@settings(fuzzed, max_examples=60)
@given(name=keys, values=st.lists(json_values, min_size=1, max_size=3))
def test_columns_of_anything(tmp_path: Path, name: str, values: list[Any]) -> None:
    try:
        column = pa.array(values)
        others = {"id": [str(number) for number in range(len(values))], "image": ["a"] * len(values)}
        content = parquet(**others | {name: column})
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return  # a column has one type
    survives("manifest", tmp_path / "m.parquet", content)


@fuzzed
@given(settings_=st.dictionaries(st.sampled_from(["dropout", "seed", "pooling", "flip", "weights", "x"]), json_values))
def test_settings_of_any_json(tmp_path: Path, settings_: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings_, allow_nan=True))
    try:
        values = parse_json((tmp_path / "config.json").read_text())
    except ValueError:
        return  # which `open_run` has to refuse
    try:
        config_from_dict(values)
    except InputError as error:
        assert_clear(str(error), "")


@fuzzed
@given(changes=edits)
def test_what_is_read_is_whole(tmp_path: Path, changes: list[tuple[float, int, bytes]]) -> None:
    """A damaged manifest that is read all the same has rows which can be written again."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(mutated(lines({"media_root": "x"}, ROW, ROW | {"id": "2", "tags": ["dög"]}), changes))
    try:
        rows, header = list(iterate_rows(path)), read_header(path)
    except InputError:
        return
    assert all(row["id"] for row in rows)
    json.dumps([rows, header], ensure_ascii=False).encode()
