"""`truetag predict`: tag photos, folders or manifests with the classifier alone; no noise model is ever loaded."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from truetag.errors import InputError
from truetag.io.files import refuse_overwriting
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import counted, require_file
from truetag.media.clips import CLIP_SUFFIXES
from truetag.media.files import Reading, SkipList
from truetag.prediction.inputs import check_choice, require_inputs
from truetag.prediction.shard import parse_shard
from truetag.prediction.table import OUTPUT_SUFFIXES, PartialTable, write_table
from truetag.runs.config import EMBEDDINGS
from truetag.runs.paths import require_finished_run


@takes_paths
def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None = None,
    top_k: int | None = None,
    function_words: bool = False,
    split: str | None = None,
    heatmaps: Path | None = None,
    shard: str | None = None,
    reading: Reading = Reading(),
    features: Path | None = None,
) -> int:
    """Tag photos and write one row for each: id, path, tags and their probabilities, the likeliest first.

    A command that was stopped continues where it was when it is given again.

    Args:
        run: the run folder.
        inputs: photos, folders of photos, or manifests; for a run on embeddings, files of them.
        out: the table to write: .parquet, .csv, .json or .jsonl.
        threshold: write the tags with at least this probability; by default the one that training chose on noisy
            validation tags, or 0.5 where it chose none, and 0 if top_k is given.
        top_k: write at most this many tags per photo.
        function_words: write articles, pronouns, prepositions, forms of be, have and do, numbers and single letters as
            tags, too.
        split: tag only the rows of this split of a manifest.
        heatmaps: a folder for pictures that show where in each photo its tags are seen.
        shard: tag one part of the rows only, such as 3/64 for the third of 64; parts count from 1. OUT.parquet becomes
            OUT-00003-of-00064.parquet, and all parts joined in order are the whole table.
        reading: how photos and clips are read.
        features: embeddings by the ids of manifests (.npz, .npy, Parquet), for a run that was trained on such.

    Returns:
        The number of tagged photos; those that cannot be used are listed in OUT.skipped.jsonl.

    Raises:
        InputError: an option or an input is wrong, or too many photos cannot be used.
    """
    if out.suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"out: expected a name that ends in {', '.join(OUTPUT_SUFFIXES)}, got {out.name!r}")
    check_choice(threshold, top_k)
    part = None if shard is None else parse_shard(shard)
    if part is not None:
        out = part.path(out)
    if out.is_dir():
        raise InputError(f"out: expected the name of a table to write, got the folder {out}")
    refuse_overwriting(out, *inputs, features)
    require_inputs(inputs)
    require_finished_run(run)
    if features is not None:
        require_file(features, "file of embeddings")
    # here: what they import takes seconds, and mistakes are told at once
    from truetag.prediction.choice import make_choice
    from truetag.prediction.listing import list_bags
    from truetag.prediction.tagged_bags import fingerprint_of, tag_bags
    from truetag.runs.folder import open_run

    opened = open_run(run)
    if heatmaps is not None and opened.config.backbone == EMBEDDINGS:
        raise InputError("heatmaps: expected a run on photos, got one on embeddings, which have no regions")
    skips = SkipList(reading.max_skipped)
    bags = list_bags(opened.config.num_frames, inputs, split, reading, skips, part, features)
    choice = make_choice(opened, threshold, top_k, function_words)
    choice.tell()
    with PartialTable(out, fingerprint_of(opened, bags, choice), skips) as table:
        tag_bags(opened, bags, choice, table, reading)
        count = write_table(out, table.rows())
        num_clips = sum(PurePath(row["path"]).suffix.lower() in CLIP_SUFFIXES for row in table.rows())
        is_embedded = opened.config.backbone == EMBEDDINGS
        kinds = [(count - num_clips, "embedding" if is_embedded else "photo"), (num_clips, "clip")]
        tell((" and ".join(counted(number, noun) for number, noun in kinds if number) or "nothing") + " tagged")
        skips.write(out.with_name(f"{out.name}.skipped.jsonl"))
        if heatmaps is not None:
            from truetag.models.building import load_classifier
            from truetag.prediction.region_maps import draw_region_maps

            classifier = load_classifier(opened)
            num_frames = opened.config.num_frames
            draw_region_maps(
                classifier, opened.preprocessing, opened.vocabulary, bags, table.rows(), heatmaps, num_frames
            )
        table.remove()
    return count
