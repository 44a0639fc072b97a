"""Scores of captions from tokens: BLEU, ROUGE-L and CIDEr-D, as the official toolkit of COCO computes them.

They are pure functions of tokens; `captioning.scores` adds the official tokenizer and METEOR, which need Java.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import NamedTuple

from truetag.errors import InputError
from truetag.io.text import shown

MAX_ORDER = 4
"""The longest n-grams of BLEU and CIDEr."""
_SMALL, _TINY = 1e-9, 1e-15  # keep BLEU's ratios finite; the toolkit's, so that scores agree to the last digits
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0

Tokens = Sequence[str]
References = Mapping[str, Sequence[Tokens]]
"""By the id of a clip: the tokens of each of its captions, at least one."""
Candidates = Mapping[str, Tokens]
"""By the id of a clip: the tokens of the caption to score."""
_NGrams = Counter[tuple[str, ...]]


class CaptionScore(NamedTuple):
    """A score of all captions together, and of each."""

    score: float
    per_clip: dict[str, float]


def bleu(references: References, candidates: Candidates) -> tuple[CaptionScore, ...]:
    """BLEU-1 to BLEU-4 in 0..1 (Papineni et al. 2002): the closest reference length, counts added up over all clips.

    Raises:
        InputError: the clips differ, or a clip has no reference.
    """
    _check(references, candidates)
    totals = [0] * (2 * MAX_ORDER + 2)
    per_clip: list[dict[str, float]] = [{} for _ in range(MAX_ORDER)]
    for name, candidate in candidates.items():
        counts = _bleu_counts(references[name], candidate)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        for scores, value in zip(per_clip, _bleu_of(counts), strict=True):
            scores[name] = value
    return tuple(CaptionScore(*pair) for pair in zip(_bleu_of(totals), per_clip, strict=True))


def _bleu_counts(references: Sequence[Tokens], candidate: Tokens) -> list[int]:
    """For each order the matching n-grams, then all of the candidate's; then the lengths of candidate and reference."""
    most: _NGrams = Counter()
    for reference in references:
        most |= _ngrams(reference)
    matching = [0] * MAX_ORDER
    for ngram, count in _ngrams(candidate).items():
        matching[len(ngram) - 1] += min(count, most[ngram])
    length = len(candidate)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return [*matching, *(max(0, length - n) for n in range(MAX_ORDER)), length, closest]


def _bleu_of(counts: Sequence[int]) -> list[float]:
    matching, possible, (length, closest) = counts[:MAX_ORDER], counts[MAX_ORDER:-2], counts[-2:]
    ratio = (length + _TINY) / (closest + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, values = 1.0, []
    for n, (matches, total) in enumerate(zip(matching, possible, strict=True), 1):
        product *= (matches + _TINY) / (total + _SMALL)
        values.append(product ** (1 / n) * penalty)
    return values


def rouge_l(references: References, candidates: Candidates) -> CaptionScore:
    """ROUGE-L in 0..1 (Lin 2004, Eq. 2 to 4): the F score, beta 1.2, of the longest common subsequence.

    Precision and recall are each the best over the references, as in the toolkit.

    Raises:
        InputError: the clips differ, or a clip has no reference.
    """
    _check(references, candidates)
    per_clip = {}
    for name, tokens in candidates.items():
        candidate = tokens or [""]  # an empty caption has one empty token, as in the toolkit
        common = [(_common_length(reference or [""], candidate), len(reference) or 1) for reference in references[name]]
        precision = max(length for length, _ in common) / len(candidate)
        recall = max(length / total for length, total in common)
        weight = _ROUGE_BETA**2
        per_clip[name] = (1 + weight) * precision * recall / (recall + weight * precision) if precision else 0.0
    return CaptionScore(fmean(per_clip.values()), per_clip)


def _common_length(a: Tokens, b: Tokens) -> int:
    """The length of the longest common subsequence, a bit for each token of `a` (Allison & Dix 1986; Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << place
    everything = (1 << len(a)) - 1
    row = everything
    for token in b:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & everything
    return len(a) - row.bit_count()


def cider(references: References, candidates: Candidates) -> CaptionScore:
    """CIDEr-D in 0..10 (Vedantam et al. 2015, Eq. 4 and 5), which papers call CIDEr: the mean over n of tf-idf cosines.

    Counts are clipped, a Gaussian of the difference in length (sigma 6) punishes repetition, and the document
    frequencies are those of the references given, so that the score of a clip depends on the other clips.

    Raises:
        InputError: the clips differ, or a clip has no reference.
    """
    _check(references, candidates)
    counts = {name: [_ngrams(reference) for reference in of_clip] for name, of_clip in references.items()}
    frequencies = Counter(chain.from_iterable({*chain.from_iterable(of_clip)} for of_clip in counts.values()))
    log_clips = math.log(len(references))

    def weigh(ngrams: _NGrams) -> list[dict[tuple[str, ...], float]]:
        """The tf-idf vector of each order."""
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(MAX_ORDER)]
        for ngram, count in ngrams.items():
            vectors[len(ngram) - 1][ngram] = count * (log_clips - math.log(max(1, frequencies[ngram])))
        return vectors

    per_clip = {}
    for name, tokens in candidates.items():
        own = weigh(_ngrams(tokens))
        norms = [_norm(vector) for vector in own]
        total = 0.0
        for reference, ngrams in zip(references[name], counts[name], strict=True):
            difference = _num_pairs(tokens) - _num_pairs(reference)
            gaussian = math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
            for vector, norm, other in zip(own, norms, weigh(ngrams), strict=True):
                value = sum(min(vector[ngram], other[ngram]) * other[ngram] for ngram in vector.keys() & other.keys())
                total += gaussian * value / ((norm * _norm(other)) or 1.0)
        per_clip[name] = 10 * total / MAX_ORDER / len(references[name])
    return CaptionScore(fmean(per_clip.values()), per_clip)


def _norm(vector: Mapping[tuple[str, ...], float]) -> float:
    return math.sqrt(sum(value**2 for value in vector.values()))


def _num_pairs(tokens: Tokens) -> int:
    """The length that CIDEr-D compares: of a caption in pairs of words."""
    return max(0, len(tokens) - 1)


def _ngrams(tokens: Tokens) -> _NGrams:
    """All n-grams up to `MAX_ORDER`, with their counts."""
    orders = range(1, MAX_ORDER + 1)
    return Counter(tuple(tokens[start : start + n]) for n in orders for start in range(len(tokens) - n + 1))


def _check(references: References, candidates: Candidates) -> None:
    if not candidates:
        raise InputError("candidates: expected captions to score, got none")
    if references.keys() != candidates.keys():
        odd = sorted(references.keys() ^ candidates.keys())
        got = f"{len(odd)} clips with either alone, such as {shown(odd[0])}"
        raise InputError(f"candidates: expected one for each clip with references, got {got}")
    if silent := [name for name, of_clip in references.items() if not of_clip]:
        raise InputError(f"references: expected at least one for each clip, got none for {shown(silent[0])}")
