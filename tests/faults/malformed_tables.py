"""Malformed tables as (reader, file name, bytes, what the message must say), always the same; and the readers of them.

Most are derived: every field with every wrong type, every damage to the bytes for every reader.
"""

import dataclasses
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from truetag.data.manifest import iterate_rows, read_header
from truetag.data.readers import read_coco, read_msrvtt
from truetag.data.rows import LIST_FIELDS, MEDIA_FIELDS, TEXT_FIELDS, ImportedRows
from truetag.data.splits import read_list
from truetag.data.table_rows import read_captions, read_tags
from truetag.data.vocabulary import read_vocabulary
from truetag.errors import InputError
from truetag.io.text import parse_json
from truetag.runs.config import TrainConfig, config_from_dict

Case = tuple[str, str, bytes, str]

ROW = {"id": "1", "image": "a.jpg", "captions": ["Ein Hund läuft."]}
COCO = {
    "images": [{"id": 7, "file_name": "à.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [{"id": 1, "image_id": 7, "caption": "A dog."}, {"id": 2, "image_id": 8, "caption": "Ein Bär."}],
}
INSTANCES = {
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "bär"}],
    "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 8, "category_id": 2}],
}

MSRVTT = {
    "videos": [{"video_id": "vidéo0", "split": "train"}, {"video_id": "video1", "split": "validate"}],
    "sentences": [{"video_id": "vidéo0", "caption": "A dog."}, {"video_id": "video1", "caption": "Ein Bär."}],
}


def lines(*values: object) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def parquet(metadata: bytes | None = None, **columns: Any) -> bytes:
    """A Parquet file of columns given as arrays or lists."""
    table = pa.table({"id": ["1"], "image": ["a.jpg"]} | columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"truetag": metadata})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def read_categories(path: Path) -> None:
    beside = path.with_name("captions.json")
    beside.write_bytes(lines(COCO))
    read_coco(beside, path)


def read_clean(read: Callable[[Path], ImportedRows], path: Path) -> ImportedRows:
    """The rows of a table, each record of which must be good."""
    imported = read(path)
    for line, reason in imported.problems:
        raise InputError(f"{path}, line {line}: {reason}")
    return imported


def assert_clear(message: str, name: str) -> None:
    """A message is one printable line, not long, and names the file."""
    assert message.isprintable(), message
    assert len(message) < 400, message
    assert name in message, message


READERS: dict[str, Callable[[Path], object]] = {
    "manifest": lambda path: list(iterate_rows(path)),
    "header": read_header,
    "coco": read_coco,
    "categories": read_categories,
    "msrvtt": read_msrvtt,
    "captions": lambda path: read_clean(read_captions, path),
    "tags": lambda path: read_clean(read_tags, path),
    "vocabulary": read_vocabulary,
    "list": read_list,
    "config": lambda path: config_from_dict(parse_json(path.read_text())),
}
# what each reader takes, with a letter in it that is two bytes in UTF-8
GOOD: dict[str, tuple[str, bytes]] = {
    "manifest": ("m.jsonl", lines(ROW, ROW | {"id": "2"})),
    "header": ("m.jsonl", lines({"media_root": "../bücher"}, ROW)),
    "coco": ("c.json", lines(COCO)),
    "categories": ("i.json", lines(INSTANCES)),
    "msrvtt": ("v.json", lines(MSRVTT)),
    "captions": ("c.csv", "image,caption\nä.jpg,A dog\nb.jpg,A cat\n".encode()),
    "tags": ("t.csv", "image,tags\nä.jpg,dog;cat\nb.jpg,\n".encode()),
    "vocabulary": ("v.tsv", "dog\tNN\t3\nbär\tNN\t2\n".encode()),
    "list": ("test.txt", "ä.jpg\nb.jpg\n".encode()),
}
GOOD_PARQUET = parquet(b'{"media_root": "x"}', captions=[["Ein Hund läuft."]], split=["train"])

