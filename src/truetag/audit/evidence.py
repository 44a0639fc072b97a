"""What an audit looks at: examples with features or probabilities, their labels, and the records behind these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import sparse
from torch import Tensor

from truetag.label_noise.settings import HeadSettings


@dataclass(frozen=True)
class Records:
    """What was said of the examples at once: captions, and lists of tags."""

    words: sparse.csr_array
    """[S, K], 1 where a record names a label."""
    bags: Int64[np.ndarray, "S"]
    """The index of each record's example."""
    texts: Sequence[str]
    """S captions, and the tags of each list."""
    is_caption: Bool[np.ndarray, "S"]


@dataclass(frozen=True)
class Evidence:
    """N examples and K labels."""

    ids: Sequence[str]
    labels: Float[Tensor, "N K"]
    """Observed: 1, 0, and -1 for unknown."""
    vocabulary: tuple[str, ...]
    """The K names."""
    records: Records
    features: Float[Tensor, "N D"] | None = None
    """None where `logits` are given."""
    logits: Float[Tensor, "N K"] | None = None
    """Of models that did not see the example."""
    groups: Sequence[str | None] | None = None
    """Near-duplicates."""
    decided: Bool[Tensor, "N K"] | None = None
    """The labels that a person has decided: they are right."""
    is_listed: Bool[np.ndarray, "K"] | None = None
    """The labels whose issues are listed; the others are evidence alone. None: all."""
    files: Sequence[str | None] | None = None
    """The photo or clip of each example, as the manifest names it."""
    sources: Sequence[Mapping[int, str]] | None = None
    """Where each given label of an example comes from, by the label's index."""
    settings: HeadSettings | None = None
    """How heads are trained; None: chosen on held-out labels."""
