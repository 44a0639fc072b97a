"""The results of a reproduction beside the published numbers: tables, Figure 4, and one page with all of them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from truetag import __version__
from truetag.data.manifest import iterate_rows, read_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.io.pages import write_page
from truetag.io.text import counted
from truetag.media.data_urls import inline_photo
from truetag.paper.plan import Reproduction
from truetag.paper.tables import CAPTION_COLUMNS, COLUMNS, TABLES, Row
from truetag.reports.figures import plot_tagged_photos, save_figure
from truetag.reports.tagged_photos import tag_photos
from truetag.runs.folder import open_run
from truetag.training.recipes import CLIP_SETTINGS, SCHEDULE, RecipeName

TITLES = {
    "table1": "Table 1. COCO, AP by part of speech",
    "table2": "Table 2. COCO, captions swapped, AP by part of speech",
    "table3": "Table 3. MSR-VTT, validation clips, AP by part of speech",
    "table4": "Table 4. MSR-VTT, validation clips, sentences of S2VT on concepts",
    "figure3": "Figure 3. Gradient of the loss on the logit",
    "figure4": "Figure 4. Photos with their words, trained on 40 % swapped captions",
}
FIGURE4_PARTS = ("VB", "NN", "JJ")
NUM_PHOTOS = 8


def compare(reproductions: Sequence[Reproduction]) -> list[dict[str, Any]]:
    """One line per row: the published numbers and ours, in percent and in the order of `COLUMNS`.

    Of several seeds ours are means, and "spread" holds the standard deviations.
    """
    lines = []
    for row in reproductions[0].rows:
        noise = f"{20 * row.num_swapped} %: " if row.num_swapped else ""
        line = {"model": noise + row.label, "level": row.level, "paper": row.published, "ours": None}
        if row.recipe is not None:
            columns = list(
                zip(*(_scores(reproduction, row, row.recipe) for reproduction in reproductions), strict=True)
            )
            line["ours"] = [None if None in values else fmean(values) for values in columns]
            if len(reproductions) > 1:
                line["spread"] = [None if None in values else stdev(values) for values in columns]
        lines.append(line)
    return lines


def _scores(reproduction: Reproduction, row: Row, recipe: RecipeName) -> list[float | None]:
    """The scores of one run in the order of `COLUMNS`."""
    metrics = json.loads(reproduction.metrics_path(reproduction.run_folder(row, recipe)).read_text())
    scores = metrics["observed"] if row.observed else metrics
    parts = [scores["by_pos"].get(part, {}).get("count_mean_ap") for part in COLUMNS[:-1]]
    return [None if value is None else 100 * value for value in [*parts, scores["count_mean_ap"]]]


def columns_of(table: str) -> tuple[str, ...]:
    """The columns of a table, by its name."""
    return CAPTION_COLUMNS if table == "table4" else COLUMNS


def as_markdown(lines: list[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """The lines of `compare` as a Markdown table."""
    table = [f"| model | | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for line in lines:
        level = "frame level: " if line["level"] == "frame" else ""
        for origin in ("paper", "ours") if line["ours"] else ("paper",):
            cells = ["–" if value is None else f"{value:.2f}" for value in line[origin]]
            if origin == "ours" and "spread" in line:
                spread = ["" if value is None else f" ± {value:.2f}" for value in line["spread"]]
                cells = [cell + after for cell, after in zip(cells, spread, strict=True)]
            table.append(f"| {level + line['model'] if origin == 'paper' else ''} | {origin} | {' | '.join(cells)} |")
    return "\n".join(table)


def draw_figure4(reproduction: Reproduction) -> None:
    """Write OUT/figure4.png: a few test photos with the words of each run."""
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
        reading=reproduction.reading,
    )
    save_figure(plot_tagged_photos(photos), reproduction.out / "figure4.png", bbox_inches="tight")


def _describe_corpus(folder: Path) -> str:
    """The photos or clips of each split, and the number of words; empty where nothing was prepared."""
    if not (folder / "manifest.jsonl").exists() or not (folder / "vocabulary.tsv").exists():
        return ""
    splits = Counter(row["split"] for row in iterate_rows(folder / "manifest.jsonl"))
    noun = "photo" if folder.name == "coco" else "clip"
    parts = [f"{counted(count, noun)} for {split}" for split, count in splits.items()]
    return ", ".join([*parts, counted(len(read_vocabulary(folder / "vocabulary.tsv")), "word")])


def _on_page(columns: Sequence[str], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A table as the page shows it: with "All" first, which is what a phone shows of it."""
    order = sorted(range(len(columns)), key=lambda column: columns[column] != "All")

    def ordered(values: Sequence[Any] | None) -> list[Any] | None:
        return None if values is None else [values[column] for column in order]

    rows = [line | {key: ordered(line.get(key)) for key in ("paper", "ours", "spread")} for line in lines]
    return {"columns": ordered(columns), "lines": rows}


def write_index(out: Path) -> None:
    """Write one page with all results in the folder."""
    tables = {
        TITLES[name]: _on_page(columns_of(name), json.loads(path.read_text()))
        for name in TABLES
        if (path := out / f"{name}.json").exists()
    }
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
    sizes = {corpus: size for corpus in ("coco", "msrvtt") if (size := _describe_corpus(out / corpus))}
    write_page(
        out / "index.html",
        "truetag.reports",
        "reproduction.html",
        tables=tables,
        figures=figures,
        settings=settings,
        sizes=sizes,
        version=__version__,
    )
