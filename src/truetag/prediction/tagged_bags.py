"""The growing table of tags, a batch of bags at a time."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from truetag.data.bags import MediaBags
from truetag.io.files import readable
from truetag.io.fingerprints import fingerprint
from truetag.io.signals import stoppable
from truetag.io.terminal import Progress
from truetag.media.files import Reading
from truetag.models.building import load_classifier
from truetag.prediction.choice import Choice
from truetag.prediction.inference import BATCH_SIZE, feature_batches
from truetag.prediction.table import PartialTable, Tagged
from truetag.runs.folder import Run

_FLUSH_SECONDS = 10.0


def fingerprint_of(run: Run, bags: MediaBags, choice: Choice) -> str:
    """A fingerprint of all that the table depends on: the run, the photos' names, sizes and times, the options."""

    def parts() -> Iterator[str | bytes]:
        yield json.dumps([choice.threshold, choice.top_k, choice.labels, BATCH_SIZE, bags.ids])
        yield bags.starts.tobytes()
        yield run.digest
        yield from bags.frames.signatures()

    return fingerprint(parts())


def tag_bags(run: Run, bags: MediaBags, choice: Choice, table: PartialTable, reading: Reading) -> None:
    """Add the bags that the table lacks.

    Args:
        run: the run whose classifier tags.
        bags: all bags.
        choice: which tags are written.
        table: the table of the bags that are tagged already.
        reading: where features are cached.

    Raises:
        InputError: too many photos cannot be used.
        KeyboardInterrupt: after Ctrl-C (SystemExit after SIGTERM), once all tagged bags are on disk.
    """
    classifier = load_classifier(run)
    flushed = time.monotonic()
    batches = feature_batches(run, classifier, bags, reading, table.skips.total, table.num_done)
    with torch.inference_mode(), Progress("tagging", len(bags)) as progress, stoppable() as stop:
        progress.advance(table.num_done)
        for batch in batches:
            rows = []
            if batch.features is not None:
                logits, _ = classifier(batch.features, batch.mask)
                rows = _choose_tags(bags, batch.indices, logits.sigmoid().cpu(), run.vocabulary.words, choice)
            table.add(batch.num_bags, rows, batch.skipped)
            progress.advance(batch.num_bags)
            if stop.requested or time.monotonic() - flushed > _FLUSH_SECONDS:
                table.flush()
                flushed = time.monotonic()
            if stop.requested:
                progress.say(f"stopped after {table.num_done} of {len(bags)}: the same command goes on from there")
            stop.check()
    table.flush()


def _without_dots(path: Path) -> Path:
    """A path of a manifest's media folder leads over `..`: where it ends is clearer."""
    return path.resolve() if ".." in path.parts else path


def _choose_tags(
    bags: MediaBags,
    indices: Sequence[int],
    probabilities: Float[Tensor, "B K"],
    words: Sequence[str],
    choice: Choice,
) -> list[Tagged]:
    """The rows of the table for some bags.

    Args:
        bags: all bags.
        indices: the indices of B bags.
        probabilities: their probabilities.
        words: the labels.
        choice: which tags are written.
    """
    rows = []
    for index, (labels, values) in zip(indices, choice.indices(probabilities), strict=True):
        rows.append(
            {
                "id": bags.ids[index],
                "path": readable(str(_without_dots(bags.paths[index]))),
                "tags": [words[label] for label in labels],
                "probabilities": [round(value, 6) for value in values],
            }
        )
    return rows
