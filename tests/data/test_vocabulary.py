import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetag.data.labels import label_matrix
from truetag.data.manifest import Row, read_manifest, write_manifest
from truetag.data.vocabulary import (
    CONTEXTS_PER_WORD,
    PARTS_OF_SPEECH,
    SPACY_MODEL,
    Vocabulary,
    build_vocabulary,
    closed_class,
    function_words,
    make_vocabulary,
    read_vocabulary,
    tag_with_spacy,
    write_vocabulary,
)
from truetag.data.words import normalise, tokenise
from truetag.errors import InputError

PAPER_WORDS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "visual_concepts" / "vocab_words.txt"
ROWS: list[Row] = [
    {"id": "1", "image": "1", "split": "train", "captions": ["A dog and a cat.", "The Dog runs"]},
    {"id": "2", "image": "2", "split": "train", "captions": ["a cat"], "tags": ["golden retriever"]},
    {"id": "3", "image": "3", "split": "train", "tags": [" Teddy  BEAR", "dog", ""]},
    {"id": "4", "image": "4", "split": "test", "captions": ["zebra zebra zebra zebra"]},
]
words = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=12).map(normalise).filter(bool)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "m.jsonl", ROWS)
    return tmp_path / "m.jsonl"


def test_counts_are_summed_and_ties_are_alphabetical() -> None:
    vocabulary = build_vocabulary(ROWS[:3], 5)
    assert vocabulary.words == ("a", "dog", "cat", "and", "golden retriever")
    assert vocabulary.counts == (3, 3, 2, 1, 1)
    assert vocabulary.parts_of_speech == ("DT", "-", "-", "Others", "-")
    assert build_vocabulary(ROWS[:3], 99).words[-2:] == ("teddy bear", "the")
    assert build_vocabulary([], 5) == Vocabulary((), (), ())
    with pytest.raises(InputError, match="size: expected at least 1 word, got 0"):
        build_vocabulary(ROWS, 0)


def test_the_tagger_sees_few_captions_one_per_row() -> None:
    seen: dict[str, Sequence[str]] = {}

    def tag_words(contexts: Mapping[str, Sequence[str]]) -> dict[str, str]:
        seen.update(contexts)
        return {"dog": "NN"}

    rows: list[Row] = [{"captions": [f"a dog {i}", f"the dog {i}"]} for i in range(20)]
    vocabulary = build_vocabulary([*rows, {"tags": ["fire"] * 30}], 4, tag_words)
    assert seen["fire"] == ["a photo of fire"]
    assert vocabulary.parts_of_speech[vocabulary.index["dog"]] == "NN"
    assert seen["dog"] == [f"the dog {i}" for i in range(CONTEXTS_PER_WORD)]


@pytest.mark.parametrize(
    ("word", "part"), [("a", "DT"), ("near", "IN"), ("her", "PRP"), ("12", "Others"), ("dog", None)]
)
def test_closed_classes(word: str, part: str | None) -> None:
    assert closed_class(word) == part


@pytest.mark.skipif(not PAPER_WORDS.is_file(), reason="the paper's vocabulary is not here")
def test_closed_classes_agree_with_the_vocabulary_of_the_paper() -> None:
    paper = read_vocabulary(PAPER_WORDS)
    assert len(paper) == 1000
    counts = {part: paper.parts_of_speech.count(part) for part in PARTS_OF_SPEECH}
    assert counts == {"NN": 616, "VB": 176, "JJ": 119, "IN": 38, "Others": 30, "PRP": 11, "DT": 10}
    for word, part in zip(paper.words, paper.parts_of_speech, strict=True):
        assert closed_class(word) in (part, None), word
        assert part in ("VB", "NN", "JJ") or closed_class(word) == part, word


def test_spacy_tags_open_words_in_context() -> None:
    pytest.importorskip("spacy")
    pytest.importorskip(SPACY_MODEL)
    captions = ["a brown dog is running on the wet beach", "two dogs are running through a field"]
    contexts = {"dog": captions[:1], "running": captions, "brown": captions[:1], "is": captions[:1]}
    parts = tag_with_spacy(contexts | {"toy train": ["a photo of toy train"], "..": ["a photo of .."]})
    assert parts == {"dog": "NN", "running": "VB", "brown": "JJ", "toy train": "NN"}


