"""`truetag reproduce`: the paper's tables and figures from the official files, each number beside the published one.

    OUT/coco | msrvtt    manifests and vocabulary        OUT/runs/DATA-swapK[-frame]/RECIPE     the runs
    OUT/table1.md ..     what came out                   OUT/index.html                         all of it so far

Every step is skipped where its result is there, and a run that was stopped goes on where it was; so the same command
goes on with a reproduction, and the tables share their runs.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from truetag import __version__
from truetag.data.corruption import corrupt
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.errors import InputError
from truetag.evaluate import evaluate
from truetag.io.files import write_json, write_text
from truetag.io.terminal import tell
from truetag.io.text import decode, parse_json
from truetag.media.files import Reading
from truetag.paper.corpora import Corpus, prepare_corpus
from truetag.paper.plan import Job, describe, measure
from truetag.paper.tables import COLUMNS, TABLE1, TABLE2, TABLE3, Row
from truetag.reports.figures import plot_gradients, plot_tagged_photos
from truetag.reports.page import inline_photo, write_page
from truetag.reports.tagged_photos import tag_photos
from truetag.runs.config import MACHINE_SETTINGS, TrainConfig
from truetag.runs.folder import is_run, open_run
from truetag.training.recipes import CLIP_SETTINGS, SCHEDULE, RecipeName, settings_of, stage1_of
from truetag.training.train import train

Target = Literal["table1", "table2", "table3", "figure3", "figure4"]
TABLES = {"table1": TABLE1, "table2": TABLE2, "table3": TABLE3}
TITLES = {
    "table1": "Table 1. COCO, AP by part of speech",
    "table2": "Table 2. COCO, captions swapped, AP by part of speech",
    "table3": "Table 3. MSR-VTT, validation clips, AP by part of speech",
    "figure3": "Figure 3. Gradient of the loss on the logit",
    "figure4": "Figure 4. Photos with their words, trained on 40 % swapped captions",
}
FIGURE4_ROWS = (Row("VGG16*", "mlcn-star", (), 2), Row("FD", "nmn-fd", (), 2))
FIGURE4_PARTS = ("VB", "NN", "JJ")
NUM_PHOTOS = 8


def reproduce(
    target: Target,
    out: Path,
    data: Path | None = None,
    config: TrainConfig = SCHEDULE,
    vocabulary: Path | None = None,
    num_words: int | None = None,
    plan_only: bool = False,
    reading: Reading = Reading(),
) -> str:
    """Run a table or figure of the paper and set it beside what was published. Give the command again to go on.

    Args:
        target: table1, table2 and figure4 need COCO 2014, table3 needs MSR-VTT 2016, figure3 needs no data.
        out: the folder of the reproduction; targets share it, and their runs.
        data: where the official files are. COCO: annotations/captions_{train,val}2014.json, train2014/ and val2014/.
            MSR-VTT: train_val_videodatainfo.json and TrainValVideo/.
        config: the schedule of every run, the paper's unless changed here; the rows decide pooling and noise model.
        vocabulary: a word list instead of the most frequent words of the training captions.
        num_words: words of the vocabulary; 1,000 for COCO and 1,087 for MSR-VTT.
        plan_only: tell what is left to do, with time and disk, and stop.
        reading: how photos and clips are read.

    Returns:
        The table, or where the figure is.
    """
    if target == "figure3":
        out.mkdir(parents=True, exist_ok=True)
        plot_gradients().savefig(out / "figure3.png", dpi=150)
        _write_index(out)
        return f"{out / 'figure3.png'}"
    if data is None:
        raise InputError(f"data: {target} needs the folder of the official files, got none")
    rows = FIGURE4_ROWS if target == "figure4" else TABLES[target]
    if target == "table3":
        config = replace(
            config, **{name: value for name, value in CLIP_SETTINGS.items() if _is_untouched(config, name)}
        )
    for name in ("pooling", "level", "noise_model"):
        if not _is_untouched(config, name):
            raise InputError(f"{name}: the rows of {target} decide it, got {getattr(config, name)!r}")
    corpus = (
        Corpus("msrvtt", out / "msrvtt", "validation") if target == "table3" else Corpus("coco", out / "coco", "test")
    )
    words = None if vocabulary is None else str(vocabulary.resolve())
    source = {"data": str(data.resolve()), "vocabulary": words, "num_words": num_words}
    _check_settings(corpus.folder / "data.json", source)
    prepare_corpus(corpus, data, vocabulary, num_words)
    tell(_plan(out, corpus, rows, config))
    if plan_only:
        return "nothing was trained: --plan-only"
    learnt = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_SETTINGS}
    _check_settings(out / "runs" / f"{corpus.name}.json", learnt)
    for row in rows:
        if row.recipe is not None:
            _run(out, corpus, row, config, reading)
    if target == "figure4":
        _draw_figure4(out, corpus, reading)
        text = f"{out / 'figure4.png'}"
    else:
        lines = _compare(out, corpus, rows)
        write_json(out / f"{target}.json", lines)
        text = _markdown(lines)
        write_text(out / f"{target}.md", f"# {TITLES[target]}\n\n{text}\n")
    _write_index(out)
    return text


def _is_untouched(config: TrainConfig, name: str) -> bool:
    return getattr(config, name) == getattr(SCHEDULE, name)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with other settings: half of a table would be of these and half of those."""
    if not path.exists():
        write_json(path, settings)
        return
    before = parse_json(decode(str(path), path.read_bytes()))
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputError(
                f"{path.parent} was begun with {name} {before.get(name)!r}, got {value!r}; give a new --out"
            )


