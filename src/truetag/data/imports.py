"""`truetag import`: annotations as people have them, and a folder of media, become a manifest of what can be used."""

from pathlib import Path

from truetag.data.importing import ImportOptions, ImportSummary, write_imported
from truetag.data.readers import read_coco, read_folders, read_karpathy, read_msrvtt, read_open_images
from truetag.data.table_rows import CaptionOptions, TagOptions, read_captions, read_tags
from truetag.io.paths import takes_paths


@takes_paths
def import_coco(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    categories: Path | None = None,
    options: ImportOptions = ImportOptions(),
) -> ImportSummary:
    """Write a manifest from a COCO file of captions, or of instances (their categories are then the tags).

    Args:
        annotations: the official `captions_*.json` or `instances_*.json`.
        media_dir: the folder that holds its photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        categories: the `instances_*.json` of the same photos; its category names become `true_tags`.
        options: what else to do.

    Raises:
        InputError: a file breaks the rules of its format, too many photos cannot be used, or `out` exists.
    """
    return write_imported(read_coco(annotations, categories), annotations, media_dir, out, options)


@takes_paths
def import_karpathy(
    annotations: Path, media_dir: Path, out: Path, *, options: ImportOptions = ImportOptions()
) -> ImportSummary:
    """Write a manifest from one of Karpathy's `dataset_*.json` (Flickr8k, Flickr30k, COCO) with its splits.

    Args:
        annotations: the file.
        media_dir: the folder that holds its photos.
        out: the manifest to write (`.jsonl` or `.parquet`).
        options: what else to do.

    Raises:
        InputError: the file breaks the rules of its format, too many photos cannot be used, or `out` exists.
    """
    return write_imported(read_karpathy(annotations), annotations, media_dir, out, options)


@takes_paths
def import_captions(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    table: CaptionOptions = CaptionOptions(),
    options: ImportOptions = ImportOptions(),
) -> ImportSummary:
    """Write a manifest from a table of captions: one on each row, several columns of them, or lists.

    Args:
        annotations: the table: CSV, TSV, JSON, JSON Lines, Parquet, Excel, or Flickr8k.token.txt.
        media_dir: the folder that holds the photos or clips, or a file of their embeddings (.npz, .npy, Parquet).
        out: the manifest to write (`.jsonl` or `.parquet`).
        table: how to read it; what is left open is found and said.
        options: what else to do.

    Raises:
        InputError: it is in doubt how to read the table, too many rows cannot be used, or `out` exists.
    """
    return write_imported(read_captions(annotations, table), annotations, media_dir, out, options)


@takes_paths
def import_tags(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    table: TagOptions = TagOptions(),
    options: ImportOptions = ImportOptions(),
) -> ImportSummary:
    """Write a manifest from a table of tags: in one cell, in several columns, on several rows, or a column for each.

    Args:
        annotations: the table: CSV, TSV, JSON, JSON Lines, Parquet or Excel.
        media_dir: the folder that holds the photos or clips, or a file of their embeddings (.npz, .npy, Parquet).
        out: the manifest to write (`.jsonl` or `.parquet`).
        table: how to read it; what is left open is found and said.
        options: what else to do.

    Raises:
        InputError: it is in doubt how to read the table, too many rows cannot be used, or `out` exists.
    """
    return write_imported(read_tags(annotations, table), annotations, media_dir, out, options)


@takes_paths
def import_msrvtt(
    annotations: Path, media_dir: Path, out: Path, *, options: ImportOptions = ImportOptions()
) -> ImportSummary:
    """Write a manifest of clips from MSR-VTT: the official `*_videodatainfo.json`, or a mirror's list of records.

    Args:
        annotations: the file.
        media_dir: the folder of its clips: `video0.mp4` and so on, or with the suffix of another kind of clip.
        out: the manifest to write (`.jsonl` or `.parquet`).
        options: what else to do; without a split, the rows have the official ones.

    Raises:
        InputError: the file breaks the rules of its format, too many clips cannot be used, or `out` exists.
    """
    imported = read_msrvtt(annotations)
    if options.split is not None:
        imported = imported._replace(rows=[row | {"split": options.split} for row in imported.rows])
    return write_imported(imported, annotations, media_dir, out, options)


@takes_paths
def import_open_images(
    annotations: Path,
    media_dir: Path,
    out: Path,
    *,
    classes: Path | None = None,
    options: ImportOptions = ImportOptions(),
) -> ImportSummary:
    """Write a manifest from the verified labels of Open Images; tags that nobody verified are unknown.

    Args:
        annotations: `*-annotations-human-imagelabels*.csv`.
        media_dir: the folder that holds the photos, `IMAGEID.jpg`.
        out: the manifest to write (`.jsonl` or `.parquet`).
        classes: `class-descriptions*.csv`, the names of the labels; without it, tags look like `/m/01g317`.
        options: what else to do.

    Raises:
        InputError: a file breaks the rules of its format, too many photos cannot be used, or `out` exists.
    """
    return write_imported(read_open_images(annotations, classes), annotations, media_dir, out, options)


@takes_paths
def import_folders(media_dir: Path, out: Path, *, options: ImportOptions = ImportOptions()) -> ImportSummary:
    """Write a manifest of photos that lie in folders named like their tags.

    Args:
        media_dir: the folder that holds a folder for each tag, perhaps within folders for train, validation and test.
        out: the manifest to write (`.jsonl` or `.parquet`).
        options: what else to do.

    Raises:
        InputError: there are no such folders, too many photos cannot be used, or `out` exists.
    """
    return write_imported(read_folders(media_dir), media_dir, media_dir, out, options)
