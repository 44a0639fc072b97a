"""The clips that a captioner learns from: their frames, their captions, and batches of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from truetag.captioning.config import CaptionConfig
from truetag.captioning.frames import FrameFeatures, Source
from truetag.captioning.sentences import caption_tokens
from truetag.data.manifest import Manifest
from truetag.errors import InputError
from truetag.io.fingerprints import fingerprint
from truetag.io.terminal import tell
from truetag.io.text import counted
from truetag.media.files import Reading, SkipList, Skipped
from truetag.models.captioner import END
from truetag.training.preparation import hold_out, rows_to_learn_from


@dataclass(frozen=True)
class CaptionedClips:
    """N clips with their frames and the tokens of their captions."""

    ids: list[str]
    frames: FrameFeatures
    captions: list[list[list[str]]]

    def fingerprint(self) -> str:
        """Of all that is learnt from."""
        return fingerprint([self.frames.fingerprint(), repr(self.captions)])


def choose_rows(manifest: Manifest, config: CaptionConfig) -> tuple[list[int], list[int]]:
    """The rows to train and to validate on; without validation rows some are held out, groups together.

    Returns:
        The indices of both.
    """
    train, validation = rows_to_learn_from(manifest)
    if validation:
        return train, validation
    kept, held_out = hold_out(manifest, train, torch.zeros(len(train), 1), config.validation_fraction, config.seed)
    return [train[index] for index in kept], [train[index] for index in held_out]


def read_clips(
    manifest: Manifest, indices: Sequence[int], source: Source, reading: Reading, skips: SkipList, part: str
) -> CaptionedClips:
    """The clips of some rows that have captions and frames.

    Args:
        manifest: the manifest.
        indices: of its rows.
        source: where the features come from.
        reading: how photos and clips are read.
        skips: gets the clips that cannot be used.
        part: what the rows are for, for messages.

    Raises:
        InputError: no row has a caption.
    """
    rows: Dataset = manifest.rows.select(indices)
    captions = [[caption_tokens(text) for text in texts or []] for texts in rows["captions"][:]]
    num_empty = sum(not tokens for of_clip in captions for tokens in of_clip)
    captions = [[tokens for tokens in of_clip if tokens] for of_clip in captions]
    with_captions = [row for row, of_clip in enumerate(captions) if of_clip]
    if num_empty:
        tell(f"{counted(num_empty, 'caption')} of {part} rows without a word left out")
    if not with_captions:
        raise InputError(f"{manifest.path}: expected captions in its {part} rows, got none in {len(rows)} rows")
    if silent := [row for row, of_clip in enumerate(captions) if not of_clip]:
        tell(f"{counted(len(silent), f'{part} row')} without captions left out")
        for name in rows.select(silent)["id"][:]:
            skips.list_only(Skipped(name, manifest.path, "no captions"))
    rows = rows.select(with_captions)
    frames = source.read(manifest, rows, reading, skips)
    if not len(frames):
        raise InputError(f"{manifest.path}: none of its {len(rows)} {part} clips can be used")
    ids = rows["id"][:]
    return CaptionedClips(
        [ids[row] for row in frames.rows], frames, [captions[with_captions[row]] for row in frames.rows]
    )


class CaptionBatch(NamedTuple):
    """B clips and N of their captions: the arguments of a captioner's `forward`."""

    frames: Float[Tensor, "B T D"]
    lengths: Int64[Tensor, "B"]
    clips: Int64[Tensor, "N"]
    words: Int64[Tensor, "N L"]
    wanted: Bool[Tensor, "N L"]

    def to(self, device: torch.device) -> "CaptionBatch":
        """The batch on a device."""
        return CaptionBatch(*(tensor.to(device) for tensor in self))


def make_batch(
    frames: FrameFeatures,
    captions: Sequence[Sequence[Sequence[int]]],
    clips: Sequence[int],
    generator: torch.Generator | None = None,
) -> CaptionBatch | None:
    """The frames and captions of some clips.

    Args:
        frames: of all clips.
        captions: the numbers of each caption of each clip, its end among them.
        clips: the indices of those wanted.
        generator: draws one caption of each clip; None takes all.

    Returns:
        None where none of these clips has a caption.
    """
    chosen: list[tuple[int, Sequence[int]]] = []
    for index, clip in enumerate(clips):
        of_clip = captions[clip]
        if generator is not None and of_clip:
            device = generator.device
            of_clip = [of_clip[int(torch.randint(len(of_clip), (1,), generator=generator, device=device))]]
        chosen += [(index, caption) for caption in of_clip]
    if not chosen:
        return None
    words = pad_sequence([torch.tensor(caption) for _, caption in chosen], batch_first=True, padding_value=END)
    num_wanted = torch.tensor([len(caption) for _, caption in chosen])
    wanted = torch.arange(words.shape[1]) < num_wanted.unsqueeze(1)
    features, lengths = frames.batch(clips)
    return CaptionBatch(features, lengths, torch.tensor([index for index, _ in chosen]), words, wanted)
