import pytest
import torch

from truetag.models.captioner import END, Captioner

D, V, H = 5, 9, 8


@pytest.fixture
def captioner() -> Captioner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Captioner(D, V, state_size=H, frame_size=6, word_size=4, dropout=0.5).eval()


def clips(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.randn(len(lengths), max(lengths), D, generator=torch.Generator().manual_seed(1))
    return frames, torch.tensor(lengths)


def by_the_equations(captioner: Captioner, frames: torch.Tensor, words: list[int]) -> torch.Tensor:
    """The logits of each word of one caption of one clip, step by step from the equations in the module's docstring."""

    def cell(lstm, x, state):
        h, c = state
        gates = x @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    first = second = (torch.zeros(H), torch.zeros(H))
    for frame in frames:
        first = cell(captioner.first, captioner.embed_frame(frame), first)
        second = cell(captioner.second, torch.cat([torch.zeros(4), first[0]]), second)
    logits = []
    for before in [V, *words[:-1]]:
        first = cell(captioner.first, torch.zeros(6), first)
        embedded = captioner.embed_word.weight[before]
        second = cell(captioner.second, torch.cat([embedded, first[0]]), second)
        logits.append(captioner.output(second[0]))
    return torch.stack(logits)


@torch.no_grad()
def test_the_network_is_the_equations_also_in_a_batch_of_unequal_clips(captioner):
    frames, lengths = clips(4, 2, 7)
    captions = [(0, [3, 4, END]), (2, [5, END]), (1, [2, 8, 7, 6, END]), (2, [2, END])]
    words = torch.full((4, 5), END)
    wanted = torch.zeros(4, 5, dtype=torch.bool)
    for row, (_, caption) in enumerate(captions):
        words[row, : len(caption)] = torch.tensor(caption)
        wanted[row, : len(caption)] = True
    logits = captioner(frames, lengths, torch.tensor([clip for clip, _ in captions]), words, wanted)
    expected = [by_the_equations(captioner, frames[clip, : lengths[clip]], caption) for clip, caption in captions]
    torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_padding_changes_nothing(captioner):
    frames, lengths = clips(4, 2, 7)
    together = captioner.read(frames, lengths)
    other = frames.clone()
    for clip, length in enumerate(lengths.tolist()):
        other[clip, length:] = 1e3  # whatever stands there
        alone = captioner.read(frames[clip : clip + 1, :length], lengths[clip : clip + 1])
        for batch_state, state in zip((*together.first, *together.second), (*alone.first, *alone.second), strict=True):
            torch.testing.assert_close(batch_state[:, clip], state[:, 0], rtol=1e-5, atol=1e-6)
    for a, b in zip(
        (*together.first, *together.second),
        (*captioner.read(other, lengths).first, *captioner.read(other, lengths).second),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_no_gradient_reaches_what_stands_after_the_end(captioner):
    frames, lengths = clips(3, 1)
    frames.requires_grad_()
    words = torch.tensor([[4, END, 7], [3, 4, END]])
    wanted = torch.tensor([[True, True, False], [True, True, True]])
    captioner(frames, lengths, torch.arange(2), words, wanted).square().sum().backward()
    assert frames.grad is not None
    assert (frames.grad[1, 1:] == 0).all()  # padding
    assert (frames.grad[0] != 0).any()
    assert (captioner.embed_word.weight.grad[7] == 0).all()


def test_the_first_words_are_as_frequent_as_the_counts(captioner):
    counts = torch.tensor([4.0, 0, 2, 2, 2, 2, 2, 2, 2])
    captioner.set_prior(counts)
    p = captioner.output.bias.softmax(0)
    torch.testing.assert_close(p, torch.tensor([4.0, 0.5, 2, 2, 2, 2, 2, 2, 2]) / 18.5)


def test_dropout_and_sampled_words_follow_from_the_generator(captioner):
    frames, lengths = clips(3, 3)
    words = torch.tensor([[4, 5, END], [3, 4, END]])
    wanted = torch.ones(2, 3, dtype=torch.bool)

    def logits(seed: int, rate: float) -> torch.Tensor:
        return captioner(frames, lengths, torch.arange(2), words, wanted, torch.Generator().manual_seed(seed), rate)

    assert torch.equal(logits(0, 0.0), logits(1, 1.0))  # in evaluation neither
    captioner.train()
    for rate in (0.0, 0.5, 1.0):
        assert torch.equal(logits(0, rate), logits(0, rate))
        assert not torch.equal(logits(0, rate), logits(1, rate))
    captioner.dropout = 0.0
    torch.testing.assert_close(logits(0, 1e-9), logits(0, 0.0), rtol=1e-5, atol=1e-6)  # nothing is sampled
    first = logits(0, 1.0).unflatten(0, (2, 3))[:, 0]
    torch.testing.assert_close(first, logits(0, 0.0).unflatten(0, (2, 3))[:, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(logits(0, 1.0), logits(0, 0.0))