def test_without_spacy_auto_says_how_to_get_it(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SPACY_MODEL, None)
    out = manifest.parent / "v.tsv"
    with pytest.warns(UserWarning, match=r'pip install "truetag\[pos\]"'):
        vocabulary = make_vocabulary(manifest, out, 2)
    assert vocabulary.parts_of_speech == ("DT", "-")
    with pytest.raises(InputError, match=r'pip install "truetag\[pos\]"'):
        make_vocabulary(manifest, out, 2, part_of_speech="spacy", overwrite=True)


def test_make_vocabulary_takes_the_train_split_or_the_one_asked_for(manifest: Path) -> None:
    out = manifest.parent / "deep" / "v.tsv"
    assert "zebra" not in make_vocabulary(manifest, out, 100, part_of_speech="none").words
    assert read_vocabulary(out).words[:3] == ("a", "dog", "cat")
    assert make_vocabulary(manifest, out, 100, "test", "none", overwrite=True).words == ("zebra",)
    write_manifest(manifest, [row | {"split": None} for row in ROWS])
    assert make_vocabulary(manifest, out, 1, part_of_speech="none", overwrite=True).words == ("zebra",)
    with pytest.raises(InputError, match="no row has split 'dev'"):
        make_vocabulary(manifest, out, 1, "dev", "none", overwrite=True)
    write_manifest(manifest, [{"id": "1", "image": "1"}])
    with pytest.raises(InputError, match="neither captions nor tags"):
        make_vocabulary(manifest, out, 1, part_of_speech="none", overwrite=True)


def test_parts_of_speech_from_an_existing_list(manifest: Path) -> None:
    known = manifest.parent / "known.txt"
    known.write_text("dog, VB, 10\ncat, other, 3\n")
    vocabulary = make_vocabulary(manifest, manifest.parent / "v.tsv", 4, part_of_speech=known)
    assert dict(zip(vocabulary.words, vocabulary.parts_of_speech, strict=True)) == {
        "a": "DT", "dog": "VB", "cat": "Others", "and": "Others",
    }  # fmt: skip


def test_a_dataset_counts_as_the_list_of_its_rows(manifest: Path) -> None:
    assert build_vocabulary(read_manifest(manifest).rows, 9) == build_vocabulary(ROWS, 9)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_vocabulary_survives_its_file(tmp_path: Path, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(words, min_size=1, max_size=8, unique=True))
    size = len(chosen)
    parts = data.draw(st.lists(st.sampled_from((*PARTS_OF_SPEECH, "-")), min_size=size, max_size=size))
    counts = data.draw(st.lists(st.integers(0, 10**9), min_size=size, max_size=size))
    vocabulary = Vocabulary(tuple(chosen), tuple(parts), tuple(counts))
    write_vocabulary(tmp_path / "v.tsv", vocabulary)
    assert read_vocabulary(tmp_path / "v.tsv") == vocabulary
    assert [vocabulary.index[word] for word in vocabulary.words] == list(range(len(vocabulary)))
    assert [path.name for path in tmp_path.iterdir()] == ["v.tsv"]


@given(st.text(max_size=30))
def test_tokens_are_stable(text: str) -> None:
    tokens = tokenise(text)
    assert tokenise(" ".join(tokens)) == tokens
    assert normalise(normalise(text)) == normalise(text)


def test_word_lists_of_others(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"\xef\xbb\xbfa, DT, 683655\r\nand, other, 98692\r\n\r\n")
    assert read_vocabulary(path) == Vocabulary(("a", "and"), ("DT", "Others"), (683655, 98692))
    path.write_text("Dog\n\nteddy  bear\n")
    assert read_vocabulary(path) == Vocabulary(("dog", "teddy bear"), ("-", "-"), (0, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no words"),
        ("\n \n", "holds no words"),
        ("dog\ncat\nDOG\n", "line 3: 'dog' is already in the list"),
        ("dog\tNN\t3\n\ncat\tNN\n", "line 3: expected word"),
        ("dog\tNN\tmany\n", "line 1: expected word"),
        ("dog\tNN\t-1\n", "line 1: expected word"),
        ("dog\tNOUN\t3\n", "part of speech 'NOUN'; expected one of VB"),
        ("\tNN\t3\n", "line 1: the word is empty"),
        ("dog\ncat, NN, 3\n", "line 2: expected word"),
    ],
)
def test_a_malformed_vocabulary_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_vocabulary(tmp_path / "v.tsv")