WRONG_TEXTS: tuple[Any, ...] = (0, 1.5, True, False, [], ["a"], {}, {"a": 1}, [[["a"]]])
WRONG_LISTS: tuple[Any, ...] = (0, 1.5, True, "text", {}, [1], [None], [["a"]], ["a", True])
WRONG_TEXT_COLUMNS: tuple[Any, ...] = (
    pa.array([1]),
    pa.array([1.5]),
    pa.array([True]),
    pa.array([b"\xff"]),
    pa.array([2**62], pa.timestamp("ns")),
    pa.array([["a"]]),
    pa.array([{"a": 1}]),
    pa.array([1], pa.date32()),
)
WRONG_LIST_COLUMNS: tuple[Any, ...] = (
    pa.array(["a"]),
    pa.array([1]),
    pa.array([[1]]),
    pa.array([[["a"]]]),
    pa.array([[{"a": "b"}]]),
    pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
    pa.array([[b"\xff"]]),
    pa.array([{"a": "b"}]),
)


def wrong_types() -> Iterator[Case]:
    for name in (*TEXT_FIELDS, *LIST_FIELDS):
        is_text = name in TEXT_FIELDS
        expected = f"{name} must be {'text' if is_text else 'a list of texts'}, got "
        for value in WRONG_TEXTS if is_text else WRONG_LISTS:
            got = "" if isinstance(value, list | dict) else repr(value)
            yield "manifest", "m.jsonl", lines(ROW, ROW | {"id": "2", name: value}), f"line 2: {expected}{got}"
        for column in WRONG_TEXT_COLUMNS if is_text else WRONG_LIST_COLUMNS:
            yield "manifest", "m.parquet", parquet(**{name: column}), f"{expected}a column of {str(column.type)[:4]}"


def rules_of_rows() -> Iterator[Case]:
    one_of = f"expected exactly one of {', '.join(MEDIA_FIELDS)}, got "
    bare = {"id": "1", "captions": ["A dog."]}
    media = {"image": "a", "video": "b", "features": "c", "frames": ["d"]}
    rows: list[tuple[dict[str, Any], str]] = [
        (without(ROW, "id"), "id is missing or empty"),
        (ROW | {"id": ""}, "id is missing or empty"),
        (ROW | {"id": None}, "id is missing or empty"),
        (bare, one_of + "none of them"),
        (bare | {"image": None, "frames": []}, one_of + "none of them"),
        (bare | media, one_of + "image and frames and video and features"),
        (bare | {"frames": ["a"], "image": "b"}, one_of + "image and frames"),
    ]
    for first, second in zip(media, [*list(media)[1:], "image"], strict=True):
        rows.append((bare | {name: media[name] for name in (first, second)}, one_of))
    for row, expected in rows:
        whole = {key: value for key, value in row.items() if value is not None}
        yield "manifest", "m.jsonl", lines(ROW | {"id": "0"}, row), f"line 2: {expected}"
        columns = {"id": pa.nulls(1), "image": pa.nulls(1)} | {key: [value] for key, value in whole.items()}
        columns |= {"frames": pa.array([whole["frames"]], pa.list_(pa.string()))} if "frames" in whole else {}
        yield "manifest", "m.parquet", parquet(**columns), f"row 1: {expected}"
    for name, hint in (
        ("caption", "did you mean 'captions'"),
        ("Image", "did you mean 'image'"),
        ("tag", "did you mean 'tags'"),
        ("true_tag", "did you mean 'true_tags'"),
        ("zzz", "fields are: id, image"),
        ("", "fields are: id, image"),
        ("x" * 100_000, "fields are: id, image"),
        ("two\nlines", "fields are: id, image"),
        ("\x1b[31m", r"'\x1b[31m'"),
    ):
        yield "manifest", "m.jsonl", lines(ROW | {name: "x"}), f"{hint}"
        yield "manifest", "m.parquet", parquet(**{name: ["x"]}), f"{hint}"
    for again in ("1", "läuft\n", "x" * 100_000, "\x1b"):
        rows_twice = [ROW | {"id": again}, ROW | {"id": "other"}, ROW | {"id": again}]
        yield "manifest", "m.jsonl", lines(*rows_twice), "was already used on line 1"
        yield "manifest", "m.parquet", parquet(id=[again] * 2, image=["a"] * 2), "was already used on row 1"
    for value in (5, True, None, [], {}, "a\0b"):
        yield "header", "m.jsonl", lines({"media_root": value}, ROW), "media_root must be text"
        yield "header", "m.parquet", parquet(json.dumps({"media_root": value}).encode()), "media_root must be text"
    yield "manifest", "m.jsonl", lines(ROW, {"media_root": "x"}), "line 2: unknown field 'media_root'"
    yield "manifest", "m.jsonl", b"image,caption\na.jpg,A dog\n", "line 1: not a JSON object"


