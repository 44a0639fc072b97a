"""The words of captions as the official scores count them, without Java.

The official scores divide captions with Stanford's PTBTokenizer, which follows the Penn Treebank (Marcus et al. 1993),
in lower case, and leave most punctuation out. Here are its rules for what captions are made of: clitics (do n't, dog
's), contractions (can not, gon na), abbreviations, initials, numbers, hyphens, addresses, brackets and quotes.
`benchmarks/captions.md` lists every caption of three corpora on which the two differ.
"""

import re

_SPACE = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'"})
_LEFT_OUT = frozenset("'\"“”`.?!,:;-–—…")
_WRITTEN_AS = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"€": "$", "£": "#"},
}
_ABBREVIATIONS = """mr mrs ms dr prof st sr jr rev gen col capt sgt lt gov sen rep hon adm maj cmdr co corp inc ltd bros
    vs etc ave blvd rd mt ft jan feb mar apr jun jul aug sep sept oct nov dec"""
_CLITICS = r"'(?:s|m|d|re|ve|ll|n)\b|n't\b"
_WORD = rf"""[^\W_]+?(?:[-/'._][^\W_]+)*?   # ground.a, tub/shower and t-shirt are one word each
    (?={_CLITICS}|[^\w'/.-]|[-'/.]+(?:\W|$)|$)"""
_TOKEN = re.compile(
    rf"""
    (?:https?://|www\.)[^\s<>"]+[\w/] | [\w.+-]+@[\w-]+(?:\.[\w-]+)* | [@\#][a-z_]\w* | </?[a-z]+>
  | (?:[a-z]\.)+[a-z](?![^\W_])\.? | (?-i:[A-HJ-Z]\.)(?!$) | (?:{"|".join(_ABBREVIATIONS.split())})\. | no\.(?=\s*\d)
  | (?-i:[A-Z]+&[A-Z]+)\b
  | can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | gim(?=me\b) | lem(?=me\b) | y'(?=all\b) | 't(?=is\b|was\b)
  | 'n'(?!\d) | '(?:em|cause|\d0s)\b | {_CLITICS}
  | [-+]?(?:\d+(?:[.,:]\d+)+(?:[-/]\d+)*|\.\d+|\d+(?:[-/]\d+)*)(?![^\W_]|[-/.,:]\w) | \d+:\d+
  | {_WORD}
  | (?P<dots>\.\.+|--+) | [?!]{{2,}} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def fold_space(text: str) -> str:
    """A caption on one line: every run of white space, and of what else ends a line somewhere, becomes one blank.

    A line end inside a caption would shift all later captions by one in programs that take a caption a line.

    >>> fold_space("a dog\\r\\nruns\\u2028 far ")
    'a dog runs far'
    """
    return _SPACE.sub(" ", text).strip()


def tokenise_caption(text: str) -> list[str]:
    """The lower-case tokens of a caption, without punctuation.

    >>> tokenise_caption("The dog's T-shirt doesn't fit (it's 1,000 sizes too big)...")
    ['the', 'dog', "'s", 't-shirt', 'does', "n't", 'fit', '-lrb-', 'it', "'s", '1,000', 'sizes', 'too', 'big', '-rrb-']
    """
    tokens = []
    for match in _TOKEN.finditer(fold_space(text).translate(_APOSTROPHES)):
        token = match.group().lower()
        is_picture = len(token) == 1 and ord(token) > 0xFFFF
        if match["dots"] is None and token not in _LEFT_OUT and not is_picture:
            tokens.append(_WRITTEN_AS.get(token, token))
    return tokens
