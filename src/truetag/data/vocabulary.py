"""The words to predict: the most frequent words of the captions (or tags), with their parts of speech and counts.

Words are lower-case tokens, without lemmatisation.
"""

import importlib.util
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from truetag.data.manifest import Rows, read_manifest, stream_rows
from truetag.data.parts_of_speech import (
    CLOSED_WORDS,
    PARTS_OF_SPEECH,
    SPACY_ADVICE,
    SPACY_MODEL,
    UNTAGGED,
    TagWords,
    closed_class,
    parse_parts,
    tag_with_spacy,
)
from truetag.data.word_changes import WordChanges, read_changes
from truetag.data.words import (
    NOT_WORDS,
    compounds,
    is_number_or_letter,
    is_undivided,
    normalise,
    tokenise,
    undivided_scripts,
    word_matcher,
)
from truetag.errors import InputError
from truetag.io.files import refuse_existing, write_text
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import require_file, shown, text_lines

CONTEXTS_PER_WORD = 8
_FUNCTION_PARTS = {"DT", "PRP", "IN"}
PartOfSpeechOption = Literal["auto", "spacy", "none"] | Path


@dataclass(frozen=True)
class Vocabulary:
    """K words in order of frequency; an unknown part of speech is "-", and an unknown count is 0."""

    words: tuple[str, ...]
    parts_of_speech: tuple[str, ...]
    counts: tuple[int, ...]
    aliases: tuple[tuple[str, ...], ...] = ()
    """For each word the other words that make it present (plurals, synonyms, children); () where no word has any."""

    def __post_init__(self) -> None:
        """Check that the three columns are equally long and the words distinct."""
        if not len(self.words) == len(self.parts_of_speech) == len(self.counts) == len(set(self.words)):
            lengths = f"{len(self.words)}, {len(self.parts_of_speech)} and {len(self.counts)}"
            raise InputError(f"vocabulary: expected as many distinct words as parts and counts, got {lengths}")
        if len(self.aliases) not in (0, len(self.words)):
            raise InputError(f"vocabulary: expected aliases for {len(self.words)} words, got {len(self.aliases)}")

    def __len__(self) -> int:
        """The number of words, K."""
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """The label index of each word."""
        return {word: index for index, word in enumerate(self.words)}

    @cached_property
    def labels_of_name(self) -> dict[str, list[int]]:
        """The indices of the labels that each word makes present: its own, and those of which it is an alias."""
        labels = {word: [index] for word, index in self.index.items()}
        for index, aliases in enumerate(self.aliases):
            for alias in aliases:
                labels.setdefault(alias, []).append(index)
        return labels


@dataclass(frozen=True)
class WordCounts:
    """How often each word is named, and a few texts that name it."""

    counts: Counter[str]
    contexts: Mapping[str, Sequence[str]]
    in_captions: Counter[str]
    """The tokens of captions alone."""


@dataclass(frozen=True)
class WordSelection:
    """Which of the counted words a vocabulary takes."""

    keep: frozenset[str] = frozenset(PARTS_OF_SPEECH) | {UNTAGGED}
    """The parts of speech to take."""
    stop_words: frozenset[str] = frozenset()
    """Words to leave out."""
    min_count: int = 1
    """The lowest count of a word."""
    changes: WordChanges = field(default_factory=WordChanges)
    """What a person adds, drops, merges, renames and implies."""


def build_vocabulary(rows: Rows, size: int, tag_words: TagWords | None = None) -> Vocabulary:
    """The `size` most frequent words of captions and tags, with ties in alphabetical order.

    Each whole tag counts as a word. Without `tag_words` only closed-class words get a part of speech.

    Raises:
        InputError: `size` is below 1.
    """
    return select_words(count_words(rows), size, tag_words)