def json_damages() -> Iterator[tuple[str, str]]:
    """A value which is no JSON, or no text, and the reason that is given."""
    yield "NaN", "NaN is not JSON"
    yield "Infinity", "Infinity is not JSON"
    yield "-Infinity", "-Infinity is not JSON"
    yield "9" * 5000, "4300 digits"
    yield "-" + "9" * 5000, "4300 digits"
    yield "[" * 100_000, "nested too deeply"
    yield '{"a":' * 100_000, "nested too deeply"
    yield "[" * 5000 + "]" * 5000, "nested too deeply"
    yield r'"\ud800"', "half of a surrogate pair"
    yield r'"dog \uDFFF."', "half of a surrogate pair"
    yield r'["\ude00\ud83d"]', "half of a surrogate pair"
    yield r'{"\ud800": 1}', "half of a surrogate pair"
    yield r'{"a": 1, "a": 2}', "a key is given twice"
    yield r'"\x41"', "Invalid \\escape"
    yield r'"\u12"', "Invalid \\uXXXX escape"
    yield '"a\tb"', "Invalid control character"
    yield '"a\0b"', "Invalid control character"
    yield '"a\x1bb"', "Invalid control character"
    yield "'single'", "Expecting value"
    yield "", "Expecting value"
    yield "nul", "Expecting value"
    yield "undefined", "Expecting value"
    yield "01", "delimiter"
    yield "1.", "delimiter"
    yield "+1", "Expecting value"
    yield "0x10", "delimiter"
    yield "[1,]", "Expecting value"
    yield '{"a": 1,}', "double quotes"
    yield "{a: 1}", "double quotes"
    yield '"never closed', "Unterminated string"
    yield "/* comment */ 1", "Expecting value"


def broken_json() -> Iterator[Case]:
    for value, reason in json_damages():
        record = '{"id": "2", "image": "b.jpg", "tags": ' + value + "}\n"
        yield "manifest", "m.jsonl", lines(ROW) + record.encode(), "line 2: not a JSON object"
        if "Expecting" not in reason and "delimiter" not in reason and "quotes" not in reason:  # worded by Python
            yield "manifest", "m.jsonl", lines(ROW) + record.encode(), reason
            yield "header", "m.jsonl", ('{"media_root": ' + value + "}\n").encode(), reason
            yield "header", "m.parquet", parquet(('{"media_root": ' + value + "}").encode()), reason
        yield "coco", "c.json", ('{"images": [], "annotations": ' + value + "}").encode(), "not a JSON file"
        yield "categories", "i.json", ('{"categories": ' + value + "}").encode(), "not a JSON file"
        yield "msrvtt", "v.json", ('{"videos": ' + value + "}").encode(), "not a JSON file"
    for value in ("null", "true", "1", "1.5", '"x"', "[]", "[1]", '["id", "image"]'):
        yield "manifest", "m.jsonl", lines(ROW) + value.encode() + b"\n", "line 2: expected a JSON object"
        yield "header", "m.jsonl", value.encode(), "line 1: expected a JSON object"
        yield "header", "m.parquet", parquet(value.encode()), "expected a JSON object"
        yield "coco", "c.json", value.encode(), "expected a COCO object"
        yield "categories", "i.json", value.encode(), "expected a COCO object"
        yield "msrvtt", "v.json", value.encode(), "expected an MSR-VTT object"
    for tail in (b"{}", b"x", b"]", lines(ROW)):
        yield "manifest", "m.jsonl", lines(ROW)[:-1] + tail, "line 1: not a JSON object (Extra data"
    for end in range(1, len(lines(ROW)) - 1, 9):
        yield "manifest", "m.jsonl", lines(ROW | {"id": "0"}) + lines(ROW)[:end], "line 2: not"
    for end in range(1, len(lines(COCO)) - 2, 20):
        yield "coco", "c.json", lines(COCO)[:end], "not"


