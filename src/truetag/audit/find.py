"""`truetag audit`: one ranked list of tags that are probably wrong or missing, with a page to review them."""

import os
from dataclasses import replace
from pathlib import Path

from truetag.audit.found import Audit
from truetag.data.manifest import read_header
from truetag.errors import InputError
from truetag.io.paths import takes_paths
from truetag.io.text import require_file
from truetag.label_noise.settings import MIN_PROBABILITY
from truetag.media.files import Reading, SkipList
from truetag.runs.paths import require_finished_run

MIN_COUNT = 5
FILES = (
    *("issues.parquet", "issues.csv", "labels.csv", "examples.parquet", "examples.csv"),
    *("summary.json", "index.html"),
)


@takes_paths
def audit(
    run: Path | None = None,
    manifest: Path | None = None,
    *,
    out: Path,
    features: Path | None = None,
    probabilities: Path | None = None,
    tags: Path | None = None,
    split: str | None = None,
    min_probability: float = MIN_PROBABILITY,
    min_count: int = MIN_COUNT,
    function_words: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    reading: Reading = Reading(),
) -> Audit:
    """Find the tags that are probably wrong or missing, the surest first.

    Give a run and a manifest (with `--features`, if the run was trained on such); or `--features` or `--probabilities`
    with `--tags`.

    Args:
        run: a finished run; its backbone gives the features, and models that did not see a photo judge its tags.
        manifest: the manifest to audit.
        out: a folder for issues.parquet and issues.csv (the list), labels.csv, examples.parquet and examples.csv,
            summary.json and index.html, the page to review them on.
        features: embeddings instead of photos, [examples, features]: .npz or Parquet with ids, or in the order of the
            tags; or .npy.
        probabilities: p(y=1|x) instead, [examples, tags], of models that did not see the example.
        tags: the tags of these examples: a table, a manifest, or a numpy file of 1, 0 and -1 for unknown.
        split: audit the rows of one split alone.
        min_probability: list what is wrong with at least this probability.
        min_count: with `--features`: leave out tags of fewer rows.
        function_words: list words such as `a` and `there`, too.
        seed: of the folds and the training.
        overwrite: replace the files of an earlier audit.
        reading: how photos and clips are read.

    Raises:
        InputError: the arguments do not go together, or a file is not what it should be.
    """
    if not 0 <= min_probability <= 1:
        raise InputError(f"min_probability: expected a number from 0 to 1, got {min_probability}")
    if not overwrite and (there := [name for name in FILES if (out / name).exists()]):
        raise InputError(f"out: {out} holds {there[0]} of an earlier audit; add --overwrite to replace it")
    if split is not None and manifest is None:
        raise InputError(f"split: expected with RUN MANIFEST, got {split!r} with a numpy file")
    array = features if features is not None else probabilities
    if run is not None and manifest is not None and probabilities is tags is None:
        require_finished_run(run)
        read_header(manifest)
        if features is not None:
            require_file(features, "file of embeddings")
    elif run is manifest is None and array is not None and tags is not None and None in (features, probabilities):
        require_file(array, "numpy file")
        require_file(tags, "table, manifest or numpy file")
    else:
        raise InputError("audit: expected RUN MANIFEST, or --features F --tags T, or --probabilities P --tags T")
    # here: what they import takes seconds, and mistakes are told at once
    from truetag.audit.judge import judge
    from truetag.audit.reading import read_arrays, read_run
    from truetag.audit.review import write_review
    from truetag.audit.tables import find, write_audit

    skips = SkipList(reading.max_skipped)
    if run is not None and manifest is not None:
        evidence, media = read_run(run, manifest, split, function_words, reading, skips, features)
    else:
        assert array is not None
        assert tags is not None
        evidence, media = read_arrays(array, tags, probabilities is not None, min_count, skips), None
    found = find(evidence, judge(evidence, seed), min_probability)
    found.summary["skipped"] = len(skips)
    for name, path in (("run", run), ("manifest", manifest)):  # where they are, seen from the folder of the audit
        found.summary[name] = None if path is None else os.path.relpath(path.resolve(), out.resolve())
    write_audit(found, out)
    skips.write(out / "skipped.jsonl")
    given = dict(zip(found.examples["id"], found.examples["given"], strict=True))
    source = manifest or tags
    assert source is not None
    write_review(out / "index.html", found.issues, media, source.name, given)
    return replace(found, folder=out)