def count_words(
    rows: Rows, listed: Sequence[str] = (), only_listed: bool = False, join_letters: bool = False
) -> WordCounts:
    """Count the tokens of captions, and whole tags.

    Args:
        rows: their captions and tags are counted.
        listed: words to look for in captions besides their tokens: of several tokens, or of a script without blanks.
        only_listed: count nothing but these.
        join_letters: count `t-shirt` as one word instead of `t` and `shirt`.
    """
    if not only_listed:
        listed = [word for word in listed if tokenise(word) != [word] or is_undivided(word)]
    entries_named, accepted = word_matcher(listed), set(listed)
    counts: Counter[str] = Counter()
    in_captions: Counter[str] = Counter()
    contexts: defaultdict[str, list[str]] = defaultdict(list)
    for row in stream_rows(rows, ("captions", "tags")):
        captions = [text for text in row.get("captions") or [] if len(text) > 8 or normalise(text) not in NOT_WORDS]
        tags = [tag for tag in map(normalise, row.get("tags") or []) if tag and tag not in NOT_WORDS]
        words_of_text = {f"a photo of {tag}": [tag] for tag in tags}  # a tagger needs some context
        for text in captions:
            tokens = tokenise(text)
            in_captions.update(tokens)
            if join_letters and (joined := compounds(text)):
                parts = Counter(token for word in joined for token in tokenise(word))
                tokens = [*(Counter(tokens) - parts).elements(), *joined]
            named = [listed[index] for index in entries_named(text)] if listed else []
            words = named if only_listed else [*tokens, *(word for word in named if word not in tokens)]
            counts.update(words)
            words_of_text[text] = words
        counts.update(tag for tag in tags if not only_listed or tag in accepted)
        # one caption per photo, since the captions of a photo resemble each other
        for word, text in {word: text for text, words in words_of_text.items() for word in words}.items():
            if len(contexts[word]) < CONTEXTS_PER_WORD:
                contexts[word].append(text)
    return WordCounts(counts, contexts, in_captions)