def damaged_bytes() -> Iterator[Case]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("t.csv"), "image,caption\n")
    noise = random.Random(0).randbytes(5000)
    for reader, (name, content) in GOOD.items():
        text = content.decode()
        wide = "looks like UTF-16"
        yield reader, name, text.encode("utf-16"), wide
        yield reader, name, b"\xfe\xff" + text.encode("utf-16-be"), wide
        yield reader, name, text.encode("utf-16-le"), wide
        yield reader, name, text.encode("utf-16-be"), wide
        yield reader, name, gzip.compress(content, mtime=0), "looks like a gzip file"
        yield reader, name, packed.getvalue(), "looks like a zip archive"
        yield reader, name, GOOD_PARQUET, "looks like a Parquet file"
        yield reader, name, text.encode("latin-1"), "not UTF-8 text"
        yield reader, name, text.encode("cp1252"), "Latin-1?"
        yield reader, name, b"\xff" + content, "got 0xff as byte 1"
        yield reader, name, b"\x89PNG\r\n\x1a\n" + noise, "got 0x89 as byte 1"
        yield reader, name, b"\xff\xd8\xff\xe0" + noise, "got 0xff as byte 1"
        yield reader, name, b"\x80" + noise, "not UTF-8 text"
        yield reader, name, content.replace(b"\xc3", b"\xed\xa0"), "not UTF-8 text"  # a surrogate, encoded
        yield reader, name, content.replace(b"\xc3", b"\xc0\x80"), "not UTF-8 text"  # an overlong NUL
        if reader != "vocabulary":
            yield reader, name, b"\0" * 5000, "not a JSON" if ".json" in name else "NUL"
        if reader != "header":
            yield reader, name, b"\n" * 3 + content[:-1] + b"\xc3", "unexpected end of data"
    for reader in ("captions", "tags", "list"):
        name, content = GOOD[reader]
        yield reader, name, content.replace(b"b.jpg", b"b\0.jpg"), "NUL character"


def damaged_parquet() -> Iterator[Case]:
    size = len(GOOD_PARQUET)
    broken = "not a readable Parquet file"
    for reader in ("manifest", "header"):
        for end in (0, 1, 4, 8, 12, size // 4, size // 2, size - 100, size - 9, size - 8, size - 4, size - 1):
            yield reader, "m.parquet", GOOD_PARQUET[:end], broken
        for start in (1, 4, 100):
            yield reader, "m.parquet", GOOD_PARQUET[start : size - 8] + b"\xff\xff\xff\x7fPAR1", broken
        for content in (b"text\n", lines(ROW), gzip.compress(GOOD_PARQUET, mtime=0), b"PAR1" * 3, b"\0" * 500):
            yield reader, "m.parquet", content, broken
        yield reader, "m.parquet", GOOD_PARQUET[:-8] + b"\0\0\0\0PAR1", broken
        yield reader, "m.parquet", GOOD_PARQUET[:-8] + GOOD_PARQUET[-8:-4] + b"PARE", broken
        footer = size - 8 - int.from_bytes(GOOD_PARQUET[-8:-4], "little")
        for offset in range(footer, footer + 9, 3):
            yield reader, "m.parquet", GOOD_PARQUET[:offset] + b"\xff\xff" + GOOD_PARQUET[offset + 2 :], broken
    damaged = bytearray(GOOD_PARQUET)
    damaged[4:40] = b"\xff" * 36
    yield "manifest", "m.parquet", bytes(damaged), broken
    yield "manifest", "m.parquet", GOOD_PARQUET.replace("läuft".encode(), b"l\xff\xffuft"), broken
    yield "header", "m.parquet", parquet(b"\xff"), broken
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["1"])] * 3, ["id", "image", "image"]), file)
    yield "manifest", "m.parquet", file.getvalue(), "expected column 'image' once, got it 2 times"


