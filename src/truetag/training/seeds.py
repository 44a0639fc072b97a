"""`truetag train`: one run, or the same recipe with several seeds."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from truetag.data.manifest import read_header
from truetag.data.vocabulary import read_vocabulary
from truetag.errors import InputError
from truetag.io.paths import takes_paths
from truetag.io.text import require_file
from truetag.media.files import Reading
from truetag.runs.config import TrainConfig
from truetag.runs.paths import is_run, require_new_folder, require_run
from truetag.runs.tracker import require_tracker


@takes_paths
def train_seeds(
    config: TrainConfig,
    data: Path,
    vocabulary: Path,
    out: Path,
    start_from: Path | None = None,
    resume: bool = False,
    seeds: int = 1,
    reading: Reading = Reading(),
    features: Path | None = None,
) -> str:
    """Train one recipe and leave a run folder; with several seeds, OUT/seed-0, OUT/seed-1, and so on.

    Args:
        config: all settings.
        data: the manifest; rows with split `train` (or none) are learnt from.
        vocabulary: the word list that gives the labels.
        out: the run folder to make.
        start_from: a run whose stage 1 is taken over instead of trained again; with several seeds, the folder of
            their runs.
        resume: continue the run in `out` where it was stopped; begin it if there is none yet.
        seeds: train so many runs, with the seeds that follow `config.seed`.
        reading: how photos and clips are read.
        features: embeddings to learn from instead of the photos, by the ids of the manifest: .npz, .npy or Parquet.

    Returns:
        Where the runs are; of several seeds also mean and standard deviation of AP on the noisy validation tags.

    Raises:
        InputError: a setting, the data or `out` is not what it should be; or training diverges.
    """
    if seeds < 1:
        raise InputError(f"seeds: expected at least 1, got {seeds}")
    names = [f"seed-{seed}" for seed in range(config.seed, config.seed + seeds)]
    if seeds > 1 and start_from is not None and (missing := [name for name in names if not is_run(start_from / name)]):
        raise InputError(f"from: expected a folder with the runs {', '.join(names)}, got no {missing[0]}")
    if seeds == 1 and start_from is not None:
        require_run(start_from)
    require_tracker(config.log_to)
    read_vocabulary(vocabulary)
    read_header(data)
    if features is not None:
        require_file(features, "file of embeddings")
    for folder in [out] if seeds == 1 else [out / name for name in names]:
        if not (resume and is_run(folder)):
            require_new_folder(folder)
    from truetag.training.train import train  # here: it takes seconds, and mistakes are told at once

    if seeds == 1:
        return f"run: {train(config, data, vocabulary, out, start_from, resume, reading, features).folder}"
    runs = []
    for seed, name in enumerate(names, start=config.seed):
        first = None if start_from is None else start_from / name
        config_of_seed = replace(config, seed=seed)
        runs.append(train(config_of_seed, data, vocabulary, out / name, first, resume, reading, features))
    scores = [100 * _validation_ap(run.history(), run.config.select) for run in runs]
    spread = f"{fmean(scores):.2f} ± {stdev(scores):.2f}"
    return f"runs: {out} (seeds {config.seed} to {config.seed + seeds - 1}); AP on noisy validation tags: {spread}"


def _validation_ap(history: list[dict[str, Any]], select: str) -> float:
    """The AP of the epoch that was kept."""
    last_stage = max(row["stage"] for row in history)
    of_stage = [row["validation_ap"] for row in history if row["stage"] == last_stage]
    return of_stage[-1] if select == "last" else max(of_stage)
