"""`truetag reproduce`: the paper's tables and figures from the official files, each number beside the published one.

    OUT/coco | msrvtt    manifests and vocabulary        OUT/runs/DATA-swapK[-frame]/RECIPE     the runs
    OUT/table1.md ..     the results                     OUT/index.html                         all results so far

A step whose result exists is skipped, and an interrupted run resumes from its last checkpoint. The same command
therefore continues a reproduction, and the tables share their runs.
"""

import dataclasses
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from truetag.captioning.config import CaptionConfig
from truetag.data.corruption import corrupt
from truetag.errors import InputError
from truetag.evaluate import evaluate
from truetag.io.files import write_json, write_text
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import decode, parse_json
from truetag.media.files import Reading
from truetag.paper.captioners import caption_config, compare_captioners, describe_captioners, train_and_score
from truetag.paper.corpora import Corpus, prepare_corpus
from truetag.paper.plan import Reproduction, describe_plan, remaining_runs
from truetag.paper.results import TITLES, as_markdown, columns_of, compare, draw_figure4, write_index
from truetag.paper.tables import TABLES, Row
from truetag.reports.figures import plot_gradients, save_figure
from truetag.runs.config import MACHINE_SETTINGS, TrainConfig
from truetag.training.recipes import CLIP_SETTINGS, SCHEDULE, RecipeName, settings_of, stage1_of
from truetag.training.train import train

Target = Literal["table1", "table2", "table3", "table4", "figure3", "figure4"]
FIGURE4_ROWS = (Row("VGG16*", "mlcn-star", (), 2), Row("FD", "nmn-fd", (), 2))


@takes_paths
def reproduce(
    target: Target,
    out: Path,
    data: Path | None = None,
    config: TrainConfig = SCHEDULE,
    vocabulary: Path | None = None,
    num_words: int | None = None,
    captioner: dict[str, str] | None = None,
    seeds: int = 1,
    plan_only: bool = False,
    reading: Reading = Reading(),
) -> str:
    """Reproduce a table or figure of the paper beside the published numbers; repeat the command to continue.

    Args:
        target: table1, table2 and figure4 need COCO 2014, table3 and table4 MSR-VTT 2016, figure3 needs no data.
        out: the folder of the reproduction; targets share it and its runs.
        data: the folder of the official files. COCO: annotations/captions_{train,val}2014.json, train2014/ and
            val2014/. MSR-VTT: train_val_videodatainfo.json and TrainValVideo/.
        config: the schedule of every run, the paper's unless changed here; the rows decide pooling and noise model.
        vocabulary: a word list to use instead of the most frequent words of the training captions.
        num_words: the size of the vocabulary; by default 1,000 for COCO and 1,087 for MSR-VTT.
        captioner: settings of the captioners of table4, by their names, such as `epochs 10`; see `caption train`.
        seeds: train every run with so many seeds, and give mean and standard deviation; figure4 shows the first.
        plan_only: show the remaining work with its time and disk space, and stop.
        reading: how photos and clips are read.

    Returns:
        The table, or the path of the figure.

    Raises:
        InputError: data is missing or malformed, a setting is one that the rows decide, or the reproduction was begun
            with other settings.
    """
    if target == "figure3":
        out.mkdir(parents=True, exist_ok=True)
        save_figure(plot_gradients(), out / "figure3.png")
        write_index(out)
        return f"{out / 'figure3.png'}"
    if seeds < 1:
        raise InputError(f"seeds: expected at least 1, got {seeds}")
    if data is None:
        raise InputError(f"data: {target} needs the folder of the official files, got none")
    if target in ("table3", "table4"):
        config = replace(
            config, **{name: value for name, value in CLIP_SETTINGS.items() if _is_untouched(config, name)}
        )
    for name in ("pooling", "level", "noise_model"):
        if not _is_untouched(config, name):
            raise InputError(f"{name}: the rows of {target} decide it, got {getattr(config, name)!r}")
    if captioner is not None and target != "table4":
        raise InputError(f"captioner: expected with table4 only, got {target}")
    sentences = caption_config(captioner, config.seed) if target == "table4" else None
    rows = FIGURE4_ROWS if target == "figure4" else TABLES[target]
    words = None if vocabulary is None else str(vocabulary.resolve())
    corpus_settings = {"data": str(data.resolve()), "vocabulary": words, "num_words": num_words}
    run_settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_SETTINGS}
    if plan_only:
        _check_settings(_corpus_of(target, out).folder / "data.json", corpus_settings, write=False)
        _check_settings(out / "runs" / f"{_corpus_of(target, out).name}.json", run_settings, write=False)
        with TemporaryDirectory() as folder:  # a plan leaves nothing behind
            corpus = _corpus_of(target, Path(folder))
            prepare_corpus(corpus, data, vocabulary, num_words)
            _tell_plan(_of_seeds(Reproduction(out, corpus, rows, config, reading), seeds), sentences)
        return "nothing was trained: --plan-only"
    corpus = _corpus_of(target, out)
    _check_settings(corpus.folder / "data.json", corpus_settings)
    prepare_corpus(corpus, data, vocabulary, num_words)
    reproductions = _of_seeds(Reproduction(out, corpus, rows, config, reading), seeds)
    _tell_plan(reproductions, sentences)
    _check_settings(out / "runs" / f"{corpus.name}.json", run_settings)
    if sentences is not None:
        caption_settings = {name: value for name, value in vars(sentences).items() if name not in MACHINE_SETTINGS}
        _check_settings(out / "runs" / "captioners.json", caption_settings)
    for reproduction in reproductions:
        for row in rows:
            if row.recipe is not None:
                _train_and_score(reproduction, row, row.recipe)
                if sentences is not None:
                    train_and_score(reproduction, row, replace(sentences, seed=reproduction.config.seed))
    if target == "figure4":
        draw_figure4(reproductions[0])
        text = f"{out / 'figure4.png'}"
    else:
        lines = compare(reproductions) if sentences is None else compare_captioners(reproductions)
        write_json(out / f"{target}.json", lines)
        text = as_markdown(lines, columns_of(target))
        write_text(out / f"{target}.md", f"# {TITLES[target]}\n\n{text}\n")
    write_index(out)
    return text


