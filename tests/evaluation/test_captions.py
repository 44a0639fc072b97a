"""Our scores against hand-computed ones and against the official toolkit's."""

import contextlib
import io
import math
import random
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from truetag.errors import InputError
from truetag.evaluation.captions import bleu, cider, rouge_l

Corpus = tuple[dict[str, list[list[str]]], dict[str, list[str]]]


def official(scorer: Any, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    references, candidates = corpus
    with contextlib.redirect_stdout(io.StringIO()):
        score, each = scorer.compute_score(
            {name: [" ".join(tokens) for tokens in of_clip] for name, of_clip in references.items()},
            {name: [" ".join(tokens)] for name, tokens in candidates.items()},
        )
    return np.array(score), np.array(each)


def random_corpus(seed: int, num_clips: int, num_words: int, shortest: int = 1) -> Corpus:
    draw = random.Random(seed)
    words = [f"w{number}" for number in range(num_words)]

    def sentence(least: int) -> list[str]:
        return [draw.choice(words) for _ in range(draw.randint(least, 12))]

    references = {str(clip): [sentence(1) for _ in range(draw.randint(1, 5))] for clip in range(num_clips)}
    return references, {name: sentence(shortest) for name in references}


@pytest.mark.parametrize("num_words", [1, 3, 30])
@pytest.mark.parametrize("num_clips", [1, 2, 40])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_the_toolkits(seed: int, num_clips: int, num_words: int) -> None:
    corpus = random_corpus(seed, num_clips, num_words, shortest=0)  # empty candidates, too
    references, candidates = corpus
    total, each = official(Bleu(4), corpus)
    ours = bleu(references, candidates)
    np.testing.assert_allclose([score.score for score in ours], total, atol=1e-9)
    np.testing.assert_allclose([list(score.per_clip.values()) for score in ours], each, atol=1e-9)
    for function, scorer in ((rouge_l, Rouge()), (cider, Cider())):
        total, each = official(scorer, corpus)
        ours = function(references, candidates)
        assert ours.score == pytest.approx(float(total), abs=1e-9)
        np.testing.assert_allclose(list(ours.per_clip.values()), each, atol=1e-9)
        assert list(ours.per_clip) == list(candidates)


def test_small_cases_by_hand() -> None:
    references = {"a": [["the", "cat", "sat"], ["a", "cat", "sat", "down", "there"]], "b": [["dog"]]}
    candidates = {"a": ["the", "cat", "sat", "down"], "b": ["dog"]}
    scores = bleu(references, candidates)
    # 5 of 5 words; the 3 pairs are there; as long as the closest references, 3 and 1, or longer
    assert scores[0].score == pytest.approx(1)
    assert scores[1].score == pytest.approx(1)
    assert scores[2].per_clip["a"] == pytest.approx(1)
    # "sat down" of the second reference, "the cat sat" of the first, no four words of either
    assert scores[3].per_clip["a"] == pytest.approx(0, abs=1e-3)
    shorter = bleu({"a": [["one", "two", "three", "four"]]}, {"a": ["one", "two"]})
    assert shorter[0].score == pytest.approx(math.exp(1 - 4 / 2))
    # common: "the cat sat" 3 of 4 and 3 of 3; "cat sat down" 3 of 4 and 3 of 5
    precision, recall = 3 / 4, 1
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(references, candidates).per_clip["a"] == pytest.approx(expected)
    assert cider({"a": [["dog"]], "b": [["cat"]]}, {"a": ["dog"], "b": ["dog"]}).per_clip == pytest.approx(
        {"a": 10 / 4, "b": 0}  # one of four orders agrees
    )
    long = ["one", "two", "three", "four", "five"]
    assert cider({"a": [long], "b": [["x"]]}, {"a": long, "b": ["y"]}).per_clip["a"] == pytest.approx(10)


def test_what_cannot_be_scored_is_refused() -> None:
    for function in (bleu, rouge_l, cider):
        for references, candidates, text in (
            ({}, {}, "candidates: expected captions to score, got none"),
            ({"a": [["x"]]}, {"b": ["x"]}, "got 2 clips with either alone, such as 'a'"),
            ({"a": []}, {"a": ["x"]}, "references: expected at least one for each clip, got none for 'a'"),
        ):
            with pytest.raises(InputError, match=text):
                function(references, candidates)