def csv_tables() -> Iterator[Case]:
    """Tables that are in doubt as a whole, and records that are."""
    for reader, columns, row in (
        ("captions", ["image", "caption"], "a.jpg,A dog"),
        ("tags", ["image", "tags"], "a,dog"),
    ):
        name = GOOD[reader][0]

        def table(header: str, *rows: str, end: str = "\n") -> bytes:
            return end.join([header, *rows, ""]).encode()

        good = ",".join(columns)
        no_image, no_values = "expected one column with the names of photos", f"expected a column of {reader}"
        for header, expected in (
            ("", no_image),
            (columns[0], no_values),
            (columns[1], no_image),
            (good.replace(",", " "), no_image),
            (f"{good},{columns[0]}", "expected columns with distinct names, got 'image' several times"),
            (f"{good},{columns[1]}", "expected columns with distinct names, got"),
            (f"{good},x,x", "expected columns with distinct names, got 'x' several times"),
            ("a.jpg,A dog", "add --no-header"),
            (f'"{good}"', no_image),
            ("x," * 30_000, "expected columns with distinct names, got 'x' several times"),
            ("x" * 1_000_000, no_image),
            (f"\x1b[31m,{columns[1]}", no_image if reader == "tags" else ""),
        ):
            if expected:
                yield reader, name, table(header, row) if header else b"\n\n\n", expected
        for close in ("splt", "gruop", "Splits", "group_"):
            yield reader, name, table(f"{good},{close}", f"{row},z"), f"unknown column {close!r}; did you mean"
        unclosed, unreadable = "not a readable table", "broken quotes"
        for line in (2, 5, 40):
            before = [row.replace("a", f"p{number}", 1) for number in range(line - 2)]
            for end in ("\n", "\r\n", "\r"):
                for cells in ("b.jpg", "b.jpg,x,y", ",".join("x" * 50_000)):
                    expected = f"line {line}: expected 2 cells, got {cells.count(',') + 1}"
                    yield reader, name, table(good, *before, cells, end=end), expected
                where = f"line {line}: {unclosed}"
                yield reader, name, table(good, *before, 'b.jpg,"never closed', *["x,y"] * 9, end=end), where
                yield reader, name, table(good, *before, 'b.jpg,"closed" early', "x,yak", end=end), unreadable
            yield reader, name, table(good, *before, " ,dog"), f"line {line}: no name in 'image'"
            yield reader, name, table(good, *before, '"",dog'), f"line {line}: no name in 'image'"
            yield reader, name, table(good, *before, "nan,dog"), f"line {line}: no name in 'image'"
            yield reader, name, table(good, *before, " , "), f"line {line}: a blank row"
        tabs = good.replace(",", "\t")
        yield reader, name, table(tabs, 'a\t"x"y'), "line 2: broken quotes"
        yield reader, name, table(tabs, "a\tb\tc"), "line 2: expected 2 cells"
        yield reader, name, table(good.replace(",", "|"), "a|b|c"), "line 2: expected 2 cells"
        yield reader, name, table(good, 'a,"' + "x" * 20_000_001), "line 2: not a readable table (field larger than"
    for key, given in (("split", "train"), ("group", "g\x1b"), ("split", "x" * 100_000)):
        content = f"image,caption,{key}\na,b,{given}\na,c,other\n".encode()
        yield "captions", "c.csv", content, f"line 3: {key} of 'a' is 'other', on line 2 '"
    yield "tags", "t.csv", b"id,image,tags\n7,a,x\n7,b,y\n", "line 3: image of '7' is 'b', on line 2 'a'"
    yield "tags", "t.csv", b"image,tags\na,x;y\nb,y z,1\n", "line 3: expected 2 cells, got 3 (cells that hold commas"
    yield "tags", "t.csv", b"image,label\na,1\nb,0\n", "expected tags in 'label', got only values such as 1 and 0"
    yield "tags", "t.csv", b"image,cat,dog\na,1,0\nb,-1,1\n", "absent: expected 0 or -1, got neither"


