"""Writing sentences: greedy, or by a beam whose finished sentences keep their score and compete to the end.

A log probability falls with every word, so the likeliest sentences are too short (Murray & Chiang 2018). The score that
sentences compete by is therefore the sum of the log probabilities of their words and their end, divided by (number of
words + 1) ** length_penalty (Wu et al. 2016 use such a power). Only sentences that are at least as probable as the
greedy one compete with it: a beam never returns a less probable one.

A sentence that reaches the greatest length ends there, and the probability of that end counts like any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from truetag.captioning.frames import FrameFeatures
from truetag.data.batches import even_batches
from truetag.errors import InputError
from truetag.models.captioner import END, UNKNOWN, Captioner, Reading, State

MAX_WORDS = 30
CLIPS_AT_A_TIME = 64


@dataclass(frozen=True)
class Decoding:
    """How sentences are written."""

    beam: int = 5
    """How many unfinished sentences are followed at a time; 1 is greedy."""
    max_words: int = MAX_WORDS
    """The longest sentence, in words."""
    length_penalty: float = 1.0
    """Divide a log probability by the number of words, the end among them, to this power; 0 prefers short sentences."""
    unknown: bool = False
    """Write <unk> where a word that is not in the list is the likeliest."""

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("max_words", 1), ("length_penalty", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name}: expected {least} or more, got {getattr(self, name)}")


class Sentence(NamedTuple):
    """The numbers of its words, without the end, and its log probability (that of the end included)."""

    words: list[int]
    log_probability: float


@torch.inference_mode()
def write_sentences(
    captioner: Captioner,
    frames: Float[Tensor, "B T D"],
    lengths: Int64[Tensor, "B"],
    decoding: Decoding = Decoding(),
) -> list[Sentence]:
    """The likeliest sentence found for each of B clips.

    Args:
        captioner: in evaluation mode.
        frames: the features of the clips, padded at the end.
        lengths: how many frames of each are real.
        decoding: greedy or beam, and when to stop.
    """
    reading = captioner.read(frames, lengths)
    h1, _ = captioner.run_on(reading.first, decoding.max_words + 1)  # B L H
    greedy = _write_greedily(captioner, reading, h1, decoding)
    if decoding.beam == 1:
        return greedy
    return _write_by_beam(captioner, reading, h1, decoding, greedy)


def write_all(
    captioner: Captioner, frames: FrameFeatures, decoding: Decoding = Decoding()
) -> Iterator[tuple[range, list[Sentence]]]:
    """The sentences of all clips, a batch at a time: the indices of its clips, and their sentences.

    Args:
        captioner: in evaluation mode.
        frames: the features of all clips.
        decoding: greedy or beam, and when to stop.
    """
    device = captioner.output.bias.device
    for clips in even_batches(len(frames), CLIPS_AT_A_TIME):
        features, lengths = frames.batch(clips)
        yield clips, write_sentences(captioner, features.to(device), lengths.to(device), decoding)


def _score(sentence: Sentence, decoding: Decoding) -> float:
    return sentence.log_probability / (len(sentence.words) + 1) ** decoding.length_penalty


def _log_probabilities(logits: Float[Tensor, "N V"], decoding: Decoding) -> Float[Tensor, "N V"]:
    values = logits.float().log_softmax(1)
    if not decoding.unknown:
        values[:, UNKNOWN] = -torch.inf
    return values


def _write_greedily(
    captioner: Captioner, reading: Reading, h1: Float[Tensor, "B L H"], decoding: Decoding
) -> list[Sentence]:
    """The likeliest next word at each place; clips whose sentence has ended take no further part."""
    num_clips = len(h1)
    words: list[list[int]] = [[] for _ in range(num_clips)]
    scores = [0.0] * num_clips
    alive = torch.arange(num_clips, device=h1.device)
    second = reading.second
    before = torch.full_like(alive, captioner.num_words)
    for place in range(decoding.max_words + 1):
        logits, second = captioner.write_word(before, h1[alive, place], second)
        values = _log_probabilities(logits, decoding)
        best, before = values.max(1)
        if place == decoding.max_words:
            best, before = values[:, END], torch.full_like(before, END)
        for clip, word, value in zip(alive.tolist(), before.tolist(), best.tolist(), strict=True):
            scores[clip] += value
            if word != END:
                words[clip].append(word)
        going_on = before != END
        alive, before, second = alive[going_on], before[going_on], _select(second, going_on.nonzero()[:, 0])
        if not len(alive):
            break
    return [Sentence(*pair) for pair in zip(words, scores, strict=True)]


def _write_by_beam(
    captioner: Captioner, reading: Reading, h1: Float[Tensor, "B L H"], decoding: Decoding, greedy: list[Sentence]
) -> list[Sentence]:
    """The best finished sentence of each clip, the greedy one or one that is at least as probable.

    A clip is done once no unfinished sentence of it can overtake the best finished one, or come up to the greedy one:
    log probabilities only fall.

    Args:
        captioner: the network.
        reading: its states after the last frames of B clips.
        h1: the states of its first layer while it writes.
        decoding: width and length.
        greedy: the greedy sentence of each clip.
    """
    width, device = decoding.beam, h1.device
    best = list(greedy)
    bar = torch.tensor([sentence.log_probability for sentence in greedy], device=device)  # B
    alive = torch.arange(len(h1), device=device)  # A: the clips that are not done
    scores = torch.full((len(alive), width), -torch.inf, device=device)  # A W
    scores[:, 0] = 0.0  # all beams begin alike: one of them is enough
    words = torch.empty(len(alive), width, 0, dtype=torch.int64, device=device)  # A W S
    before = torch.full((len(alive), width), captioner.num_words, device=device)
    second = reading.select(alive.repeat_interleave(width)).second
    for place in range(decoding.max_words + 1):
        h1_here = h1[alive, place].repeat_interleave(width, 0)
        logits, second = captioner.write_word(before.flatten(), h1_here, second)
        values = scores.unsqueeze(2) + _log_probabilities(logits, decoding).unflatten(0, scores.shape)  # A W V
        finished = values[:, :, END]
        finished[finished < bar[alive].unsqueeze(1)] = -torch.inf
        _keep_finished(best, alive, finished, words, decoding)
        if place == decoding.max_words:
            break
        values[:, :, END] = -torch.inf
        scores, picks = values.flatten(1).topk(width, 1)  # A W
        beams, before = picks // values.shape[2], picks % values.shape[2]
        words = torch.cat([words.gather(1, beams.unsqueeze(2).expand_as(words)), before.unsqueeze(2)], 2)
        rows = beams + torch.arange(len(alive), device=device).unsqueeze(1) * width
        # what an unfinished sentence can still come to, at the length that is best for it
        limit = scores[:, 0] / (decoding.max_words + 1) ** decoding.length_penalty
        reached = torch.tensor([_score(best[clip], decoding) for clip in alive.tolist()], device=device)
        going_on = ((limit > reached) & (scores[:, 0] >= bar[alive])).nonzero()[:, 0]
        if not len(going_on):
            break
        alive, scores, words, before = alive[going_on], scores[going_on], words[going_on], before[going_on]
        second = _select(second, rows[going_on].flatten())
    return best


def _keep_finished(
    best: list[Sentence],
    alive: Int64[Tensor, "A"],
    finished: Float[Tensor, "A W"],
    words: Int64[Tensor, "A W S"],
    decoding: Decoding,
) -> None:
    """Let the sentences that end here compete with the best one of their clip."""
    values, beams = finished.max(1)  # all of them are equally long
    for index, (clip, value, beam) in enumerate(zip(alive.tolist(), values.tolist(), beams.tolist(), strict=True)):
        sentence = Sentence(words[index, beam].tolist(), value)
        if _score(sentence, decoding) > _score(best[clip], decoding):
            best[clip] = sentence


def _select(state: State, rows: Int64[Tensor, "M"]) -> tuple[Float[Tensor, "1 M H"], Float[Tensor, "1 M H"]]:
    return state[0][:, rows], state[1][:, rows]
