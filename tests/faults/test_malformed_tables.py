"""Every malformed table is one clear message, and what is only odd is read rightly."""

import errno
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from malformed_tables import GOOD, READERS, ROW, Case, assert_clear, broken_runs, lines, malformed_tables, parquet

from truetag.data.imports import import_captions, import_coco, import_tags
from truetag.data.manifest import iterate_rows, read_header, read_manifest, write_manifest
from truetag.data.splits import read_list, split
from truetag.data.table_rows import read_captions, read_tags
from truetag.data.vocabulary import read_vocabulary
from truetag.errors import InputError
from truetag.io import text as text_module
from truetag.models.backbones import load_backbone
from truetag.runs.folder import open_run

CASES = malformed_tables()
ODD_CAPTIONS = [
    "two\nlines",
    "with \r\n both",
    'she said "hi", twice',
    "a\u2028line\u2029separator",
    "next\x85line",
    "form\x0cfeed and \x1c\x1d\x1e",
    "tab\tand \\ backslash",
    "\U0001f415 läuft",
    "\ufeffmark",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t")


def refusal(read, *arguments: object, names: str = "") -> str:
    """The message with which a reader refuses its input, held to be clear."""
    with pytest.raises(InputError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert type(caught.value) is InputError
    assert_clear(message, names)
    return message


def named(case: Case) -> str:
    reader, name, content, expected = case
    return f"{reader}-{Path(name).suffix[1:]}-{len(content)}-{expected[:40]}".encode("ascii", "replace").decode()


def test_there_are_many_and_always_the_same() -> None:
    assert len(CASES) > 300
    assert malformed_tables() == CASES
    assert {reader for reader, *_ in CASES} == set(READERS)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_malformed_table_is_one_clear_message(folder: Path, case: Case) -> None:
    reader, name, content, expected = case
    (folder / name).write_bytes(content)
    message = refusal(READERS[reader], folder / name, names="" if reader == "config" else name)
    assert expected in message, message


@pytest.mark.parametrize("reader", GOOD)
def test_the_undamaged_tables_are_read(folder: Path, reader: str) -> None:
    name, content = GOOD[reader]
    for prefix in (b"", b"\xef\xbb\xbf"):
        for end in (b"\n", b"\r\n"):
            (folder / name).write_bytes(prefix + content.replace(b"\n", end))
            READERS[reader](folder / name)


@pytest.mark.parametrize("reader", GOOD)
def test_what_is_no_file_is_named(tmp_path: Path, reader: str) -> None:
    for name in dict.fromkeys([GOOD[reader][0], "m.parquet"] if reader in ("manifest", "header") else ["t"]):
        assert "no such" in refusal(READERS[reader], tmp_path / name, names=name)
        (tmp_path / name).mkdir()
        assert "is a folder, expected a" in refusal(READERS[reader], tmp_path / name, names=name)
    os.mkfifo(tmp_path / "pipe")
    refusal(READERS[reader], tmp_path / "pipe", names="pipe")


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "manifest"][::23], ids=named)
def test_read_manifest_says_the_same(tmp_path: Path, case: Case) -> None:
    _, name, content, expected = case
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(read_manifest, tmp_path / name, names=name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.jsonl", b""),
        ("m.jsonl", b"\xef\xbb\xbf"),
        ("m.jsonl", b"\n\r\n \n"),
        ("m.jsonl", b'{"media_root": "x"}\n\n'),
        ("m.parquet", parquet(id=pa.array([], pa.string()), image=pa.array([], pa.string()))),
        ("m.parquet", parquet(id=pa.nulls(0), image=pa.nulls(0))),
    ],
)
def test_a_manifest_without_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "holds no rows" in refusal(read_manifest, tmp_path / name, names=name)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "denied")])
def test_a_full_disk_under_the_cache_is_no_malformed_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    (tmp_path / "m.jsonl").write_bytes(lines(ROW | {"id": str(error)}))
    monkeypatch.setattr("datasets.builder.ArrowWriter.write", fail)
    with pytest.raises(type(error), match=error.strerror):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("content", [b"image,caption\n", b"image,caption\r\n\r\n", b"image|caption"])