def coco_files() -> Iterator[Case]:
    kinds = (
        ("coco", COCO, "images", {"id": int, "file_name": str}),
        ("coco", COCO, "annotations", {"id": int, "image_id": int, "caption": str}),
        ("categories", INSTANCES, "categories", {"id": int, "name": str}),
        ("categories", INSTANCES, "annotations", {"image_id": int, "category_id": int}),
        ("msrvtt", MSRVTT, "videos", {"video_id": str}),
        ("msrvtt", MSRVTT, "sentences", {"video_id": str, "caption": str}),
    )
    for reader, good, key, fields in kinds:
        name = GOOD[reader][0]
        for value in (None, 1, "x", True, {}, {"0": {}}):
            yield reader, name, lines(good | {key: value}), f"expected a list under {key!r}, got "
        yield reader, name, lines(without(good, key)), f"expected a list under {key!r}, got the keys "
        for record in (None, 1, "x", [], True, [1, 2]):
            yield reader, name, lines(good | {key: [*good[key], record]}), f"{key}[2]: expected "
        for field, kind in fields.items():
            expected = f"{key}[2]: expected {field!r} ({kind.__name__}), got "
            for value in (None, True, False, 1.5, [], {}, "7" if kind is int else 7, [[["a"]]], {"a" * 999: 1}):
                yield reader, name, lines(good | {key: [*good[key], good[key][0] | {field: value}]}), expected
            yield reader, name, lines(good | {key: [*good[key], without(good[key][0], field)]}), expected + "None"
    for value in (0, 1, 1.5, True, [], {"a": 1}):
        videos = [*MSRVTT["videos"], {"video_id": "video2", "split": value}]
        yield "msrvtt", "v.json", lines(MSRVTT | {"videos": videos}), "videos[2]: expected 'split' (str), got "
    yield "coco", "c.json", lines(COCO | {"images": [COCO["images"][0]] * 2}), "image id 7 is listed twice"
    yield "msrvtt", "v.json", lines(MSRVTT | {"videos": [MSRVTT["videos"][0]] * 2}), "'vidéo0' is listed twice"
    yield "msrvtt", "v.json", lines(MSRVTT | {"videos": [{"video_id": "", "split": "x"}]}), "videos[0]: the video_id is"
    big = [{"id": 10**4000, "file_name": "x"}] * 2
    yield "coco", "c.json", lines(COCO | {"images": big}), "is listed twice"
    yield "coco", "c.json", lines({"x" * 100_000: 1, "\x1b": 2}), "expected a list under 'images'"
    stray = [{"image_id": 7, "category_id": 10**4000}]
    yield "categories", "i.json", lines(INSTANCES | {"annotations": stray}), "not one of 'categories'"
    two = [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat\n"}]
    yield "categories", "i.json", lines(INSTANCES | {"categories": two}), "category id 1 has the names 'dog' and 'cat"


def vocabularies() -> Iterator[Case]:
    shape = "expected word, part of speech and count"
    for line, expected in (
        ("cat\tNN\tmany", shape),
        ("cat\tNN\t-1", shape),
        ("cat\tNN\t1.5", shape),
        ("cat\tNN\t1e3", shape),
        ("cat\tNN\t", shape),
        ("cat\tNN\tNaN", shape),
        ("cat\tNN\t0x10", shape),
        ("cat\tNN\t²", shape),
        ("cat\tNN\t1,000", shape),
        ("cat\tNN\t" + "9" * 19, shape),
        ("cat\tNN\t" + "9" * 5000, shape),
        ("cat\tNN\t" + "9" * 500_000, shape),
        ("cat\tNN", shape),
        ("cat", shape),
        ("cat,NN,2", shape),
        ("cat\x1b[31m", shape),
        ("x" * 1_000_000, shape),
        ("\tNN\t2", "the word is empty"),
        ("  \tNN\t2", "the word is empty"),
        ("\u2028\tNN\t2", "the word is empty"),
        ("cat\tNOUN\t2", "part of speech 'NOUN'; expected one of VB, NN"),
        ("cat\tnn\t2", "part of speech 'nn'"),
        ("cat\t\t2", "part of speech ''"),
        ("cat\t\x1b\t2", r"part of speech '\x1b'"),
        ("cat\t" + "N" * 100_000 + "\t2", "part of speech 'NNN"),
        ("cat\t2\tNN", shape),
        ("Dog\tNN\t2", "'dog' is already in the list"),
        ("  DOG \tVB\t2", "'dog' is already in the list"),
        ('{"id": "1"}', shape),
    ):
        for end in ("\n", "\r\n"):
            content = end.join(["dog\tNN\t3", "", line, "zoo\tNN\t1"]).encode()
            yield "vocabulary", "v.tsv", content, f"line 3: {expected}"
        if "\t" in line and "," not in line:
            content = line.replace("\t", ", ").encode()
            yield "vocabulary", "v.txt", b"dog, NN, 3\n" + content + b"\n", f"line 2: {expected}"
    for first in ("a,b", "a\tb", "word,count", '{"id": "1", "image": "a.jpg"}', "a,b,c,d", ",,,"):
        yield "vocabulary", "v.txt", f"{first}\nx\n".encode(), "line 1"
    for content in (b"", b"\n", b" \n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\r\n"):
        yield "vocabulary", "v.tsv", content, "holds no words"
        yield "list", "test.txt", content, "names no row"
    yield "vocabulary", "v.txt", b"x" * 100_000 + b"\n" + b"x" * 100_000, "line 2: 'xxx"


def configs() -> Iterator[Case]:
    for field in dataclasses.fields(TrainConfig):
        options = get_args(field.type)
        wrong: list[Any] = [[], {}, [1], {"a": 1}] + ([] if type(None) in options else [None])
        kinds = [option for option in options if option in (bool, float)]
        kind = kinds[0] if kinds else str if options else field.type
        wrong += [5, True] if kind is str else ["abc", ""]
        wrong += [True, 1e400, 10**400] if kind in (int, float) else []
        wrong += [1.5, 1.0] if kind is int else []
        wrong += [1, 0] if kind is bool else []
        for value in wrong:
            if value != float("inf"):
                yield "config", "config.json", lines({field.name: value}), f"{field.name}: expected "
            else:
                yield "config", "config.json", f'{{"{field.name}": 1e400}}'.encode(), f"{field.name}: expected "
    for name in ("droput", "x" * 100_000, "\x1b", ""):
        yield "config", "config.json", lines({name: 1}), "is not a setting"


def broken_runs() -> Iterator[tuple[str, bytes, str]]:
    """A file of a run folder, what stands in it instead, and what the message must say."""
    config = {"backbone": "test_resnet", "resolution": 32, "pooling": "mean"}
    photo = {"resolution": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    packed = gzip.compress(b"{}", mtime=0)
    for name, good in (("config.json", config), ("preprocessing.json", photo)):
        for content in (
            b"",
            b"{",
            b"{'a': 1}",
            b"NaN",
            b'{"a": NaN}',
            b"[" * 100_000,
            b"\xff\xfe{",
            packed,
            b"\0" * 50,
        ):
            yield name, content, "not "
        for content in (b"null", b"[]", b"5", b'"text"', b"[[1]]"):
            yield name, content, "expected a JSON object, got "
        for key in good:
            yield name, lines(without(good, key)), f"expected {', '.join(good)}" if name[0] == "p" else key
            wrong = [None, {}, [], [[]], 1.5, True, -1, 0, 10**400] + (["text"] if key != "backbone" else [])
            for value in wrong:
                yield name, lines(good | {key: value}), f"{key}: expected "
        yield name, lines(good | {"x\x1b": 1}), r"x\x1b"
    for key in ("mean", "std"):
        for value in ([0.5] * 2, [0.5] * 4, ["a"] * 3, [None] * 3, [True] * 3, 0.5):
            yield "preprocessing.json", lines(photo | {key: value}), f"{key}: expected three numbers"
        yield "preprocessing.json", lines(photo | {key: [1e400] * 3}).replace(b"Infinity", b"1e400"), f"{key}: expected"
    yield "preprocessing.json", lines(photo | {"std": [0.5, 0.0, 0.5]}), "std: expected three numbers above 0"
    for content, expected in (
        (b"", "holds no words"),
        (b"dog\tNN\n", "line 1"),
        (b"dog\ndog\n", "already in the list"),
    ):
        yield "vocabulary.tsv", content, expected
    for content in (b"", b"{}", b"\x02\0\0\0\0\0\0\0{}"[:6], b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", packed):
        yield "classifier.safetensors", content, "not a readable safetensors file"
    for content in (
        b'{"epoch": 1}\n{"epo',
        b"[]\n",
        b"\xff\n",
        b'{"epoch": 1}\nnull\n',
        b"[" * 100_000,
        packed,
        b"\0" * 9,
    ):
        yield "history.jsonl", content, ""


def malformed_tables() -> list[Case]:
    """All of them, always in this order."""
    return [
        *wrong_types(),
        *rules_of_rows(),
        *broken_json(),
        *damaged_bytes(),
        *damaged_parquet(),
        *csv_tables(),
        *coco_files(),
        *vocabularies(),
        *configs(),
    ]
