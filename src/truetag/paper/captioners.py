"""Table 4: a captioner on the concepts of each of three runs of Table 3, scored as the paper scores it.

The paper says nothing of how the captioner's epoch was chosen, and scores the validation clips: here the last epoch is
kept, so that no choice is made on what is scored.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from truetag.captioning.config import CaptionConfig
from truetag.captioning.evaluate import evaluate_captions
from truetag.captioning.sentences import caption_tokens
from truetag.captioning.train import train_captioner
from truetag.data.manifest import iterate_rows
from truetag.data.vocabulary import read_vocabulary
from truetag.errors import InputError
from truetag.io.terminal import tell
from truetag.io.text import counted, duration, file_size
from truetag.models.captioner import Captioner
from truetag.paper.plan import Reproduction
from truetag.paper.tables import CAPTION_COLUMNS, Row
from truetag.runs.config import config_from_dict

_SCORES = ("cider", "bleu_4", "rouge_l", "meteor")
_COPIES_OF_WEIGHTS = 9  # the result, and two checkpoints with weights, best weights and two states of the optimiser


def caption_config(settings: Mapping[str, str] | None, seed: int) -> CaptionConfig:
    """The captioner's settings: the paper's and the usual ones, but for those given as text.

    Raises:
        InputError: a name is not a setting, or a value is not one of its values.
    """
    values: dict[str, Any] = {}
    for name, text in (settings or {}).items():
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    try:
        return replace(config_from_dict({"select": "last"} | values, CaptionConfig), seed=seed)
    except InputError as error:
        raise InputError(f"captioner: {error}") from None


def captioner_folder(reproduction: Reproduction, row: Row) -> Path:
    """The captioner on a row's concepts, beside its run."""
    assert row.recipe is not None
    run = reproduction.run_folder(row, row.recipe)
    return run.parent / "captioners" / run.name


def train_and_score(reproduction: Reproduction, row: Row, config: CaptionConfig) -> None:
    """Train the captioner on the concepts of a row's run, and score it; finished steps are skipped.

    Args:
        reproduction: holds the run.
        row: of Table 4.
        config: the settings.
    """
    assert row.recipe is not None
    corpus, folder = reproduction.corpus, captioner_folder(reproduction, row)
    run = reproduction.run_folder(row, row.recipe)
    tell(f"{folder.parent.parent.name}: captioner on {row.recipe}")
    train_captioner(config, corpus.manifest, folder, run=run, resume=True, reading=reproduction.reading)
    if not reproduction.metrics_path(folder).exists():
        evaluate_captions(folder, corpus.manifest, corpus.scored_split, reading=reproduction.reading)


def compare_captioners(reproductions: Sequence[Reproduction]) -> list[dict[str, Any]]:
    """One line per row: the published numbers and ours, times 100 and in the order of `CAPTION_COLUMNS`.

    Of several seeds ours are means, and "spread" holds the standard deviations.
    """
    lines = []
    for row in reproductions[0].rows:
        line: dict[str, Any] = {"model": row.label, "level": row.level, "paper": row.published, "ours": None}
        if row.recipe is not None:
            each = [json.loads(one.metrics_path(captioner_folder(one, row)).read_text()) for one in reproductions]
            columns = [[metrics[name] for metrics in each] for name in _SCORES]
            line["ours"] = [None if None in values else 100 * fmean(values) for values in columns]
            if len(each) > 1:
                line["spread"] = [None if None in values else 100 * stdev(values) for values in columns]
        lines.append(line)
    assert all(len(line["paper"]) == len(CAPTION_COLUMNS) for line in lines)
    return lines


def describe_captioners(reproductions: Sequence[Reproduction], config: CaptionConfig) -> str:
    """One sentence on the captioners that remain: how many, their time and disk; one step is timed on this machine."""
    remaining = [
        row
        for one in reproductions
        for row in one.rows
        if row.recipe and not (captioner_folder(one, row) / "captioner.safetensors").is_file()
    ]
    if not remaining:
        return "every captioner is finished"
    corpus = reproductions[0].corpus
    clips = [
        row["captions"] for row in iterate_rows(corpus.manifest) if row["split"] == "train" and row.get("captions")
    ]
    tokens = [caption_tokens(text) for captions in clips for text in captions]
    num_words = len({token for caption in tokens for token in caption})
    num_frames = reproductions[0].config.num_frames
    captioner = Captioner(
        len(read_vocabulary(corpus.vocabulary)), num_words + 2, config.state_size, config.frame_size, config.word_size
    )
    num_captions = max(1, round(config.batch_size * (len(tokens) / len(clips) if config.captions == "all" else 1)))
    length = 1 + round(fmean(map(len, tokens)))
    seconds = _time_step(captioner, config.batch_size, num_frames, num_captions, length)
    steps = config.epochs * -(-len(clips) // config.batch_size)
    weights = sum(parameter.nbytes for parameter in captioner.parameters())
    disk = len(remaining) * weights + _COPIES_OF_WEIGHTS * weights
    runs = f"{counted(len(remaining), 'captioner')} with {num_words:,} words on the captions of {len(clips):,} clips"
    time_left = duration(len(remaining) * steps * seconds)
    return f"{runs}: about {time_left} on this machine, and {file_size(disk)} of disk"


def _time_step(captioner: Captioner, num_clips: int, num_frames: int, num_captions: int, length: int) -> float:
    """The seconds of one step on random numbers."""
    captioner.to("cuda" if torch.cuda.is_available() else "cpu")
    device = captioner.output.bias.device
    frames = torch.rand(num_clips, num_frames, captioner.embed_frame.in_features, device=device)
    words = torch.ones(num_captions, length, dtype=torch.int64, device=device)
    clips = torch.arange(num_captions, device=device) % num_clips
    lengths = torch.full((num_clips,), num_frames, device=device)
    times = []
    for _ in range(2):
        started = time.perf_counter()
        captioner(frames, lengths, clips, words, words > 0).logsumexp(1).mean().backward()
        times.append(time.perf_counter() - started)
    return times[-1]
