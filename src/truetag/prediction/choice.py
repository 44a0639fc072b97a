"""Which tags of a photo are written: those that are likely enough, as far as they are words of their own."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from truetag.data import vocabulary
from truetag.evaluation.decisions import DEFAULT_THRESHOLD
from truetag.io.terminal import tell
from truetag.prediction.inputs import check_choice
from truetag.runs.folder import Run

_NAMED_WORDS = 5


@dataclass(frozen=True)
class Choice:
    """Of the `labels`, the `top_k` likeliest whose probability is high enough."""

    threshold: float
    top_k: int
    labels: list[int]
    """The indices of the words that may be written at all."""
    messages: tuple[str, ...] = ()
    """What was decided without being asked for, in words."""

    def tell(self) -> None:
        """Say what was decided without being asked for."""
        for message in self.messages:
            tell(message)

    def indices(self, probabilities: Float[Tensor, "B K"]) -> list[tuple[list[int], list[float]]]:
        """The chosen labels of each photo and their probabilities, the likeliest first."""
        values, positions = probabilities[:, self.labels].topk(self.top_k, dim=1)  # [B, top_k]
        counts = (values >= self.threshold).sum(1).tolist()
        return [
            ([self.labels[position] for position in row[:count]], of_row[:count])
            for row, of_row, count in zip(positions.tolist(), values.tolist(), counts, strict=True)
        ]


def make_choice(run: Run, threshold: float | None, top_k: int | None, function_words: bool) -> Choice:
    """Which tags are written.

    Args:
        run: its threshold and vocabulary.
        threshold: None for the one that training chose, or 0.5 where it chose none, or 0 if `top_k` is given.
        top_k: None for as many as are likely enough.
        function_words: whether articles, prepositions, numbers and the like may be written.

    Raises:
        InputError: the run's threshold.json is broken, or an option is out of range.
    """
    check_choice(threshold, top_k)
    messages = []
    if threshold is None and top_k:
        threshold = 0.0
    elif threshold is None:
        chosen = run.threshold()
        threshold = DEFAULT_THRESHOLD if chosen is None else chosen
        reason = "the run has chosen none itself" if chosen is None else "which training chose on the validation tags"
        messages.append(f"threshold: {threshold:.3f}, {reason}; --threshold sets another")
    words = run.vocabulary.words
    left_out = [] if function_words else vocabulary.function_words(run.vocabulary)
    if left_out:
        some = ", ".join(left_out[:_NAMED_WORDS]) + (", .." if len(left_out) > _NAMED_WORDS else "")
        what = "function words, numbers and letters are not written as tags"
        messages.append(f"{len(left_out)} {what} ({some}); --function-words writes them, too")
    labels = sorted(set(range(len(words))) - {run.vocabulary.index[word] for word in left_out})
    return Choice(threshold, min(top_k or len(labels), len(labels)), labels, tuple(messages))