def select_words(
    counted: WordCounts, size: int, tag_words: TagWords | None = None, selection: WordSelection = WordSelection()
) -> Vocabulary:
    """The most frequent of the counted words, with ties in alphabetical order.

    Args:
        counted: the words, their counts and contexts.
        size: how many words to take; words that a person adds are among them, however rare.
        tag_words: gives open-class words a part of speech.
        selection: what to leave out, and a person's changes.

    Raises:
        InputError: `size` or the lowest count is below 1.
    """
    for name, value in (("size", size), ("min_count", selection.min_count)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1{' word' * (name == 'size')}, got {value}")
    changes, added = selection.changes, set(selection.changes.added)
    counts = {word: counted.counts[word] for word in (*counted.counts, *changes.added) if word not in changes.removed}
    for word, aliases in changes.aliases.items():
        counts[word] = counted.counts[word] + sum(counted.counts[alias] for alias in aliases)
    ranked = [
        word
        for word in sorted(counts, key=lambda word: (word not in added, -counts[word], word))
        if word in added or (counts[word] >= selection.min_count and word not in selection.stop_words)
    ]
    chosen: dict[str, str] = {}
    for start in range(0, len(ranked), size):
        if len(chosen) == size:
            break
        words = ranked[start : start + size]
        names = [*words, *(alias for word in words for alias in changes.aliases.get(word, ()))]
        parts = tag_words({name: counted.contexts.get(name, ()) for name in names}) if tag_words else {}
        for word in words:
            known = (parts.get(name) or closed_class(name) for name in (word, *changes.aliases.get(word, ())))
            part = next(filter(None, known), UNTAGGED)
            if len(chosen) < size and (part in selection.keep or word in added):
                chosen[word] = part
    words = sorted(chosen, key=lambda word: (-counts[word], word))
    aliases = tuple(changes.aliases.get(word, ()) for word in words)
    return Vocabulary(
        tuple(words),
        tuple(chosen[word] for word in words),
        tuple(counts[word] for word in words),
        aliases if any(aliases) else (),
    )


def function_words(vocabulary: Vocabulary) -> list[str]:
    """The words that name nothing: articles, pronouns, prepositions and their like, be, have, do, numbers, letters.

    Words that are not English belong to them if their part of speech says so. Entries of several words are tags that
    somebody wrote, and a vocabulary in which nothing else is left was meant as it is: neither has any.

    >>> function_words(Vocabulary(("a", "dog", "is", "on sale", "nike"), ("DT", "NN", "VB", "IN", "IN"), (1,) * 5))
    ['a', 'is']
    """
    words = []
    for word, part in zip(vocabulary.words, vocabulary.parts_of_speech, strict=True):
        closed = closed_class(word)
        # a tagger takes "nike" for a preposition: of English words only those of the closed classes
        is_function = part in _FUNCTION_PARTS if closed or not word.isascii() else False
        is_function |= closed is not None and part in (UNTAGGED, "Others", closed)
        if " " not in word and (is_function or is_number_or_letter(word)):
            words.append(word)
    return words if len(words) < len(vocabulary) else []


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
    entries: dict[str, tuple[str, int, tuple[str, ...]]] = {}
    for number, line in numbered:
        word, part, count, aliases = _parse_entry(f"{path}, line {number}", line, separator)
        if word in entries:
            raise InputError(f"{path}, line {number}: {shown(word)} is already in the list")
        entries[word] = (part, count, aliases)
    parts, counts, aliases = zip(*entries.values(), strict=True)
    return Vocabulary(tuple(entries), parts, counts, aliases if any(aliases) else ())


def write_vocabulary(path: Path | str, vocabulary: Vocabulary) -> None:
    """Write one `word <tab> part of speech <tab> count` per line, and the word's aliases in further columns.

    The file appears whole or not at all.
    """
    aliases = vocabulary.aliases or ((),) * len(vocabulary)
    columns = zip(vocabulary.words, vocabulary.parts_of_speech, vocabulary.counts, aliases, strict=True)
    lines = ("\t".join([word, part, str(count), *names]) for word, part, count, names in columns)
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


@takes_paths
def make_vocabulary(
    manifest: Path,
    out: Path,
    size: int = 1000,
    split: str | None = None,
    part_of_speech: PartOfSpeechOption = "auto",
    keep: str | None = None,
    stop_words: Literal["english"] | Path | None = None,
    min_count: int = 1,
    words: Path | None = None,
    changes: Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Vocabulary:
    """Write the most frequent words of a manifest with their parts of speech and counts.

    Args:
        manifest: the manifest whose captions and tags are counted.
        out: the vocabulary to write: one word per line, with tabs between word, part of speech and count.
        size: the number of words to keep, at most.
        split: the split to count; by default `train` if the manifest has such a split, else all rows.
        part_of_speech: `auto` uses spaCy if it is installed; `spacy` fails without it; `none` tags closed classes only;
            a path names a word list to take the parts of speech from.
        keep: the parts of speech to keep, with commas between them: NN,JJ.
        stop_words: words to leave out: a file with one word per line, or `english` for the function words of English,
            numbers and single letters; then `t-shirt` is one word.
        min_count: leave out words that are named less often.
        words: a file with one word per line: only these words, which are also found inside text without blanks.
        changes: a table with the columns word, action (add, drop, merge, rename, imply) and to.
        dry_run: show what the options change, and write nothing.
        overwrite: replace `out` if it exists.

    Raises:
        InputError: the manifest has no captions and no tags, its captions are not divided into words, an option is not
            what it should be, spaCy is asked for and not installed, or `out` exists.
    """
    if not dry_run:
        refuse_existing(out, overwrite)
    table = WordChanges() if changes is None else read_changes(changes)
    listed = () if words is None else read_vocabulary(words).words
    stopped = _read_stop_words(stop_words)
    kept = WordSelection.keep if keep is None else parse_parts(keep)
    content = read_manifest(manifest)
    if split is None and "train" in content.rows.unique("split"):
        split = "train"
    tag_words = _choose_tagger(part_of_speech)
    if keep is not None and tag_words is None:
        raise InputError(f"keep: expected words with parts of speech, got words without; {SPACY_ADVICE}")
    rows = content.in_split(split)
    english = stop_words == "english"
    counted = count_words(rows, [*listed, *table.names], words is not None, join_letters=english)
    if english:
        stopped |= {word for word in counted.counts if is_number_or_letter(word)}
    if words is None:
        _refuse_undivided(manifest, counted.in_captions)
    vocabulary = select_words(counted, size, tag_words, WordSelection(kept, stopped, min_count, table))
    if not len(vocabulary):
        if not counted.counts and words is None:
            raise InputError(f"{manifest}: expected captions or tags to take words from, got neither captions nor tags")
        raise InputError(f"{manifest}: expected words to keep, got none: the options leave out every word")
    if dry_run:
        tell(describe_changes(build_vocabulary(rows, size), vocabulary))
    else:
        write_vocabulary(out, vocabulary)
    return vocabulary


def describe_changes(before: Vocabulary, after: Vocabulary) -> str:
    """One line for each word whose place or count differs, and the number of words before and after.

    >>> before = Vocabulary(("dog", "puppy"), ("NN", "NN"), (3, 2))
    >>> print(describe_changes(before, Vocabulary(("dog",), ("NN",), (5,), (("puppy",),))))
    dog: 3 -> 5 (with puppy)
    puppy: 2 -> left out
    2 words before, 1 after
    """
    old, new = (dict(zip(words.words, words.counts, strict=True)) for words in (before, after))
    aliases = dict(zip(after.words, after.aliases, strict=False))
    lines = []
    for word in sorted(old.keys() | new.keys(), key=lambda word: (-max(old.get(word, 0), new.get(word, 0)), word)):
        if old.get(word) != new.get(word):
            names = f" (with {', '.join(aliases[word])})" if aliases.get(word) else ""
            lines.append(f"{word}: {old.get(word, 'not in it')} -> {new.get(word, 'left out')}{names}")
    return "\n".join([*lines, f"{len(before)} words before, {len(after)} after"])


def _read_stop_words(stop_words: Literal["english"] | Path | None) -> frozenset[str]:
    if stop_words is None:
        return frozenset()
    return frozenset(CLOSED_WORDS if stop_words == "english" else read_vocabulary(stop_words).words)


def _refuse_undivided(manifest: Path, tokens: Counter[str]) -> None:
    """Say that captions of a script without blanks are not divided into words.

    Raises:
        InputError: most of the captions are of such scripts.
    """
    shares = undivided_scripts(tokens)
    if shares:
        got = (
            f"{' and '.join(shares)} captions without blanks between words ({sum(shares.values()):.0%} of all letters)"
        )
        advice = "add --words FILE, a list with one word per line that is looked for inside them"
        message = f"{manifest}: expected captions that are divided into words, got {got}; {advice}"
        if sum(shares.values()) > 0.5:
            raise InputError(message)
        tell(f"warning: {message}")


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


def _parse_entry(location: str, line: str, separator: str | None) -> tuple[str, str, int, tuple[str, ...]]:
    """One line of a vocabulary file.

    Args:
        location: the file and line, for messages.
        line: the text of the line.
        separator: what the first line of the file has between its columns; None if it has one column.

    Returns:
        The word, its part of speech, its count and its aliases.
    """
    expected = "expected word, part of speech and count with tabs or commas between them, or one word per line"
    columns = [line] if separator is None else line.split("\t") if separator == "\t" else line.rsplit(",", 2)
    columns, aliases = [column.strip() for column in columns[:3]], tuple(filter(None, map(normalise, columns[3:])))
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
    return word, part, count, aliases
