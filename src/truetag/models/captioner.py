"""S2VT: two stacked LSTMs read the features of frames, then write a sentence [Sec. 3.4; Venugopalan et al. 2015].

While they read, the first layer gets a frame's embedding at each step, and the second a zero word beside the first's
state. While they write, the first layer runs on with zero frames, and the second gets the word before:

    h1[t] = LSTM1(W x[t], h1[t-1])    h2[t] = LSTM2([0, h1[t]], h2[t-1])            t = 1 .. T, one frame a step
    h1[s] = LSTM1(0, h1[s-1])         h2[s] = LSTM2([e(w[s-1]), h1[s]], h2[s-1])    s = T+1, T+2, ..
    p(w[s] | w[<s], x) = softmax(A h2[s] + a)

As the first layer sees no word, all captions of a clip, and all beams, share its states. A clip that is shorter than
others of its batch is read to its own last frame: it gets the states that it gets alone.

Words are numbers: 0 is the end of the sentence, 1 any word that is not in the list, then the words. The end can be
written, the beginning cannot: it has an embedding alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

END, UNKNOWN = 0, 1
"""The numbers of the end of a sentence, and of any word that is not in the list."""
NUM_SPECIAL = 2

State = tuple[Float[Tensor, "1 N H"], Float[Tensor, "1 N H"]]
"""h and c of an LSTM."""


class Reading(NamedTuple):
    """The states of both layers after the last frame of each clip."""

    first: State
    second: State

    def select(self, clips: Int64[Tensor, "M"]) -> "Reading":
        """The states of some clips, each as often as it is named."""
        (h1, c1), (h2, c2) = self
        return Reading((h1[:, clips], c1[:, clips]), (h2[:, clips], c2[:, clips]))


class Captioner(nn.Module):
    """p(sentence | clip).

    Args:
        num_features: D, of each frame: the probabilities of concepts, or any other.
        num_words: V, the end and the unknown word among them.
        state_size: H, of both layers; the paper has 700.
        frame_size: of a frame's embedding; the paper has 700.
        word_size: of a word's embedding; the paper has 300.
        dropout: probability that an entry of an embedding, or of the state that words are read from, is dropped while
            training. The paper names none; this place is inferred.
    """

    def __init__(
        self,
        num_features: int,
        num_words: int,
        state_size: int = 700,
        frame_size: int = 700,
        word_size: int = 300,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_words, self.dropout = num_words, dropout
        self.embed_frame = nn.Linear(num_features, frame_size)
        self.embed_word = nn.Embedding(num_words + 1, word_size)  # the last one begins a sentence
        self.first = nn.LSTM(frame_size, state_size, batch_first=True)
        self.second = nn.LSTM(word_size + state_size, state_size, batch_first=True)
        self.output = nn.Linear(state_size, num_words)

    def forward(
        self,
        frames: Float[Tensor, "B T D"],
        lengths: Int64[Tensor, "B"],
        clips: Int64[Tensor, "N"],
        words: Int64[Tensor, "N L"],
        wanted: Bool[Tensor, "N L"],
        generator: torch.Generator | None = None,
        sampling_rate: float = 0.0,
    ) -> Float[Tensor, "M V"]:
        """Logits of the next word at the M wanted places of N captions, in the order of `words[wanted]`.

        Args:
            frames: the features of B clips, padded at the end.
            lengths: how many frames of each clip are real, at least 1.
            clips: which of the B clips each caption belongs to.
            words: the captions, each with its end.
            wanted: the places whose word is predicted; what stands after them does not count.
            generator: decides what dropout drops, and what scheduled sampling draws.
            sampling_rate: the probability that the word before is the model's own guess instead of the caption's
                (scheduled sampling, Bengio et al. 2015).
        """
        reading = self.read(frames, lengths, generator)
        length = words.shape[1]
        h1 = self.run_on(reading.first, length)[0][clips]  # N L H: no word is in it, so captions of a clip share it
        second = reading.select(clips).second
        begin = words.new_full((len(words), 1), self.num_words)
        before = torch.cat([begin, words[:, :-1]], 1)  # N L
        if sampling_rate and self.training:
            states = self._write_by_sampling(before, h1, second, sampling_rate, generator)
        else:
            states, _ = self.second(torch.cat([self._drop(self.embed_word(before), generator), h1], 2), second)
        return self.output(self._drop(states[wanted], generator))

    def read(
        self, frames: Float[Tensor, "B T D"], lengths: Int64[Tensor, "B"], generator: torch.Generator | None = None
    ) -> Reading:
        """Read B clips, each to its own last frame.

        Args:
            frames: their features, padded at the end.
            lengths: how many frames of each are real, at least 1.
            generator: decides what dropout drops.
        """
        embedded = self._drop(self.embed_frame(frames), generator)  # B T E
        if bool((lengths == frames.shape[1]).all()):
            h1, first = self.first(embedded)
            _, second = self.second(self._beside_zero_words(h1))
            return Reading(first, second)
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        h1, first = self.first(packed)
        _, second = self.second(h1._replace(data=self._beside_zero_words(h1.data)))
        return Reading(first, second)

    def run_on(self, first: State, length: int) -> tuple[Float[Tensor, "B L H"], State]:
        """The states of the first layer over `length` zero frames, and its last one."""
        zeros = first[0].new_zeros(first[0].shape[1], length, self.first.input_size)
        return self.first(zeros, first)

    def write_word(
        self, before: Int64[Tensor, "N"], h1: Float[Tensor, "N H"], second: State
    ) -> tuple[Float[Tensor, "N V"], State]:
        """One step of writing.

        Args:
            before: the word before; V at the beginning.
            h1: the state of the first layer at this step.
            second: of the second layer after the step before.

        Returns:
            The logits of the word, and the state of the second layer.
        """
        states, second = self.second(torch.cat([self.embed_word(before), h1], 1).unsqueeze(1), second)
        return self.output(states[:, 0]), second

    @torch.no_grad()
    def set_prior(self, counts: Float[Tensor, "V"]) -> None:
        """Start at the words' log frequencies: what is not seen counts as half an occurrence."""
        self.output.bias.copy_((counts.clamp(min=0.5) / counts.clamp(min=0.5).sum()).log())

    def _beside_zero_words(self, h1: Tensor) -> Tensor:
        return torch.cat([h1.new_zeros(*h1.shape[:-1], self.embed_word.embedding_dim), h1], -1)

    def _write_by_sampling(
        self,
        before: Int64[Tensor, "N L"],
        h1: Float[Tensor, "N L H"],
        second: State,
        sampling_rate: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "N L H"]:
        """The states of the second layer where some of the words before are the model's own."""
        states = []
        word = before[:, 0]
        for place in range(before.shape[1]):
            embedded = self._drop(self.embed_word(word), generator)
            state, second = self.second(torch.cat([embedded, h1[:, place]], 1).unsqueeze(1), second)
            states.append(state)
            if place + 1 < before.shape[1]:
                with torch.no_grad():
                    p = self.output(state[:, 0]).softmax(1)
                    own = torch.multinomial(p, 1, generator=generator)[:, 0]
                    chance = torch.rand(own.shape, generator=generator, device=own.device)
                word = torch.where(chance < sampling_rate, own, before[:, place + 1])
        return torch.cat(states, 1)

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not (self.training and self.dropout):
            return x
        kept = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) >= self.dropout
        return x * kept / (1 - self.dropout)
