"""The paper's data sets, COCO 2014 and MSR-VTT 2016, from their official files to a manifest and a vocabulary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from truetag.data.imports import ImportOptions, import_coco, import_msrvtt
from truetag.data.manifest import iterate_rows, relative_root, write_manifest
from truetag.data.rows import Row
from truetag.data.vocabulary import make_vocabulary, read_vocabulary, write_vocabulary
from truetag.errors import InputError

NUM_WORDS = {"coco": 1000, "msrvtt": 1087}
CLIP_FOLDERS = ("TrainValVideo", "train_val_videos", "videos", "clips")


@dataclass(frozen=True)
class Corpus:
    """A data set prepared for the tables: its files, and the split that the paper reports."""

    name: Literal["coco", "msrvtt"]
    folder: Path
    scored_split: str

    @property
    def manifest(self) -> Path:
        """All rows, with their splits."""
        return self.folder / "manifest.jsonl"

    @property
    def vocabulary(self) -> Path:
        """The words that the tables score."""
        return self.folder / "vocabulary.tsv"


def prepare_corpus(corpus: Corpus, data: Path, vocabulary: Path | None, num_words: int | None) -> None:
    """Write the manifest and the vocabulary, unless they exist.

    Args:
        corpus: where to write them.
        data: the folder of the official files.
        vocabulary: a word list to use instead of the most frequent words.
        num_words: the size of the vocabulary; by default the paper's.

    Raises:
        InputError: a file of the data set is missing or malformed.
    """
    if not corpus.manifest.exists():
        (_import_coco if corpus.name == "coco" else _import_msrvtt)(corpus, data)
    if not corpus.vocabulary.exists():
        if vocabulary is not None:
            write_vocabulary(corpus.vocabulary, read_vocabulary(vocabulary))
        else:
            make_vocabulary(corpus.manifest, corpus.vocabulary, num_words or NUM_WORDS[corpus.name], "train")


def _import_coco(corpus: Corpus, data: Path) -> None:
    """Half of the official validation photos (every second one by id) become the test split, as in Fang et al."""
    rows: list[Row] = []
    for part in ("train", "val"):
        annotations = _find(data / "annotations", f"captions_{part}*.json", f"captions_{part}2014.json")
        folder = data / annotations.stem.removeprefix("captions_")
        imported = corpus.folder / f"{part}.jsonl"
        split = "train" if part == "train" else None
        import_coco(annotations, folder, imported, options=ImportOptions(split, check=False, overwrite=True))
        by_id = sorted(iterate_rows(imported), key=lambda row: int(row["id"]))
        for number, row in enumerate(by_id):
            name = f"{folder.name}/{row['image']}"
            rows.append(row | {"image": name, "split": split or ("validation", "test")[number % 2]})
    write_manifest(corpus.manifest, rows, {"media_root": relative_root(data, corpus.manifest)})


def _import_msrvtt(corpus: Corpus, data: Path) -> None:
    annotations = _find(data, "*videodatainfo.json", "train_val_videodatainfo.json")
    folder = next((data / name for name in CLIP_FOLDERS if (data / name).is_dir()), data)
    import_msrvtt(annotations, folder, corpus.manifest, options=ImportOptions(check=False, overwrite=True))


def _find(folder: Path, pattern: str, wanted: str) -> Path:
    """The file called `wanted`, or the first file of another year that matches the pattern."""
    paths = sorted(folder.glob(pattern), key=lambda path: (path.name != wanted, path.name))
    if not paths:
        raise InputError(f"data: expected {folder / wanted}, got no such file")
    return paths[0]