def test_tables_with_a_header_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert "no photo" in refusal(import_captions, tmp_path / "t.csv", tmp_path, tmp_path / "m.jsonl", names="t.csv")
    (tmp_path / "t.csv").write_bytes(content.replace(b"caption", b"tags"))
    assert "no photo" in refusal(import_tags, tmp_path / "t.csv", tmp_path, tmp_path / "m.jsonl", names="t.csv")
    (tmp_path / "c.json").write_bytes(lines({"images": [], "annotations": []}))
    assert "no photo" in refusal(import_coco, tmp_path / "c.json", tmp_path, tmp_path / "m.jsonl", names="c.json")


@pytest.mark.parametrize("names", [["nobody"], ["x" * 100_000], ["\x1b[31m", "a\u2028b", "c", "d", "e"]])
def test_lists_of_unknown_names(tmp_path: Path, names: list[str]) -> None:
    write_manifest(tmp_path / "m.jsonl", [ROW])
    (tmp_path / "l.txt").write_text("\n".join(names), encoding="utf-8")

    def run() -> None:
        split(tmp_path / "m.jsonl", tmp_path / "out.jsonl", lists={"test": tmp_path / "l.txt"})

    expected = f"list of split 'test': no row has the id or file name of {len(names)} entries"
    assert expected in refusal(run, names="m.jsonl")


@pytest.mark.parametrize("reader", ["manifest", "header", "captions", "tags", "vocabulary", "list"])
def test_an_endless_line_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    assert text_module.LINE_LIMIT == 100_000_000
    monkeypatch.setattr(text_module, "LINE_LIMIT", 10_000_000)
    path = tmp_path / GOOD[reader][0]
    with path.open("wb") as file:
        file.write(b"x" * 64)
        file.truncate(2**36)  # 64 GiB of nothing
    assert "line 1: expected at most 10000000 bytes a line, got more" in refusal(READERS[reader], path, names=path.name)


# a valid manifest of one row with odd texts, in each encoding of a line's end
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_odd_captions_in_a_manifest(tmp_path: Path, end: str, mark: str, is_ascii: bool) -> None:
    row = ROW | {"captions": ODD_CAPTIONS, "id": "a\u2028\x85"}
    header = {"media_root": "ü"}
    texts = [json.dumps(value, ensure_ascii=is_ascii) for value in (header, row, ROW)]
    (tmp_path / "m.jsonl").write_bytes((mark + f"{end}{end} {end}".join(texts) + end * 3).encode())
    first, second = iterate_rows(tmp_path / "m.jsonl")
    assert (first["captions"], first["id"], second["id"]) == (ODD_CAPTIONS, "a\u2028\x85", "1")
    assert read_header(tmp_path / "m.jsonl") == header


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", "|", "\t"])
def test_odd_captions_in_a_table(tmp_path: Path, end: str, mark: str, delimiter: str) -> None:
    quoted = ['"' + caption.replace('"', '""') + '"' for caption in ODD_CAPTIONS]
    texts = [f"a.jpg{delimiter}{caption}" for caption in quoted]
    content = mark + end.join(["", "", f'Image{delimiter}"caption"', "", *texts, "", f"b.jpg{delimiter}x"])
    (tmp_path / "t.csv").write_bytes(content.encode())
    first, second = read_captions(tmp_path / "t.csv").rows
    assert first["captions"] == [caption.strip() for caption in ODD_CAPTIONS]
    assert second == {"id": "b.jpg", "image": "b.jpg", "captions": ["x"]}


def test_ten_megabytes_in_a_line(tmp_path: Path) -> None:
    caption = "dög " * 2_500_000 + "!"
    (tmp_path / "m.jsonl").write_bytes(lines(ROW | {"captions": [caption]}, ROW | {"id": "2"}))
    assert [row["captions"] for row in iterate_rows(tmp_path / "m.jsonl")] == [[caption], ROW["captions"]]
    assert read_manifest(tmp_path / "m.jsonl").rows[0]["captions"] == [caption]
    (tmp_path / "t.csv").write_text(f'image,caption\na,"{caption}"\nb,x\n', encoding="utf-8")
    assert [row["captions"] for row in read_captions(tmp_path / "t.csv").rows] == [[caption], ["x"]]
    (tmp_path / "t.csv").write_text(f"image,tags\na,{caption};x\nb,x\n", encoding="utf-8")
    assert [row["tags"] for row in read_tags(tmp_path / "t.csv").rows] == [[caption, "x"], ["x"]]
    (tmp_path / "v.txt").write_text("dog\n" + "x" * 10_000_000 + "\n")
    assert len(read_vocabulary(tmp_path / "v.txt").words[1]) == 10_000_000


