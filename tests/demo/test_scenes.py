import inspect
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from truetag.data.bags import read_bags
from truetag.data.manifest import read_manifest
from truetag.demo.scenes import CLOSE, WORDS, draw_scenes
from truetag.errors import InputError


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(row: dict) -> set[str]:
    return {word for caption in row["captions"] for word in caption.split() if word in WORDS}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes"), 500, 20, 30, size=16)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return rows_of(draw_scenes(tmp_path_factory.mktemp("honest"), 500, 0, 0, size=16, wrong_picture_rate=0.0))


def test_the_manifest_loads_and_its_photos_decode(drawn: Path) -> None:
    manifest = read_manifest(drawn)
    assert Counter(manifest.rows["split"]) == {"train": 500, "validation": 20, "test": 30}
    assert len(set(manifest.rows["id"])) == 550
    for row, path in zip(manifest.in_split("test"), read_bags(manifest, manifest.in_split("test")).paths, strict=True):
        with Image.open(path) as photo:
            assert np.asarray(photo).shape == (16, 16, 3)
        assert len(row["captions"]) == 5
        assert row["group"] is None


def test_the_same_seed_draws_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again = draw_scenes(tmp_path / "a", 4, 1, 1), draw_scenes(tmp_path / "b", 4, 1, 1)
    other = draw_scenes(tmp_path / "c", 4, 1, 1, seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    for photo in sorted((tmp_path / "a/photos").iterdir()):
        assert photo.read_bytes() == (tmp_path / "b/photos" / photo.name).read_bytes()
        assert photo.read_bytes() != (tmp_path / "c/photos" / photo.name).read_bytes()


def test_a_scene_does_not_depend_on_how_many_are_drawn(tmp_path: Path) -> None:
    few, many = draw_scenes(tmp_path / "few", 3, 2, 1), draw_scenes(tmp_path / "many", 6, 2, 4)
    by_id = {row["id"]: row for row in rows_of(many)}
    for row in rows_of(few):
        assert row == by_id[row["id"]]
        assert (few.parent / row["image"]).read_bytes() == (many.parent / row["image"]).read_bytes()


def test_more_captions_and_wrong_pictures_change_no_photo_and_no_truth(tmp_path: Path) -> None:
    plain = draw_scenes(tmp_path / "plain", 6, 0, 0, wrong_picture_rate=0.0)
    told = draw_scenes(tmp_path / "told", 6, 0, 0, captions_per_scene=7, wrong_picture_rate=1.0)
    assert [row["true_tags"] for row in rows_of(plain)] == [row["true_tags"] for row in rows_of(told)]
    assert [row["captions"] for row in rows_of(plain)] != [row["captions"][:5] for row in rows_of(told)]
    for row in rows_of(plain):
        assert (plain.parent / row["image"]).read_bytes() == (told.parent / row["image"]).read_bytes()


def test_an_annotator_of_the_right_picture_says_what_is_true_or_a_close_word(honest: list[dict]) -> None:
    wrong = 0
    for row in honest:
        true = set(row["true_tags"])
        untrue = said(row) - true
        assert untrue <= {CLOSE[word] for word in true if word in CLOSE}, row
        wrong += len(untrue)
    assert 0 < wrong < len(honest)


def test_a_wrong_picture_brings_words_that_are_not_true(drawn: Path, honest: list[dict]) -> None:
    def untrue(rows: list[dict]) -> float:
        return float(np.mean([len(said(row) - set(row["true_tags"])) for row in rows]))

    assert untrue(rows_of(drawn)) > 1.5 * untrue(honest)


def test_missing_rates_vary_from_word_to_word(honest: list[dict]) -> None:
    true = Counter(word for row in honest for word in row["true_tags"])
    missing = Counter(word for row in honest for word in set(row["true_tags"]) - said(row))
    rates = {word: missing[word] / count for word, count in true.items() if count >= 25}
    assert len(rates) > 40
    assert max(rates.values()) < 0.75
    assert min(rates.values()) < 0.05
    assert 0.15 < float(np.mean(list(rates.values()))) < 0.4
    # what a thing is called is said more often than what it is a kind of
    assert rates["ball"] < rates["red"] < rates["toy"]
    assert rates["big"] < rates["small"]


def test_the_frequencies_of_true_words_have_a_long_tail(honest: list[dict]) -> None:
    true = Counter(word for row in honest for word in row["true_tags"])
    frequencies = np.array([true[word] / len(honest) for word in WORDS])
    assert (frequencies > 0).all()
    assert (frequencies > 0.3).sum() >= 5
    assert (frequencies < 0.1).sum() >= 12


def test_true_tags_obey_the_hierarchy_and_the_sky(honest: list[dict]) -> None:
    for row in honest:
        true = set(row["true_tags"])
        assert true <= WORDS.keys()
        assert ("vehicle" in true) == bool(true & {"car", "boat", "plane"})
        assert ("person" in true) == bool(true & {"man", "woman"})
        assert ("room" in true) != ("sky" in true)
        assert not true >= {"sun", "night"}
        assert not true >= {"alone", "another"}
        assert ("moon" not in true) or ("night" in true)


def test_words_have_the_parts_of_speech_of_the_paper() -> None:
    assert set(WORDS.values()) == {"VB", "NN", "JJ", "DT", "PRP", "IN", "Others"}
    assert WORDS["ball"] == "NN"
    assert WORDS["flying"] == "VB"
    assert CLOSE.keys() | set(CLOSE.values()) <= WORDS.keys()
    assert all(WORDS[right] == WORDS[wrong] for right, wrong in CLOSE.items())


def test_captions_are_short_sentences_with_the_right_article(honest: list[dict]) -> None:
    for row in honest:
        for caption in row["captions"]:
            words = caption.split()
            assert " ".join(words) == caption
            assert len(words) < 60
            for article, word in pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (word[0] in "aeiou"), caption


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ((-1, 1, 1), {}, "numbers of scenes"),
        ((0, 0, 0), {}, "numbers of scenes"),
        ((1, 0, 0), {"size": 8}, "size >= 16"),
        ((1, 0, 0), {"captions_per_scene": 0}, "captions_per_scene >= 1"),
        ((1, 0, 0), {"seed": -1}, "seed >= 0"),
        ((1, 0, 0), {"wrong_picture_rate": 1.5}, "wrong_picture_rate"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, counts: tuple[int, int, int], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_scenes(tmp_path, *counts, **options)
    assert not list(tmp_path.iterdir())


def test_the_annotators_settings_are_keywords() -> None:
    keywords = {n for n, p in inspect.signature(draw_scenes).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords == {"size", "seed", "captions_per_scene", "wrong_picture_rate"}
