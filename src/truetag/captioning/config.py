"""Every setting of a captioner's training: one flat frozen dataclass, written into its folder as JSON.

The paper gives the sizes of states and embeddings and the number of words [Sec. 3.4]; everything else is inferred from
what is usual, and marked so.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from truetag.runs.config import require, require_choices


@dataclass(frozen=True)
class CaptionConfig:
    """The settings of one captioner.

    Raises:
        InputError: a value is outside its range.
    """

    SECTIONS: ClassVar = {"network": "state_size", "captions": "captions", "schedule": "epochs", "machine": "select"}
    """The groups of the help, each with its first setting."""

    # the network
    state_size: int = 700
    """Size of the states of both LSTMs (the paper's)."""
    frame_size: int = 700
    """Size of the embedding of a frame's features (the paper's)."""
    word_size: int = 300
    """Size of the embedding of a word (the paper's)."""
    dropout: float = 0.5
    """Probability that an entry of an embedding, or of the state that words are read from, is dropped (inferred)."""

    # the captions
    captions: Literal["all", "one"] = "all"
    """Which captions of a clip an epoch sees: all, or one that is drawn (inferred)."""
    min_count: int = 1
    """Words that the training captions have less often are unknown (the paper's 23,647 words leave out hardly any)."""
    max_words: int = 30
    """Learn the first so many words of a caption (inferred)."""

    # the schedule
    epochs: int = 15
    """Times that every clip is seen (inferred)."""
    batch_size: int = 16
    """Clips per step, each with its captions (inferred)."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam, between a linear warm-up and a cosine to zero (inferred)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices (inferred)."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all words (inferred)."""
    scheduled_sampling: float = 0.0
    """Probability, in the last epoch, that the word before is the captioner's own guess; it grows from 0 (inferred)."""
    gradient_clip: float = 5.0
    """Largest norm of the gradient; 0: any (inferred)."""

    # the choice of the epoch, and the machine
    select: Literal["cider", "loss", "last"] = "cider"
    """Keep the epoch whose greedy sentences have the best CIDEr on validation captions, the one with the lowest loss on
    them, or the last (inferred)."""
    validation_fraction: float = 0.1
    """Share of the training rows to hold out where the manifest has no validation split."""
    seed: int = 0
    """Decides the order of clips, dropout, initial weights and the held-out part."""
    checkpoint_seconds: float = 60.0
    """Seconds between the checkpoints that `--resume` continues from."""

    def __post_init__(self) -> None:
        """Check every range once, here."""
        for name in ("dropout", "label_smoothing", "validation_fraction"):
            require(self, name, lambda value: 0 <= value < 1, "a number from 0 to below 1")
        require(self, "scheduled_sampling", lambda value: 0 <= value <= 1, "a number from 0 to 1")
        for name in ("state_size", "frame_size", "word_size", "min_count", "max_words", "epochs", "batch_size"):
            require(self, name, lambda value: value >= 1, "1 or more")
        require(self, "learning_rate", lambda value: value > 0, "a number above 0")
        for name in ("weight_decay", "gradient_clip", "checkpoint_seconds"):
            require(self, name, lambda value: value >= 0, "0 or more")
        require(self, "seed", lambda value: 0 <= value < 2**31, "a whole number from 0 to below 2^31")
        require_choices(self)