def test_columns_of_text_in_any_layout(tmp_path: Path) -> None:
    content = parquet(
        id=pa.array(["1"], pa.large_string()),
        image=pa.array(["a.jpg"]).dictionary_encode(),
        captions=pa.array([["A dog."]], pa.large_list(pa.large_string())),
        tags=pa.array([["dog"]], pa.list_(pa.string(), 1)),
        split=pa.array(["train"], pa.string_view()),
        unknown_tags=pa.array([[]], pa.list_(pa.null())),
        video=pa.nulls(1),
        anything=pa.nulls(1),
    )
    (tmp_path / "m.parquet").write_bytes(content)
    (row,) = read_manifest(tmp_path / "m.parquet").rows
    assert {name: value for name, value in row.items() if value is not None} == {
        "id": "1",
        "image": "a.jpg",
        "split": "train",
        "captions": ["A dog."],
        "tags": ["dog"],
        "unknown_tags": [],
    }


def test_odd_words_and_lists(tmp_path: Path) -> None:
    (tmp_path / "v.tsv").write_bytes("\ufeff Teddy   BEAR \tNN\t3\r\n\r\nDog\tother\t٣\n".encode())
    vocabulary = read_vocabulary(tmp_path / "v.tsv")
    assert (vocabulary.words, vocabulary.counts) == (("teddy bear", "dog"), (3, 3))
    assert vocabulary.parts_of_speech == ("NN", "Others")
    (tmp_path / "l.txt").write_bytes("\ufeffa\u2028b.jpg\r\nnext\x85line\r \n\nx\ty, z\n".encode())
    assert read_list(tmp_path / "l.txt") == {"a\u2028b.jpg", "next\x85line", "x\ty, z"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b""),
        ("w.pth", b"text\n"),
        ("w.pth", b"PK\x03\x04" + b"\0" * 200),
        ("w.pth", b"\x80\x02cos\nsystem\n(S'true'\ntR."),
        ("w.pth", b"\x80\x02}q\x00."),
        ("w.safetensors", b""),
        ("w.safetensors", b"\xff" * 100),
        ("w.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        ("w.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "weights: " in refusal(load_backbone, "test_resnet", str(tmp_path / name), 64, names=name)


@pytest.fixture(scope="module")
def run_folder(folder: Path) -> Path:
    """The small files of a run, which `broken_runs` replaces one by one."""
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_bytes(
        lines({"backbone": "test_resnet", "resolution": 32, "pooling": "mean"})
    )
    photo = {"resolution": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (folder / "run" / "preprocessing.json").write_bytes(lines(photo))
    (folder / "run" / "vocabulary.tsv").write_bytes(b"dog\tNN\t3\n")
    open_run(folder / "run")
    return folder / "run"


@pytest.mark.parametrize(("name", "content", "expected"), list(broken_runs()))
def test_a_broken_run_is_one_clear_message(
    tmp_path: Path, run_folder: Path, name: str, content: bytes, expected: str
) -> None:
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / name).write_bytes(content)

    def read() -> None:
        run = open_run(tmp_path / "r")
        if name == "classifier.safetensors":
            run.load_state("classifier")
        if name == "history.jsonl":
            run.history()

    message = refusal(read, names=name)
    assert expected in message, message


@pytest.mark.parametrize("name", ["config.json", "preprocessing.json", "vocabulary.tsv"])
def test_a_run_without_a_file(tmp_path: Path, run_folder: Path, name: str) -> None:
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / name).unlink()
    refusal(open_run, tmp_path / "r", names=name)
    (tmp_path / "r" / name).mkdir()
    refusal(open_run, tmp_path / "r", names=name)
