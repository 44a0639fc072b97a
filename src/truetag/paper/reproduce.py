"""`truetag reproduce`: the paper's tables and figures from the official files, each number beside the published one.

    OUT/coco | msrvtt    manifests and vocabulary        OUT/runs/DATA-swapK[-frame]/RECIPE     the runs
    OUT/table1.md ..     the results                     OUT/index.html                         all results so far

A step whose result exists is skipped, and an interrupted run resumes from its last checkpoint. The same command
therefore continues a reproduction, and the tables share their runs.
"""

import dataclasses
import json
from dataclasses import dataclass, replace
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
from truetag.media.files import MAX_SKIPPED
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


@dataclass(frozen=True)
class Reproduction:
    """A table or figure to reproduce: its data, its rows, and how their runs are trained."""

    out: Path
    corpus: Corpus
    rows: tuple[Row, ...]
    config: TrainConfig
    """The schedule; each row sets its own pooling and noise model."""
    cache: Path | None
    max_skipped: float

    def run_folder(self, row: Row, recipe: RecipeName) -> Path:
        """The run of a recipe on a row's data."""
        level = "-frame" if row.level == "frame" else ""
        return self.out / "runs" / f"{self.corpus.name}-swap{row.num_swapped}{level}" / recipe

    def metrics_path(self, run_folder: Path) -> Path:
        """The scores of a run on the split that the paper reports."""
        return run_folder / "metrics" / f"{self.corpus.manifest.stem}-{self.corpus.scored_split}.json"


def reproduce(
    target: Target,
    out: Path,
    data: Path | None = None,
    config: TrainConfig = SCHEDULE,
    vocabulary: Path | None = None,
    num_words: int | None = None,
    plan_only: bool = False,
    cache: Path | None = None,
    max_skipped: float = MAX_SKIPPED,
) -> str:
    """Reproduce a table or figure of the paper beside the published numbers; repeat the command to continue.

    Args:
        target: table1, table2 and figure4 need COCO 2014, table3 needs MSR-VTT 2016, figure3 needs no data.
        out: the folder of the reproduction; targets share it and its runs.
        data: the folder of the official files. COCO: annotations/captions_{train,val}2014.json, train2014/ and
            val2014/. MSR-VTT: train_val_videodatainfo.json and TrainValVideo/.
        config: the schedule of every run, the paper's unless changed here; the rows decide pooling and noise model.
        vocabulary: a word list to use instead of the most frequent words of the training captions.
        num_words: the size of the vocabulary; by default 1,000 for COCO and 1,087 for MSR-VTT.
        plan_only: show the remaining work with its time and disk space, and stop.
        cache: where features and frames are cached; by default in the user's cache folder.
        max_skipped: stop if more than this share of the photos cannot be used.

    Returns:
        The table, or the path of the figure.

    Raises:
        InputError: data is missing or malformed, a setting is one that the rows decide, or the reproduction was begun
            with other settings.
    """
    if target == "figure3":
        out.mkdir(parents=True, exist_ok=True)
        plot_gradients().savefig(out / "figure3.png", dpi=150)
        _write_index(out)
        return f"{out / 'figure3.png'}"
    if data is None:
        raise InputError(f"data: {target} needs the folder of the official files, got none")
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
    corpus_settings = {"data": str(data.resolve()), "vocabulary": words, "num_words": num_words}
    _check_settings(corpus.folder / "data.json", corpus_settings)
    prepare_corpus(corpus, data, vocabulary, num_words)
    rows = FIGURE4_ROWS if target == "figure4" else TABLES[target]
    reproduction = Reproduction(out, corpus, rows, config, cache, max_skipped)
    tell(_describe_plan(reproduction))
    if plan_only:
        return "nothing was trained: --plan-only"
    run_settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_SETTINGS}
    _check_settings(out / "runs" / f"{corpus.name}.json", run_settings)
    for row in rows:
        if row.recipe is not None:
            _train_and_score(reproduction, row, row.recipe)
    if target == "figure4":
        _draw_figure4(reproduction)
        text = f"{out / 'figure4.png'}"
    else:
        lines = _compare(reproduction)
        write_json(out / f"{target}.json", lines)
        text = _markdown(lines)
        write_text(out / f"{target}.md", f"# {TITLES[target]}\n\n{text}\n")
    _write_index(out)
    return text


