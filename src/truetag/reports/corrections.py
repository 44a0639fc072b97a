"""What truetag changes in the tags of photos, beside the truth: words that it keeps, takes away and adds."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class CorrectedPhoto:
    """The words of one photo: observed, true, and what becomes of them."""

    observed: list[str]
    true: list[str]
    kept: list[str]
    removed: list[str]
    added: list[str]

    @property
    def num_changes(self) -> int:
        """Words taken away and added."""
        return len(self.removed) + len(self.added)

    @property
    def num_right_changes(self) -> int:
        """Words taken away that were wrong, and words added that are true."""
        return len(set(self.removed) - set(self.true)) + len(set(self.added) & set(self.true))


@dataclass(frozen=True)
class Corrections:
    """The photos, and over all of them how many words are removed and added, and the shares that are right to be."""

    photos: list[CorrectedPhoto]
    num_removed: int
    removed_right: float
    num_added: int
    added_right: float


def correct_tags(
    words: tuple[str, ...],
    observed: Shaped[Tensor, "N K"],
    true: Shaped[Tensor, "N K"],
    posterior: Float[Tensor, "N K"],
    shown: Bool[Tensor, "K"],
) -> Corrections:
    """Tags of probability p(y=1|z,I) at least 1/2 instead of those observed.

    Args:
        words: the K words.
        observed: the tags as they are, 1 where a word is named.
        true: the exact truth, 1 where a word holds.
        posterior: p(y=1|z,I), out of sample.
        shown: the words that count and are shown.

    >>> import torch
    >>> observed, true = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 1]])
    >>> shown = torch.tensor([True, True, True])
    >>> correct_tags(("dog", "cat", "sky"), observed, true, torch.tensor([[0.9, 0.2, 0.8]]), shown).photos[0].removed
    ['cat']
    """
    is_observed, is_true, is_given = ((part & shown) for part in (observed == 1, true == 1, posterior >= 0.5))
    kept, removed, added = is_observed & is_given, is_observed & ~is_given, ~is_observed & is_given
    named = [[_named(words, row) for row in part] for part in (is_observed, is_true, kept, removed, added)]
    return Corrections(
        [CorrectedPhoto(*photo) for photo in zip(*named, strict=True)],
        int(removed.sum()),
        _share(removed & ~is_true, removed),
        int(added.sum()),
        _share(added & is_true, added),
    )


def _named(words: tuple[str, ...], holds: Bool[Tensor, "K"]) -> list[str]:
    return [words[index] for index in holds.nonzero().flatten().tolist()]


def _share(part: Bool[Tensor, "N K"], whole: Bool[Tensor, "N K"]) -> float:
    """0 where there is nothing to take a share of."""
    return int(part.sum()) / max(int(whole.sum()), 1)
