import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from truetag.data.bags import read_bags
from truetag.data.cells import is_missing
from truetag.data.imports import ImportOptions, import_captions, import_coco, import_tags
from truetag.data.manifest import iterate_rows, read_header, read_manifest
from truetag.data.table_rows import TagOptions, read_captions, read_tags
from truetag.errors import InputError
from truetag.media.files import Skipped

COCO_MINI = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_mini"

reuse_folder = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00\ufeff[](){}"), max_size=20)
names = st.text("abcXYZ09_-. é,|;\"'", min_size=1, max_size=12).filter(str.strip)


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (1, 1)).save(folder / name, "PNG")
    return folder


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


COCO = {
    "images": [{"id": 7, "file_name": "seven.jpg"}, {"id": 3, "file_name": "three.jpg"}],
    "annotations": [
        {"id": 12, "image_id": 7, "caption": "A second caption.\n"},
        {"id": 11, "image_id": 7, "caption": "A first caption."},
        {"id": 10, "image_id": 3, "caption": "A cat."},
        {"id": 13, "image_id": 99, "caption": "Of a photo that was filtered out."},
    ],
}
INSTANCES = {
    "categories": [{"id": 1, "name": "person"}, {"id": 88, "name": "teddy bear"}],
    "annotations": [{"image_id": 7, "category_id": k} for k in (88, 1, 88)],
}


def test_coco_captions_come_in_annotation_order_with_sorted_categories(tmp_path: Path) -> None:
    media = photos(tmp_path / "photos", "seven.jpg", "three.jpg")
    annotations, categories = write_json(tmp_path / "c.json", COCO), write_json(tmp_path / "i.json", INSTANCES)
    summary = import_coco(
        annotations, media, tmp_path / "m" / "out.jsonl", categories=categories, options=ImportOptions("test")
    )
    assert (summary.num_rows, summary.skipped) == (2, [])
    rows = {row["id"]: row for row in iterate_rows(tmp_path / "m" / "out.jsonl")}
    assert list(rows) == ["7", "3"]
    assert rows["7"]["captions"] == ["A first caption.", "A second caption."]
    assert rows["7"]["true_tags"] == ["person", "teddy bear"]
    assert rows["3"]["true_tags"] == []
    assert rows["3"]["split"] == "test"
    assert not list(tmp_path.glob("m/*.skipped.jsonl"))


def test_the_whole_tree_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    media = photos(tmp_path / "tree" / "photos", "a.jpg")
    table = write_text(tmp_path / "t.csv", "image,caption\na.jpg,A dog\n")
    import_captions(table, media, tmp_path / "tree" / "lists" / "m.parquet")
    shutil.move(tmp_path / "tree", tmp_path / "elsewhere")
    manifest = read_manifest(tmp_path / "elsewhere" / "lists" / "m.parquet")
    assert manifest.header == {"media_root": "../photos"}
    assert read_bags(manifest).paths[0].is_file()


def test_missing_photos_are_counted_listed_and_written(tmp_path: Path) -> None:
    media = photos(tmp_path / "photos", "seven.jpg", "bare.jpg")
    content = COCO | {"images": [*COCO["images"], {"id": 5, "file_name": "bare.jpg"}]}
    out = tmp_path / "out.jsonl"
    summary = import_coco(write_json(tmp_path / "c.json", content), media, out)
    assert summary.num_rows == 1
    assert summary.skipped == [
        ("3", media / "three.jpg", "no such file"),
        ("5", media / "bare.jpg", "no captions"),
    ]
    beside = [json.loads(line) for line in (tmp_path / "out.jsonl.skipped.jsonl").read_text().splitlines()]
    assert [Skipped(entry["id"], Path(entry["path"]), entry["reason"]) for entry in beside] == summary.skipped
    photos(media, "three.jpg")
    import_coco(write_json(tmp_path / "c.json", COCO), media, out, options=ImportOptions(overwrite=True))
    assert not (tmp_path / "out.jsonl.skipped.jsonl").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"images": []}', '{"images": 1, "annotations": []}', "[" * 10**5])
def test_a_file_that_is_not_coco_is_one_clear_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"c\.json"):
        import_coco(write_text(tmp_path / "c.json", content), photos(tmp_path / "p"), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("key", "record", "message"),
    [
        ("images", {"id": 1}, r"images\[2\]: expected 'file_name' \(str\), got None"),
        ("images", {"id": "x", "file_name": "x.jpg"}, r"expected 'id' \(int\), got 'x'"),
        ("images", {"id": 7, "file_name": "x.jpg"}, "image id 7 is listed twice"),
        ("images", [], r"images\[2\]"),
        ("annotations", {"id": 1, "image_id": 7}, r"annotations\[4\]: expected 'caption'"),
    ],
)
def test_a_broken_coco_record_is_named(tmp_path: Path, key: str, record: object, message: str) -> None:
    annotations = write_json(tmp_path / "c.json", COCO | {key: [*COCO[key], record]})
    with pytest.raises(InputError, match=message):
        import_coco(annotations, photos(tmp_path / "p", "seven.jpg"), tmp_path / "out.jsonl")


def test_an_instance_of_no_category_is_an_error(tmp_path: Path) -> None:
    media = photos(tmp_path / "p", "seven.jpg")
    categories = write_json(tmp_path / "i.json", INSTANCES | {"categories": []})
    with pytest.raises(InputError, match="category_id 88"):
        import_coco(write_json(tmp_path / "c.json", COCO), media, tmp_path / "out.jsonl", categories=categories)


