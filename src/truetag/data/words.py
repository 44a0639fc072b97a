"""What a word is: how a text divides into words, how a tag is spelled, and which words of a list a text names.

Texts are in lower case and in Unicode's normal form C. A combining mark belongs to its letter, and a joiner between two
letters to their word. Some scripts put no blanks between words: there, the words of a list are looked for inside a run
of letters, the longest first.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise

NOT_WORDS = frozenset({"nan", "none", "null", "n/a", "<na>"})
"""What programs write where there is no tag or caption."""
_ASCII_WORD = re.compile(r"[^\W_]+")
_COMPOUND = re.compile(r"(?<![\w-])[^\W\d_]-[^\W\d_]{2,}(?![\w-])")
_SOFT_HYPHEN = "\u00ad"
_UNDIVIDED = {
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Burmese": "\u1000-\u109f\uaa60-\uaa7f",
    "Khmer": "\u1780-\u17ff",
    "Chinese or Japanese": "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
}
"""Scripts without blanks between words."""
_LONGEST_MEAN = {"Chinese or Japanese": 4}  # characters a word; texts with blanks between words have less
_LONGEST_MEAN_ELSEWHERE = 8
_SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in _UNDIVIDED.items()}
_ANY_UNDIVIDED = re.compile(f"[{''.join(_UNDIVIDED.values())}]")


def tokenise(text: str) -> list[str]:
    """The lower-case words of a caption.

    >>> tokenise("A man's T-shirt, a red_dog!")
    ['a', 'man', 's', 't', 'shirt', 'a', 'red', 'dog']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _word_pattern().findall(_plain(text))


def compounds(text: str) -> list[str]:
    """The words of a caption that a hyphen joins to a single letter, and that mean little without it.

    >>> compounds("A man's T-shirt, an X-ray of a well-known dog")
    ['t-shirt', 'x-ray']
    """
    return _COMPOUND.findall(_plain(text))


def normalise(tag: str) -> str:
    """A tag in lower case with single spaces, as a vocabulary spells it.

    >>> normalise("  Teddy   Bear ")
    'teddy bear'
    """
    return " ".join((tag.lower() if tag.isascii() else _plain(tag)).split())


def is_number_or_letter(word: str) -> bool:
    """Whether a word is of digits alone, or a single letter of the Latin alphabet."""
    return word.isdecimal() or (len(word) == 1 and word.isascii())


def is_undivided(text: str) -> bool:
    """Whether the text has letters of a script without blanks between words."""
    return not text.isascii() and _ANY_UNDIVIDED.search(text) is not None


def undivided_scripts(counts: Mapping[str, int]) -> dict[str, float]:
    """The scripts whose captions are not divided into words, each with its share of all letters.

    Args:
        counts: the tokens of captions. Tokens that are much longer than words are phrases.

    >>> undivided_scripts({"一只狗在水里": 1, "dog": 2})
    {'Chinese or Japanese': 0.5}
    >>> undivided_scripts({"狗": 1, "水": 1})
    {}
    """
    letters: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for token, count in counts.items():
        if is_undivided(token):
            script = next(name for name, pattern in _SCRIPTS.items() if pattern.search(token))
            letters[script] += count * len(token)
            tokens[script] += count
    total = sum(count * len(token) for token, count in counts.items())
    return {
        script: count / total
        for script, count in letters.items()
        if count > _LONGEST_MEAN.get(script, _LONGEST_MEAN_ELSEWHERE) * tokens[script]
    }


def word_matcher(entries: Sequence[str]) -> Callable[[str], set[int]]:
    """A function from a caption to the indices of the entries that it names.

    An entry is named if its words are consecutive tokens of the caption. In a script without blanks it is also named
    inside a token, unless a longer entry takes its place. An entry of a single letter and a word (t-shirt) takes the
    place of that word.

    >>> sorted(word_matcher(["teddy bear", "bear", "dog"])("A Teddy-bear"))
    [0, 1]
    >>> matcher = word_matcher(["t-shirt", "shirt"])
    >>> sorted(matcher("A T-shirt")), sorted(matcher("A T-shirt and a shirt"))
    ([0], [0, 1])
    >>> sorted(word_matcher(["狗", "热狗", "水"])("热狗在水里"))
    [1, 2]
    """
    single: defaultdict[str, list[int]] = defaultdict(list)
    several: defaultdict[str, list[tuple[list[str], int]]] = defaultdict(list)
    letters: dict[tuple[str, ...], int] = {}
    undivided: defaultdict[str, list[str]] = defaultdict(list)
    for index, entry in enumerate(entries):
        tokens = tokenise(entry)
        if len(tokens) == 1:
            single[tokens[0]].append(index)
            if is_undivided(tokens[0]):
                undivided[tokens[0][0]].append(tokens[0])
        elif compounds(entry) == [normalise(entry)]:
            letters[tuple(tokens)] = index
        elif tokens:
            several[tokens[0]].append((tokens, index))
    for words in undivided.values():
        words.sort(key=len, reverse=True)

    def entries_named(caption: str) -> set[int]:
        tokens = tokenise(caption)
        pairs = [pair for pair in pairwise(tokens) if pair in letters] if letters else []
        distinct = set(tokens)
        if pairs:
            distinct = set(Counter(tokens) - Counter(word for pair in pairs for word in pair))
        indices = {index for token in distinct & single.keys() for index in single[token]}
        if undivided and not caption.isascii():
            inside = {word for token in distinct for word in _words_inside(token, undivided)}
            indices.update(index for word in inside for index in single[word])
        for first in distinct & several.keys():
            starts = [start for start, token in enumerate(tokens) if token == first]
            for entry, index in several[first]:
                if any(tokens[start : start + len(entry)] == entry for start in starts):
                    indices.add(index)
        indices.update(letters[pair] for pair in pairs)
        return indices

    return entries_named


def _words_inside(token: str, words: Mapping[str, Sequence[str]]) -> list[str]:
    """The words (by their first letter, the longest first) that stand in a token, from left to right."""
    found: list[str] = []
    start = 0
    while start < len(token):
        for word in words.get(token[start], ()):
            end = start + len(word)
            if token.startswith(word, start) and token[end : end + 1] not in _marks():
                found.append(word)
                start = end
                break
        else:
            start += 1
    return found


def _plain(text: str) -> str:
    composed = unicodedata.normalize("NFC", text.replace(_SOFT_HYPHEN, ""))
    return unicodedata.normalize("NFC", composed.lower())


@cache
def _marks() -> frozenset[str]:
    """The combining marks, apart from those that choose a picture or frame a digit (emoji)."""
    characters = map(chr, range(0x300, 0x1F000))
    return frozenset(
        mark for mark in characters if unicodedata.category(mark) in ("Mn", "Mc") and not "\ufe00" <= mark <= "\ufe0f"
    )


@cache
def _word_pattern() -> re.Pattern[str]:
    rest = f"(?:[^\\W_]|[{''.join(sorted(_marks()))}])"
    return re.compile(f"[^\\W_]{rest}*(?:[\u200c\u200d]+{rest}+)*")
