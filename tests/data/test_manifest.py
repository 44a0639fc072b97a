"""The manifest: both formats, its header, streaming, and one clear message for each way to be broken."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truetag.data.bags import read_bags
from truetag.data.manifest import (
    FIELDS,
    LIST_FIELDS,
    iterate_rows,
    read_header,
    read_manifest,
    stream_rows,
    write_manifest,
)
from truetag.errors import InputError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.lists(
    st.fixed_dictionaries(
        {"image": text.filter(bool)},
        optional={name: st.lists(text, max_size=3) for name in LIST_FIELDS if name not in ("frames", "tag_sources")}
        | {"split": text, "group": text},
    ).map(lambda row: row | ({"tag_sources": ["a person"] * len(row["tags"])} if row.get("tags") else {})),
    min_size=1,
    max_size=4,
)


def test_every_tag_has_one_source(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "a", "image": "a.jpg", "tags": ["dog", "cat"], "tag_sources": ["person"]}))
    with pytest.raises(InputError, match="tag_sources: expected one for each of 2 tags, got 1"):
        list(iterate_rows(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@given(rows=rows)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("m") / f"m{suffix}"
    numbered = [{"id": f"row {number}"} | row for number, row in enumerate(rows)]
    assert write_manifest(path, numbered, {"media_root": "photos"}) == len(rows)
    assert list(iterate_rows(path)) == [{name: row.get(name) for name in FIELDS} for row in numbered]
    assert read_header(path) == {"media_root": "photos"}


def test_paths_are_relative_to_the_media_root_or_the_manifest(tmp_path):
    write_manifest(tmp_path / "a.jsonl", [{"id": "1", "image": "x.jpg"}], {"media_root": "photos"})
    write_manifest(tmp_path / "b.jsonl", [{"id": "1", "image": "x.jpg"}])
    assert read_bags(read_manifest(tmp_path / "a.jsonl")).paths == [tmp_path / "photos" / "x.jpg"]
    assert read_bags(read_manifest(tmp_path / "b.jsonl")).paths == [tmp_path / "x.jpg"]


def test_a_changed_file_is_read_again(tmp_path):
    for name in ("first", "other"):
        write_manifest(tmp_path / "m.jsonl", [{"id": name, "image": "x.jpg"}])
        assert read_manifest(tmp_path / "m.jsonl").rows["id"][:] == [name]


GOOD = {"id": "1", "image": "a.jpg"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b'{"media_root": "x"}\n', "holds no rows"),
        (b"not json\n", "line 1: not a JSON object"),
        (b"[1]\n", "line 1: expected a JSON object"),
        (b'{"image": "a.jpg"}\n', "line 1: id is missing"),
        (b'{"id": "1"}\n', "expected exactly one of image"),
        (b'{"id": "1", "image": "a.jpg", "video": "b.mp4"}\n', "got image and video"),
        (b'{"id": 1, "image": "a.jpg"}\n', "id must be text, got 1"),
        (b'{"id": "1", "image": "a.jpg", "tags": "dog"}\n', "tags must be a list of texts"),
        (b'{"id": "1", "image": "a.jpg", "caption": ["x"]}\n', "did you mean 'captions'"),
        (
            json.dumps(GOOD).encode() * 1 + b"\n" + json.dumps(GOOD).encode(),
            "line 2: id '1' was already used on line 1",
        ),
        (b'{"id": "\xff", "image": "a.jpg"}\n', "expected UTF-8"),
        (json.dumps(GOOD).encode() + b"\n" + b"\xff" * 9000, "expected UTF-8"),
        (b'{"media_root": 5}\n' + json.dumps(GOOD).encode(), "media_root must be text"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_broken_manifests_are_named(tmp_path, content, message):
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_a_parquet_that_is_none_is_named(tmp_path):
    (tmp_path / "m.parquet").write_text("text")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "m.parquet")


def test_byte_order_mark_and_blank_lines_are_fine(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert read_manifest(tmp_path / "m.jsonl").rows["id"][:] == ["1"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [GOOD])

    def broken():
        yield GOOD | {"id": "2"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, broken())
    assert read_manifest(path).rows["id"][:] == ["1"]
    assert [item.name for item in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_probabilities_come_back_as_they_were(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    rows = [
        {"id": "a", "image": "a.jpg", "tags": [], "tag_probabilities": {"dog": 0.25, "a.b c": 1}},
        {"id": "b", "image": "b.jpg", "tags": [], "tag_probabilities": {}},
        {"id": "c", "image": "c.jpg", "tags": []},
    ]
    write_manifest(path, rows)
    expected = [row.get("tag_probabilities") for row in rows]
    assert [row["tag_probabilities"] for row in iterate_rows(path)] == expected
    found = stream_rows(read_manifest(path).rows, ("id", "tag_probabilities"))
    assert [row["tag_probabilities"] for row in found] == expected


@pytest.mark.parametrize("value", [["dog"], {"dog": 1.5}, {"dog": "0.5"}, {"dog": True}, {"dog": None}, 0.5])
def test_what_is_no_probability_is_refused(tmp_path, value):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "a", "image": "a.jpg", "tags": [], "tag_probabilities": value}))
    with pytest.raises(InputError, match="line 1: tag_probabilities: expected "):
        list(iterate_rows(path))
