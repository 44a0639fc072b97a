import itertools

import pytest
import torch

from truetag.captioning.decode import Decoding, Sentence, write_sentences
from truetag.errors import InputError
from truetag.models.captioner import END, UNKNOWN, Captioner

D, V = 5, 7


@pytest.fixture(params=range(3))
def captioner(request: pytest.FixtureRequest) -> Captioner:
    with torch.random.fork_rng():
        torch.manual_seed(request.param)
        captioner = Captioner(D, V, state_size=8, frame_size=6, word_size=4).eval()
    with torch.no_grad():
        for parameter in captioner.parameters():
            parameter *= 4  # sharper, so that beams differ
    return captioner


def clips(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 6, (num,), generator=generator)
    return torch.randn(num, 5, D, generator=generator), lengths


@torch.no_grad()
def log_probability(captioner: Captioner, frames: torch.Tensor, words: list[int]) -> float:
    """Of a sentence with its end, by the network that is trained."""
    target = torch.tensor([[*words, END]])
    wanted = torch.ones_like(target, dtype=torch.bool)
    one = torch.zeros(1, dtype=torch.int64)
    logits = captioner(frames.unsqueeze(0), torch.tensor([len(frames)]), one, target, wanted)
    return logits.log_softmax(1).gather(1, target.T).sum().item()


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_a_score_is_the_log_probability_of_the_sentence(captioner, beam, length_penalty):
    frames, lengths = clips(20)
    decoding = Decoding(beam, max_words=6, length_penalty=length_penalty)
    for clip, sentence in enumerate(write_sentences(captioner, frames, lengths, decoding)):
        expected = log_probability(captioner, frames[clip, : lengths[clip]], sentence.words)
        assert sentence.log_probability == pytest.approx(expected, abs=1e-4)
        assert len(sentence.words) <= 6
        assert not {END, UNKNOWN} & set(sentence.words)


def test_greedy_takes_the_likeliest_word_each_time(captioner):
    frames, lengths = clips(20)
    for clip, sentence in enumerate(write_sentences(captioner, frames, lengths, Decoding(1, max_words=6))):
        words: list[int] = []
        while len(words) < 6:
            options = {}
            for word in set(range(V)) - {UNKNOWN}:
                target = torch.tensor([[*words, word]])
                wanted = torch.zeros_like(target, dtype=torch.bool)
                wanted[0, -1] = True
                with torch.no_grad():
                    logits = captioner(
                        frames[clip : clip + 1, : lengths[clip]],
                        lengths[clip : clip + 1],
                        torch.tensor([0]),
                        target,
                        wanted,
                    )
                options[word] = logits[0, word].item()
            best = max(options, key=options.__getitem__)
            if best == END:
                break
            words.append(best)
        assert sentence.words == words


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sentences(captioner, length_penalty):
    frames, lengths = clips(4)
    decoding = Decoding(V**3, max_words=3, length_penalty=length_penalty)
    found = write_sentences(captioner, frames, lengths, decoding)
    greedy = write_sentences(captioner, frames, lengths, Decoding(1, max_words=3))
    words = sorted(set(range(V)) - {END, UNKNOWN})
    for clip, sentence in enumerate(found):
        everything = [list(some) for n in range(4) for some in itertools.product(words, repeat=n)]
        values = [(log_probability(captioner, frames[clip, : lengths[clip]], some), len(some)) for some in everything]
        least = greedy[clip].log_probability - 1e-5
        best = max(value / (length + 1) ** length_penalty for value, length in values if value >= least)
        score = sentence.log_probability / (len(sentence.words) + 1) ** length_penalty
        assert score == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_is_never_less_probable_than_greedy(captioner, length_penalty):
    frames, lengths = clips(200)
    greedy = write_sentences(captioner, frames, lengths, Decoding(1, max_words=8))
    for beam in (2, 3, 5):
        wide = write_sentences(captioner, frames, lengths, Decoding(beam, 8, length_penalty))
        pairs = list(zip(wide, greedy, strict=True))
        assert all(b.log_probability >= g.log_probability for b, g in pairs)
        by_score = [s.log_probability / (len(s.words) + 1) ** length_penalty for pair in pairs for s in pair]
        assert all(b >= g for b, g in zip(by_score[::2], by_score[1::2], strict=True))
        if length_penalty == 0:
            assert any(b.log_probability > g.log_probability + 1e-3 for b, g in pairs)


@pytest.mark.parametrize("beam", [1, 5])
def test_a_sentence_does_not_depend_on_its_batch(captioner, beam):
    frames, lengths = clips(30)
    decoding = Decoding(beam, max_words=8)
    together = write_sentences(captioner, frames, lengths, decoding)
    for clip, sentence in enumerate(together):
        length = int(lengths[clip])
        (alone,) = write_sentences(captioner, frames[clip : clip + 1, :length], lengths[clip : clip + 1], decoding)
        assert alone.words == sentence.words
        assert alone.log_probability == pytest.approx(sentence.log_probability, abs=1e-5)


def test_the_unknown_word_is_written_where_it_is_asked_for(captioner):
    with torch.no_grad():
        captioner.output.bias[UNKNOWN] += 50  # as improbable is the end, which then stands best after many words
    frames, lengths = clips(3)
    asked = write_sentences(captioner, frames, lengths, Decoding(2, 3, length_penalty=1.0, unknown=True))
    assert [sentence.words for sentence in asked] == [[UNKNOWN] * 3] * 3
    assert all(UNKNOWN not in s.words for s in write_sentences(captioner, frames, lengths, Decoding(2, max_words=3)))


def test_what_cannot_be_decoded_with_is_refused():
    for options, text in (
        ({"beam": 0}, "beam: expected 1"),
        ({"max_words": 0}, "max_words"),
        ({"length_penalty": -1.0}, "0 or more"),
    ):
        with pytest.raises(InputError, match=text):
            Decoding(**options)
    assert Sentence([], 0.0).words == []
