"""The scores that papers report for captions: BLEU, METEOR, ROUGE-L and CIDEr, from sentences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from truetag.captioning.java import INSTALL, is_installed, meteor, tokenise_by_java
from truetag.errors import InputError
from truetag.evaluation.caption_tokens import fold_space, tokenise_caption
from truetag.evaluation.captions import bleu, cider, rouge_l


@dataclass(frozen=True)
class CaptionScores:
    """Scores of all captions together, and of each."""

    bleu: tuple[float, float, float, float]
    """BLEU-1 to BLEU-4, in 0..1."""
    rouge_l: float
    """In 0..1."""
    cider: float
    """CIDEr-D, in 0..10."""
    meteor: float | None
    """In 0..1; None without Java: nothing stands in for it."""
    per_clip: dict[str, dict[str, float]]
    """By the id of a clip: "bleu_1" to "bleu_4", "rouge_l", "cider", and "meteor" where there is one."""
    tokenizer: Literal["PTB", "truetag"]
    """Whose tokens are scored: the official ones, or ours, which hardly ever differ."""
    missing: str | None
    """How to get what is missing."""


def score_captions(
    references: Mapping[str, Sequence[str]],
    candidates: Mapping[str, str],
    *,
    official: bool | Literal["auto"] = "auto",
) -> CaptionScores:
    """Score sentences against those of people.

    Args:
        references: the captions of people, at least one of each clip.
        candidates: the caption to score, of each clip.
        official: with the official tokenizer and METEOR, which need Java; auto: if they are installed.

    Raises:
        InputError: the clips differ, a clip has no reference, or Java is asked for and not installed, or fails.
    """
    with_java = is_installed() if official == "auto" else official
    if with_java and not is_installed():
        raise InputError(f"official: expected METEOR and the PTB tokenizer, got no Java; {INSTALL}")
    tokenise = tokenise_by_java if with_java else _tokenise_here
    names = list(candidates)
    tokens = tokenise([fold_space(candidates[name]) for name in names])
    told = dict(zip(names, tokens, strict=True))
    people = _tokenise_all(references, tokenise)
    scores = {f"bleu_{n}": score for n, score in enumerate(bleu(people, told), 1)}
    scores |= {"rouge_l": rouge_l(people, told), "cider": cider(people, told)}
    per_clip = {name: {key: score.per_clip[name] for key, score in scores.items()} for name in names}
    of_meteor = None
    if with_java:
        of_meteor, each = meteor().score([people[name] for name in names], tokens)
        for name, value in zip(names, each, strict=True):
            per_clip[name]["meteor"] = value
    return CaptionScores(
        (scores["bleu_1"].score, scores["bleu_2"].score, scores["bleu_3"].score, scores["bleu_4"].score),
        scores["rouge_l"].score,
        scores["cider"].score,
        of_meteor,
        per_clip,
        "PTB" if with_java else "truetag",
        None if with_java else f"METEOR and the official tokenizer need Java: {INSTALL}",
    )


def _tokenise_all(
    references: Mapping[str, Sequence[str]], tokenise: Callable[[Sequence[str]], list[list[str]]]
) -> dict[str, list[list[str]]]:
    """The tokens of the captions of each clip, all in one go."""
    tokens = iter(tokenise([fold_space(text) for text in chain.from_iterable(references.values())]))
    return {name: [next(tokens) for _ in texts] for name, texts in references.items()}


def _tokenise_here(captions: Sequence[str]) -> list[list[str]]:
    return [tokenise_caption(text) for text in captions]
