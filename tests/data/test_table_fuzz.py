"""A thousand tables at random: read as they were meant, or refused; never a traceback, never silently one tag."""

import contextlib
import csv
import io
import json
import random
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from truetag.data.imports import ImportOptions, import_tags
from truetag.data.manifest import iterate_rows
from truetag.data.readers import read_coco, read_karpathy, read_msrvtt, read_open_images
from truetag.data.rows import ImportedRows
from truetag.data.table_rows import TagOptions, read_captions, read_tags
from truetag.errors import InputError

NUM_TABLES = 1000
WORDS = ["cat", "dog", "teddy bear", "new york", "Bär", "狗", "t-shirt", "o'clock", "snow", "tree", "red", "sky"]
Meant = dict[str, list[str]]


def draw_meaning(generator: random.Random, words: list[str]) -> Meant:
    names = [f"{generator.choice(['IMG_', 'a b ', 'ä', ''])}{number}.jpg" for number in range(generator.randint(1, 30))]
    return {name: generator.sample(words, generator.randint(0, 4)) for name in names}


def write_table(generator: random.Random, meant: Meant, path: Path) -> Path:
    """The meaning in one of many layouts; without a random header, a photo or two may be missing."""
    shape = generator.choice(["cell", "list", "lines", "flags"])
    image, tags = generator.choice(
        [("image", "tags"), ("File Name", "Keywords"), ("filename", "label"), ("img", "Tag")]
    )
    words = sorted({tag for row in meant.values() for tag in row})
    rows: list[list[object]]
    match shape:
        case "cell":
            mark = generator.choice([",", ", ", ";", "; ", "|", " | "])
            rows = [[image, tags], *([name, mark.join(row)] for name, row in meant.items())]
        case "list":
            spell = generator.choice([json.dumps, str])
            rows = [[image, tags], *([name, spell(row)] for name, row in meant.items())]
        case "lines":
            rows = [[image, tags], *([name, tag] for name, row in meant.items() for tag in row or [""])]
        case _:
            one, zero = generator.choice(
                [("1", "0"), ("True", "False"), ("1.0", "0.0"), ("yes", "no"), ("x", ""), ("1", "-1")]
            )
            rows = [
                [image, *words],
                *([name, *(one if w in row else zero for w in words)] for name, row in meant.items()),
            ]
    if generator.random() < 0.3:
        rows = [["" if number == 0 else number - 1, *row] for number, row in enumerate(rows)]
    if generator.random() < 0.3:
        rows = [[*row, ""] for row in rows]
    if generator.random() < 0.3:
        rows.insert(generator.randint(1, len(rows)), [" "] * len(rows[0]))
    if generator.random() < 0.15:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path.with_suffix(".xlsx"))
        return path.with_suffix(".xlsx")
    text = io.StringIO()
    delimiter = generator.choice(",;\t|")
    quoting = generator.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    ending = generator.choice(["\n", "\r\n"])
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=ending).writerows(rows)
    start = f"sep={delimiter}{ending}" if generator.random() < 0.1 else ""
    path.write_bytes((start + text.getvalue()).encode(generator.choice(["utf-8", "utf-8-sig"])))
    return path


@pytest.mark.parametrize("part", range(10))
def test_a_table_is_read_as_it_was_meant_or_refused(tmp_path: Path, part: int) -> None:
    num_read = 0
    for seed in range(part, NUM_TABLES, 10):
        generator = random.Random(seed)
        meant = draw_meaning(generator, WORDS)
        path = write_table(generator, meant, tmp_path / f"{seed}.csv")
        try:
            imported = read_tags(path)
        except InputError:
            continue
        num_read += 1
        wanted = {name: set(tags) for name, tags in meant.items()}
        got = {row["id"]: set(row["tags"]) for row in imported.rows}
        assert got == wanted, (seed, path.suffix != ".xlsx" and path.read_text(encoding="utf-8-sig"), imported.notes)
    assert num_read > 0.6 * NUM_TABLES / 10


READERS = [read_tags, read_captions, read_coco, read_karpathy, read_msrvtt, read_open_images]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet", ".xlsx"])
def test_a_damaged_table_ends_in_a_message(tmp_path: Path, suffix: str) -> None:
    for seed in range(NUM_TABLES // 5):
        generator = random.Random(seed)
        path = write_table(generator, draw_meaning(generator, WORDS), tmp_path / "t.csv").replace(tmp_path / "u.csv")
        content = bytearray(path.read_bytes())
        for _ in range(generator.randint(0, 4)):
            place = generator.randrange(len(content))
            length = generator.choice([0, 1, 1, 10])
            content[place : place + length] = generator.choice(
                [b'"', b"'", b",", b"\n", b"\0", b"\xff", b"[", b"\xc3", b""]
            )
        broken = tmp_path / f"t{suffix}"
        broken.write_bytes(content)
        for read in READERS:
            with contextlib.suppress(InputError):
                assert isinstance(read(broken), ImportedRows)


def exported(rows: list[dict], path: Path) -> Path:
    """The rows of a manifest as the table that its suffix names."""
    records = [{"image": row["image"], "tags": row["tags"], "split": row["split"]} for row in rows]
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
        case ".json":
            path.write_text(json.dumps(records))
        case ".jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        case _:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writerow(["image", "tags", "split"])
                writer.writerows([record["image"], json.dumps(record["tags"]), record["split"]] for record in records)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_what_is_exported_comes_in_again(tmp_path: Path, suffix: str) -> None:
    generator = random.Random(suffix)
    (tmp_path / "photos").mkdir()
    for round_ in range(10):
        meant = draw_meaning(generator, [*WORDS, 'say "cheese"', "a,b", "c|d", "[x]"])
        for name in meant:
            Image.new("RGB", (1, 1)).save(tmp_path / "photos" / name, "PNG")
        (tmp_path / "t.json").write_text(json.dumps(meant))
        options = ImportOptions("train", overwrite=True)
        import_tags(tmp_path / "t.json", tmp_path / "photos", tmp_path / "m.jsonl", options=options)
        first = list(iterate_rows(tmp_path / "m.jsonl"))
        assert {row["id"]: row["tags"] for row in first} == meant
        table = exported(first, tmp_path / f"exported-{round_}{suffix}")
        import_tags(table, tmp_path / "photos", tmp_path / "again.jsonl", options=ImportOptions(overwrite=True))
        assert list(iterate_rows(tmp_path / "again.jsonl")) == first


def test_options_that_are_given_win_over_what_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,tags,mood\na.jpg,cat|dog,calm\n")
    assert read_tags(tmp_path / "t.csv", TagOptions(tags_column=("mood",))).rows[0]["tags"] == ["calm"]
    assert read_tags(tmp_path / "t.csv", TagOptions(separator="none")).rows[0]["tags"] == ["cat|dog"]
