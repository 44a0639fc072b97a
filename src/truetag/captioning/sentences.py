"""Captions as the captioner learns them: tokens, the words that the training captions have, and numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from truetag.data.parts_of_speech import UNTAGGED
from truetag.data.vocabulary import Vocabulary
from truetag.data.words import normalise, undivided_scripts
from truetag.errors import InputError
from truetag.evaluation.caption_tokens import tokenise_caption
from truetag.io.terminal import tell
from truetag.io.text import counted
from truetag.models.captioner import END, NUM_SPECIAL, UNKNOWN

UNKNOWN_TEXT = "<unk>"


@dataclass(frozen=True)
class CaptionWords:
    """The words that a captioner knows: its numbers begin with the end and the unknown word."""

    vocabulary: Vocabulary

    def __len__(self) -> int:
        """V, the end and the unknown word among them."""
        return len(self.vocabulary) + NUM_SPECIAL

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.vocabulary.words, NUM_SPECIAL)}

    def encode(self, tokens: Sequence[str], max_words: int) -> list[int]:
        """The numbers of a caption's first words, and the end if it comes after no more than `max_words`."""
        numbers = [self.numbers.get(token, UNKNOWN) for token in tokens[:max_words]]
        return numbers if len(tokens) > max_words else [*numbers, END]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of a sentence."""
        words = self.vocabulary.words
        return [UNKNOWN_TEXT if number == UNKNOWN else words[number - NUM_SPECIAL] for number in numbers]


def caption_tokens(text: str) -> list[str]:
    """The tokens of a caption, spelled as a vocabulary file spells them.

    >>> caption_tokens("A man's dog, running.")
    ['a', 'man', "'s", 'dog', 'running']
    """
    return [token for token in map(normalise, tokenise_caption(text)) if token]


def collect_words(captions: Iterable[Sequence[str]], min_count: int) -> CaptionWords:
    """The words of tokenised training captions, the most frequent first.

    Raises:
        InputError: there are none, or the captions are not divided into words.
    """
    counts = Counter(token for tokens in captions for token in tokens)
    shares = undivided_scripts(counts)
    if sum(shares.values()) > 0.5:
        raise InputError(f"captions: expected words with blanks between them, got {' and '.join(shares)} without any")
    ranked = sorted(((-count, word) for word, count in counts.items() if count >= min_count))
    if not ranked:
        raise InputError(f"min_count: expected at least one word that is named {min_count} times, got none")
    words, numbers = tuple(word for _, word in ranked), tuple(-count for count, _ in ranked)
    return CaptionWords(Vocabulary(words, (UNTAGGED,) * len(words), numbers))


def encode_captions(
    captions: Sequence[Sequence[Sequence[str]]], words: CaptionWords, max_words: int
) -> list[list[list[int]]]:
    """The captions of each clip as numbers; those of unknown words alone are left out, and what is left out is told.

    Args:
        captions: the tokens of each caption of each clip.
        words: the words that are known.
        max_words: the rest of a longer caption is not learnt.
    """
    num_unknown = num_cut = 0
    encoded = []
    for of_clip in captions:
        kept = []
        for tokens in of_clip:
            numbers = words.encode(tokens, max_words)
            if set(numbers) <= {UNKNOWN, END}:
                num_unknown += 1
                continue
            num_cut += len(tokens) > max_words
            kept.append(numbers)
        encoded.append(kept)
    if num_unknown:
        tell(f"{counted(num_unknown, 'caption')} of unknown words alone not learnt from")
    if num_cut:
        tell(f"{counted(num_cut, 'caption')} of more than {max_words} words: the first {max_words} are learnt")
    return encoded