def _is_untouched(config: TrainConfig, name: str) -> bool:
    return getattr(config, name) == getattr(SCHEDULE, name)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to continue with other settings, which would mix two settings in one table."""
    if not path.exists():
        write_json(path, settings)
        return
    before = parse_json(decode(str(path), path.read_bytes()))
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputError(
                f"{path.parent} was begun with {name} {before.get(name)!r}, got {value!r}; give a new --out"
            )


def _remaining_runs(reproduction: Reproduction) -> list[tuple[Row, RecipeName]]:
    """The runs still to be trained, in order and each once: a stage 1 comes before the runs that reuse it."""
    runs: dict[Path, tuple[Row, RecipeName]] = {}
    for row in reproduction.rows:
        for recipe in (row.recipe and stage1_of(row.recipe), row.recipe):
            if recipe is not None:
                runs.setdefault(reproduction.run_folder(row, recipe), (row, recipe))
    return [run for folder, run in runs.items() if not (is_run(folder) and open_run(folder).is_finished)]


def _describe_plan(reproduction: Reproduction) -> str:
    config, corpus = reproduction.config, reproduction.corpus
    runs = _remaining_runs(reproduction)
    if not runs:
        return "every run is finished"
    splits = read_manifest(corpus.manifest).rows["split"][:]
    jobs = [Job(settings_of(recipe, config, row.level), stage1_of(recipe) is not None) for row, recipe in runs]
    return describe(
        jobs,
        measure(config, len(read_vocabulary(corpus.vocabulary))),
        num_frames=config.num_frames if corpus.name == "msrvtt" else 1,
        num_train=splits.count("train"),
        num_validation=splits.count("validation"),
        num_test=splits.count(corpus.scored_split),
    )


def _train_and_score(reproduction: Reproduction, row: Row, recipe: RecipeName) -> None:
    """Train a row's recipe, after the stage 1 that it reuses, and score it; finished steps are skipped."""
    corpus = reproduction.corpus
    data = corpus.manifest
    if row.num_swapped:
        data = corpus.folder / f"swap{row.num_swapped}.jsonl"
        if not data.exists():
            corrupt(
                corpus.manifest,
                data,
                swap_captions=row.num_swapped,
                vocabulary=corpus.vocabulary,
                seed=reproduction.config.seed,
            )
    for _, name in _remaining_runs(replace(reproduction, rows=(row,))):
        folder = reproduction.run_folder(row, name)
        tell(f"{folder.parent.name}: {name}")
        stage1 = stage1_of(name)
        train(
            settings_of(name, reproduction.config, row.level),
            data,
            corpus.vocabulary,
            folder,
            start_from=None if stage1 is None else reproduction.run_folder(row, stage1),
            resume=True,
            cache=reproduction.cache,
            max_skipped=reproduction.max_skipped,
        )
    folder = reproduction.run_folder(row, recipe)
    if not reproduction.metrics_path(folder).exists():
        evaluate(
            folder,
            corpus.manifest,
            corpus.scored_split,
            "captions",
            cache=reproduction.cache,
            max_skipped=reproduction.max_skipped,
        )


def _compare(reproduction: Reproduction) -> list[dict[str, Any]]:
    """One line per row: the published numbers and ours, in percent and in the order of `COLUMNS`."""
    lines = []
    for row in reproduction.rows:
        ours: list[float | None] | None = None
        if row.recipe is not None:
            folder = reproduction.run_folder(row, row.recipe)
            metrics = json.loads(reproduction.metrics_path(folder).read_text())
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
        for origin in ("paper", "ours") if line["ours"] else ("paper",):
            cells = ["–" if value is None else f"{value:.2f}" for value in line[origin]]
            table.append(f"| {level + line['model'] if origin == 'paper' else ''} | {origin} | {' | '.join(cells)} |")
    return "\n".join(table)


def _draw_figure4(reproduction: Reproduction) -> None:
    runs = {
        row.label: open_run(reproduction.run_folder(row, row.recipe))
        for row in reproduction.rows
        if row.recipe is not None
    }
    manifest = read_manifest(reproduction.corpus.manifest)
    scored = manifest.in_split(reproduction.corpus.scored_split)
    drawn = np.random.default_rng(0).permutation(len(scored))[:NUM_PHOTOS]  # at random: nobody picks the best ones
    photos = tag_photos(
        replace(manifest, rows=scored.select(sorted(drawn.tolist()))),
        runs,
        "captions",
        parts_of_speech=FIGURE4_PARTS,
        cache=reproduction.cache,
        max_skipped=reproduction.max_skipped,
    )
    plot_tagged_photos(photos).savefig(reproduction.out / "figure4.png", dpi=150, bbox_inches="tight")


def _write_index(out: Path) -> None:
    """Write one page with all results in the folder."""
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