def _tell_plan(reproductions: list[Reproduction], sentences: CaptionConfig | None) -> None:
    tell(describe_plan(reproductions))
    if sentences is not None:
        tell(describe_captioners(reproductions, sentences))


def _of_seeds(reproduction: Reproduction, seeds: int) -> list[Reproduction]:
    return [reproduction.repeated(number) for number in range(seeds)]


def _corpus_of(target: Target, folder: Path) -> Corpus:
    if target in ("table3", "table4"):
        return Corpus("msrvtt", folder / "msrvtt", "validation")
    return Corpus("coco", folder / "coco", "test")


def _is_untouched(config: TrainConfig, name: str) -> bool:
    return getattr(config, name) == getattr(SCHEDULE, name)


def _check_settings(path: Path, settings: dict[str, Any], write: bool = True) -> None:
    """Refuse to continue with other settings, which would mix two in one table; keep them for the next time."""
    if not path.exists():
        if write:
            write_json(path, settings)
        return
    before = parse_json(decode(str(path), path.read_bytes()))
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputError(
                f"{path.parent} was begun with {name} {before.get(name)!r}, got {value!r}; give a new --out"
            )


def _train_and_score(reproduction: Reproduction, row: Row, recipe: RecipeName) -> None:
    """Train a row's recipe, after the stage 1 that it reuses, and score it; finished steps are skipped."""
    corpus = reproduction.corpus
    data = corpus.manifest
    if row.num_swapped:
        data = reproduction.swapped_manifest(row.num_swapped)
        if not data.exists():
            corrupt(
                corpus.manifest,
                data,
                swap_captions=row.num_swapped,
                vocabulary=corpus.vocabulary,
                seed=reproduction.config.seed,
            )
    for _, name in remaining_runs(replace(reproduction, rows=(row,))):
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
            reading=reproduction.reading,
        )
    folder = reproduction.run_folder(row, recipe)
    if not reproduction.metrics_path(folder).exists():
        evaluate(
            folder,
            corpus.manifest,
            corpus.scored_split,
            "captions",
            reading=reproduction.reading,
        )