def _folder(out: Path, corpus: Corpus, row: Row, recipe: RecipeName) -> Path:
    level = "-frame" if row.level == "frame" else ""
    return out / "runs" / f"{corpus.name}-swap{row.num_swapped}{level}" / recipe


def _jobs(out: Path, corpus: Corpus, rows: Sequence[Row]) -> list[tuple[Row, RecipeName]]:
    """What is to be trained, in order, each once: stage 1 before those that take it over."""
    wanted: dict[Path, tuple[Row, RecipeName]] = {}
    for row in rows:
        for recipe in (row.recipe and stage1_of(row.recipe), row.recipe):
            if recipe is not None:
                wanted.setdefault(_folder(out, corpus, row, recipe), (row, recipe))
    return [job for folder, job in wanted.items() if not (is_run(folder) and open_run(folder).is_finished)]


def _plan(out: Path, corpus: Corpus, rows: Sequence[Row], config: TrainConfig) -> str:
    jobs = _jobs(out, corpus, rows)
    if not jobs:
        return "every run is there"
    splits = read_manifest(corpus.manifest).rows["split"][:]
    counts = [splits.count(split) for split in ("train", "validation", corpus.scored_split)]
    some = [Job(settings_of(recipe, config, row.level), stage1_of(recipe) is not None) for row, recipe in jobs]
    num_words = len(read_vocabulary(corpus.vocabulary))
    return describe(some, measure(config, num_words), config.num_frames if corpus.name == "msrvtt" else 1, *counts)


def _run(out: Path, corpus: Corpus, row: Row, config: TrainConfig, reading: Reading) -> None:
    manifest = corpus.manifest
    if row.num_swapped:
        manifest = corpus.folder / f"swap{row.num_swapped}.jsonl"
        if not manifest.exists():
            corrupt(
                corpus.manifest,
                manifest,
                swap_captions=row.num_swapped,
                vocabulary=corpus.vocabulary,
                seed=config.seed,
            )
    for _, recipe in _jobs(out, corpus, [row]):
        folder = _folder(out, corpus, row, recipe)
        tell(f"{folder.parent.name}: {recipe}")
        first = stage1_of(recipe)
        start_from = None if first is None else _folder(out, corpus, row, first)
        settings = settings_of(recipe, config, row.level)
        train(settings, manifest, corpus.vocabulary, folder, start_from, resume=True, reading=reading)
    assert row.recipe is not None
    folder = _folder(out, corpus, row, row.recipe)
    if not _metrics_path(folder, corpus).exists():
        evaluate(folder, corpus.manifest, corpus.scored_split, "captions", reading=reading)


def _metrics_path(folder: Path, corpus: Corpus) -> Path:
    return folder / "metrics" / f"{corpus.manifest.stem}-{corpus.scored_split}.json"


def _compare(out: Path, corpus: Corpus, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line a row: what was published and what came out, in percent, in the order of `COLUMNS`."""
    lines = []
    for row in rows:
        ours: list[float | None] | None = None
        if row.recipe is not None:
            metrics = json.loads(_metrics_path(_folder(out, corpus, row, row.recipe), corpus).read_text())
            scores = metrics["observed"] if row.observed else metrics
            parts = [scores["by_pos"].get(part, {}).get("count_mean_ap") for part in COLUMNS[:-1]]
            ours = [None if value is None else 100 * value for value in [*parts, scores["count_mean_ap"]]]
        noise = f"{20 * row.num_swapped} %: " if row.num_swapped else ""
        lines.append({"model": noise + row.label, "level": row.level, "paper": row.published, "ours": ours})
    return lines


def _markdown(lines: list[dict[str, Any]]) -> str:
    table = [f"| model | | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for line in lines:
        level = "frame level: " if line["level"] == "frame" else ""
        for who in ("paper", "ours") if line["ours"] else ("paper",):
            cells = ["–" if value is None else f"{value:.2f}" for value in line[who]]
            table.append(f"| {level + line['model'] if who == 'paper' else ''} | {who} | {' | '.join(cells)} |")
    return "\n".join(table)


def _draw_figure4(out: Path, corpus: Corpus, reading: Reading) -> None:
    runs = {
        row.label: open_run(_folder(out, corpus, row, row.recipe)) for row in FIGURE4_ROWS if row.recipe is not None
    }
    manifest = read_manifest(corpus.manifest)
    scored = manifest.in_split(corpus.scored_split)
    drawn = np.random.default_rng(0).permutation(len(scored))[:NUM_PHOTOS]  # no choosing of the nicest
    some = replace(manifest, rows=scored.select(sorted(drawn.tolist())))
    photos = tag_photos(some, runs, "captions", None, FIGURE4_PARTS, reading)
    plot_tagged_photos(photos).savefig(out / "figure4.png", dpi=150, bbox_inches="tight")


def _write_index(out: Path) -> None:
    """One page of all that is there."""
    tables = {TITLES[name]: json.loads(path.read_text()) for name in TABLES if (path := out / f"{name}.json").exists()}
    figures = {
        TITLES[name]: inline_photo(path) for name in ("figure3", "figure4") if (path := out / f"{name}.png").exists()
    }
    settings = {
        corpus: {
            name: value
            for name, value in json.loads(path.read_text()).items()
            if value != getattr(SCHEDULE, name) and not (corpus == "msrvtt" and CLIP_SETTINGS.get(name) == value)
        }
        for corpus in ("coco", "msrvtt")
        if (path := out / "runs" / f"{corpus}.json").exists()
    }
    write_page(
        out / "index.html",
        "reproduction.html",
        columns=COLUMNS,
        tables=tables,
        figures=figures,
        settings=settings,
        version=__version__,
    )