@reuse_folder
@given(
    records=st.lists(st.tuples(names, cells), min_size=1, max_size=8),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    delimiter=st.sampled_from(",|\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_any_table_of_captions_is_read_back(
    tmp_path: Path, records: list[tuple[str, str]], encoding: str, delimiter: str, newline: str
) -> None:
    text = io.StringIO(newline="")
    # Python's writer leaves a lone carriage return unquoted where lines end in \n, which is no readable table
    quoting = csv.QUOTE_ALL if any("\r" in cell for record in records for cell in record) else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=newline, quoting=quoting)
    writer.writerows([("image", "caption"), *records])
    rows = read_captions(write_text(tmp_path / "t.csv", text.getvalue(), encoding)).rows
    expected: dict[str, list[str]] = {}
    for name, caption in records:
        expected.setdefault(name.strip(), []).extend([] if is_missing(caption.strip()) else [caption.strip()])
    assert {row["id"]: row["captions"] for row in rows} == expected
    assert all(row["image"] == row["id"] for row in rows)


@reuse_folder
@given(text=cells | st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"image,tags\n" + (text if isinstance(text, bytes) else text.encode("utf-8")))
    with contextlib.suppress(InputError):
        assert all(row["id"] and row["tags"] is not None for row in read_tags(path).rows)


def test_quoted_newlines_and_commas_stay_in_the_caption(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", '"image","caption"\r\na.jpg,"Two dogs, \r\n""running"""\r\n\r\n')
    assert read_captions(table).rows == [{"id": "a.jpg", "image": "a.jpg", "captions": ['Two dogs, \r\n"running"']}]


def test_split_and_group_columns_win_over_the_option(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "image,caption,split,group,license\na,A dog,test,g1,x\nb,A cat,,,y\n")
    import_captions(table, photos(tmp_path / "p", "a", "b"), tmp_path / "m.jsonl", options=ImportOptions("train"))
    first, second = iterate_rows(tmp_path / "m.jsonl")
    assert (first["split"], first["group"]) == ("test", "g1")
    assert (second["id"], second["captions"], second["split"], second["group"]) == ("b", ["A cat"], "train", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one column with the names of photos"),
        ("image,image,caption\n", "distinct names"),
        ("image,caption,splt\na,b,c\n", "did you mean 'split'"),
        ("image,caption\na\n", r"1 x expected 2 cells, got 1; the first is .*t\.csv"),
        ("image,caption\n ,A dog\n", "1 x no name in 'image'"),
        ('image,caption\na,"never closed\n', "not a readable table"),
        ("image,caption\n", "no photo or clip of it"),
    ],
)
def test_a_wrong_table_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_captions(write_text(tmp_path / "t.csv", text), photos(tmp_path / "p", "a"), tmp_path / "out.jsonl")


def test_files_and_folders_that_are_not_there(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "image,tags\na,x\n")
    with pytest.raises(InputError, match="no such folder"):
        import_tags(table, tmp_path / "p", tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="no such annotation file"):
        import_tags(tmp_path / "u.csv", photos(tmp_path / "p"), tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="no such annotation file"):
        import_coco(tmp_path / "u.json", photos(tmp_path / "p"), tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"max_skipped: .* of 1 photos .* the first is .*a \(no such file\)"):
        import_tags(table, tmp_path / "p", tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="not UTF-8"):
        read_tags(write_text(tmp_path / "t.csv", "image,tags\né,x\n", "latin-1"))


def test_tags_with_every_optional_column(tmp_path: Path) -> None:
    text = "id,image,tags,unknown_tags,split,group\n1,a.jpg, dog ;Red  Ball;dog;,cat,train,g\n,b.jpg,,,,\n"
    out = tmp_path / "out.jsonl"
    import_tags(write_text(tmp_path / "t.csv", text), photos(tmp_path / "p", "a.jpg", "b.jpg"), out)
    first, second = iterate_rows(out)
    assert (first["id"], first["tags"], first["unknown_tags"]) == ("1", ["dog", "Red  Ball"], ["cat"])
    assert (first["split"], first["group"]) == ("train", "g")
    assert (second["id"], second["tags"], second["split"]) == ("b.jpg", [], None)


def test_a_given_separator_wins(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", 'image,tags\na,"dog, cat"\nb,\n')
    assert [row["tags"] for row in read_tags(table, TagOptions(separator=",")).rows] == [["dog", "cat"], []]
    assert read_tags(table, TagOptions(separator="none")).rows[0]["tags"] == ["dog, cat"]
    assert read_tags(table, TagOptions(separator=";")).rows[0]["tags"] == ["dog, cat"]
    with pytest.raises(InputError, match="separator"):
        read_tags(table, TagOptions(separator=""))


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="the COCO photos are not here")
@pytest.mark.parametrize(("part", "num"), [("train2017", 80), ("val2017", 79)])
def test_official_coco_files_need_no_edits(tmp_path: Path, part: str, num: int) -> None:
    out, folder = tmp_path / "out.jsonl", COCO_MINI / "annotations"
    captions, instances = folder / f"captions_{part}.json", folder / f"instances_{part}.json"
    summary = import_coco(captions, COCO_MINI / part, out, categories=instances)
    assert (summary.num_rows, summary.skipped) == (num, [])
    rows = list(iterate_rows(out))
    assert all(len(row["captions"]) >= 5 for row in rows)
    assert any("person" in row["true_tags"] for row in rows)
    assert "media_root" in read_header(out)