def test_vocabulary_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such vocabulary file"):
        read_vocabulary(tmp_path / "v.tsv")
    (tmp_path / "v.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_vocabulary(tmp_path / "v.tsv")
    with pytest.raises(InputError, match="as many distinct words"):
        Vocabulary(("dog", "dog"), ("NN", "NN"), (1, 1))


def test_an_alias_survives_the_file(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("dog", "hot rod"), ("NN", "-"), (3, 0), (("puppy", "little dog"), ()))
    write_vocabulary(tmp_path / "v.tsv", vocabulary)
    assert (tmp_path / "v.tsv").read_text() == "dog\tNN\t3\tpuppy\tlittle dog\nhot rod\t-\t0\n"
    assert read_vocabulary(tmp_path / "v.tsv") == vocabulary
    with pytest.raises(InputError, match="expected aliases for 1 words, got 2"):
        Vocabulary(("dog",), ("NN",), (1,), ((), ()))


def made(folder: Path, rows: list[Row], **options: Any) -> Vocabulary:
    write_manifest(folder / "m.jsonl", [{"id": str(i), "image": f"{i}.jpg"} | row for i, row in enumerate(rows)])
    return make_vocabulary(
        folder / "m.jsonl", folder / "v.tsv", **{"part_of_speech": "none", "overwrite": True} | options
    )


def test_what_stands_for_nothing_is_no_word(tmp_path: Path) -> None:
    rows: list[Row] = [{"tags": ["nan", "None", " NULL ", "n/a", "dog"]}, {"captions": ["nan", "nan bread", "N/A"]}]
    assert made(tmp_path, rows).words == ("bread", "dog", "nan")


def test_tags_of_rows_with_captions_count(tmp_path: Path) -> None:
    rows: list[Row] = [{"captions": ["a dog runs"], "tags": ["golden retriever"]}] * 2
    vocabulary = made(tmp_path, rows)
    assert vocabulary.counts[vocabulary.index["golden retriever"]] == 2


def test_captions_without_blanks_need_a_list_of_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = [{"captions": ["一只狗在水里"]}, {"captions": ["สุนัขในน้ำ", "热狗"]}]
    message = "got Chinese or Japanese and Thai captions without blanks .* add --words FILE"
    with pytest.raises(InputError, match=message):
        made(tmp_path, [{"captions": ["一只狗在水里"]}, {"captions": ["สุนัขในน้ำ"]}])
    english: list[Row] = [{"captions": ["a dog runs on the wet grass of a park"]}]
    assert "dog" in made(tmp_path, [{"captions": ["一只狗在水里"]}, *english]).words
    assert "warning" in capsys.readouterr().err
    made(tmp_path, [{"captions": ["一 只 狗 在 水 里"]}])
    assert capsys.readouterr().err == ""
    (tmp_path / "words.txt").write_text("狗\n热狗\nน้ำ\nzebra\nwet grass\n", encoding="utf-8")
    vocabulary = made(tmp_path, [*rows, *english], words=tmp_path / "words.txt")
    assert dict(zip(vocabulary.words, vocabulary.counts, strict=True)) == {"wet grass": 1, "น้ำ": 1, "热狗": 1, "狗": 1}


def test_some_parts_of_speech_stop_words_and_a_lowest_count(tmp_path: Path) -> None:
    rows: list[Row] = [{"captions": ["the dog and the red cat run", "a dog and a cat", "zebra"]}]
    known = tmp_path / "known.txt"
    known.write_text("dog, NN, 1\ncat, NN, 1\nzebra, NN, 1\nred, JJ, 1\nrun, VB, 1\n")
    assert made(tmp_path, rows, keep="NN", part_of_speech=known, size=2).words == ("cat", "dog")
    assert made(tmp_path, rows, keep="nn, JJ", part_of_speech=known).words == ("cat", "dog", "red", "zebra")
    assert made(tmp_path, rows, stop_words="english").words == ("cat", "dog", "red", "run", "zebra")
    assert made(tmp_path, rows, min_count=2).words == ("a", "and", "cat", "dog", "the")
    (tmp_path / "stop.txt").write_text("The\nand\n")
    assert made(tmp_path, rows, stop_words=tmp_path / "stop.txt", min_count=2).words == ("a", "cat", "dog")
    for options, text in (
        ({"keep": "NN"}, "keep: expected words with parts of speech"),
        ({"keep": "NN,XX"}, "keep: expected some of VB,NN,.*, got 'XX'"),
        ({"min_count": 0}, "min_count: expected at least 1, got 0"),
        ({"min_count": 99}, "the options leave out every word"),
    ):
        with pytest.raises(InputError, match=text):
            made(tmp_path, rows, **options)


def test_changes_merge_rename_imply_add_and_drop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = [{"captions": ["two dogs", "a dog", "a puppy", "puppies", "doggo", "teddy bear"]}]
    table = tmp_path / "changes.csv"
    table.write_text(
        "word,action,to\ndogs,merge,dog\npuppies,merge,puppy\npuppy,imply,dog\ndoggo,rename,good dog\n"
        "teddy bear,add,\na,drop\n"
    )
    options = {"changes": table, "stop_words": "english"}
    assert made(tmp_path, rows, dry_run=True, **options).words == made(tmp_path, rows, **options).words
    vocabulary = read_vocabulary(tmp_path / "v.tsv")
    assert dict(zip(vocabulary.words, zip(vocabulary.counts, vocabulary.aliases, strict=True), strict=True)) == {
        "dog": (4, ("dogs", "puppies", "puppy")),
        "puppy": (2, ("puppies",)),
        "bear": (1, ()),
        "good dog": (1, ("doggo",)),
        "teddy": (1, ()),
        "teddy bear": (1, ()),
    }
    err = capsys.readouterr().err
    assert "dog: 1 -> 4 (with dogs, puppies, puppy)" in err
    assert "dogs: 1 -> left out" in err
    assert "teddy bear: not in it -> 1" in err
    assert made(tmp_path, rows, size=1, changes=table).words == ("teddy bear",)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    made(tmp_path, [{"tags": ["dog"]}], dry_run=True, overwrite=False)
    assert not (tmp_path / "v.tsv").exists()
    made(tmp_path, [{"tags": ["dog"]}])
    with pytest.raises(InputError, match="exists; add --overwrite"):
        made(tmp_path, [{"tags": ["cat"]}], overwrite=False)
    assert read_vocabulary(tmp_path / "v.tsv").words == ("dog",)


def test_function_words_go_by_the_part_of_speech_and_by_closed_classes_without_one():
    def of(*entries):
        words, parts = zip(*entries, strict=True)
        return function_words(Vocabulary(words, parts, (1,) * len(words)))

    assert of(
        ("the", "DT"),
        ("dog", "NN"),
        ("in", "-"),
        ("is", "VB"),
        ("runs", "VB"),
        ("has", "-"),
        ("nike", "Others"),
        ("t", "NN"),
    ) == [*("the", "in", "is", "has", "t")]
    assert of(("like", "VB"), ("on sale", "IN"), ("cat", "-")) == []  # said to be a verb; a tag of two words
    assert of(("on", "-"), ("off", "-")) == []  # a vocabulary of nothing else


def test_a_letter_with_a_hyphen_is_one_word_and_numbers_are_none(tmp_path: Path) -> None:
    captions = ["A T-shirt of 3", "the T-shirts, a t-shirt and a shirt", "a man's shirt with a V-neck"]
    rows: list[Row] = [{"captions": [text]} for text in captions]
    words = made(tmp_path, rows, stop_words="english")
    assert words.words == ("shirt", "t-shirt", "man", "t-shirts", "v-neck")
    assert words.counts == (2, 2, 1, 1, 1)
    assert {"t", "s", "3"} < set(made(tmp_path, rows).words)  # without the option the paper's words
    labels = label_matrix(read_manifest(tmp_path / "m.jsonl").rows, words, "captions")
    assert labels[:, :2].tolist() == [[0, 1], [1, 1], [1, 0]]
