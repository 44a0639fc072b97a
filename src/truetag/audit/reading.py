"""The doors of an audit: a run and a manifest, embeddings and tags, or predicted probabilities and tags."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from truetag.audit.evidence import Evidence, Records
from truetag.data.bags import MediaBags, read_bags
from truetag.data.batches import FeatureBags, batches_of_means
from truetag.data.copies import digests_of, groups_with_copies
from truetag.data.embeddings import NO_FEATURES, open_embeddings
from truetag.data.labels import caption_words, decided_labels, observed_labels, tag_sources
from truetag.data.manifest import iterate_rows, read_manifest, stream_rows
from truetag.data.rows import Row, media_name
from truetag.data.table_rows import read_tags
from truetag.data.vocabulary import Vocabulary, function_words
from truetag.data.words import normalise
from truetag.errors import InputError
from truetag.io.terminal import tell
from truetag.io.text import counted, require_file
from truetag.label_noise.observed_labels import LabelReader
from truetag.label_noise.settings import JOINT, HeadSettings
from truetag.media.files import Reading, SkipList, Skipped
from truetag.models.backbones import load_backbone
from truetag.models.building import load_classifier
from truetag.models.classifier import Classifier
from truetag.models.features import features_of
from truetag.prediction.inputs import MANIFEST_SUFFIXES
from truetag.runs.folder import Run, open_run, read_json_object
from truetag.runs.settings_file import CHOICES
from truetag.training.targets import CHOSEN_FIELDS

ARRAY_SUFFIXES = (".npy", ".npz")


def read_run(
    run_folder: Path,
    manifest_path: Path,
    split: str | None,
    with_function_words: bool,
    reading: Reading,
    skips: SkipList,
    features_path: Path | None = None,
) -> tuple[Evidence, MediaBags]:
    """The rows of a manifest, with the features of the run's backbone as it was before training.

    A backbone that was trained on a tag vouches for it.

    Args:
        run_folder: a finished run.
        manifest_path: the manifest to audit.
        split: the rows; None for all.
        with_function_words: whether words such as `a` and `there` are listed, too.
        reading: how photos and clips are read.
        skips: gets those that cannot be used.
        features_path: a file of embeddings, for a run that was trained on such.

    Returns:
        The evidence, and the photos or clips of its examples.

    Raises:
        InputError: the run is not finished, a row has neither captions nor tags, or too many photos cannot be used.
    """
    run, manifest = open_run(run_folder), read_manifest(manifest_path)
    run.require_finished()
    rows = manifest.in_split(split)
    media = read_bags(manifest, rows, reading, skips, run.config.num_frames, features_path)
    kept, features = _mean_features(run, media, reading, skips)
    rows = rows.select(kept)
    groups = groups_with_copies(manifest.rows["group"][:], digests_of(manifest))
    group_of = dict(zip(manifest.rows["id"][:], groups, strict=True))
    names = rows["id"][:]
    evidence = Evidence(
        ids=names,
        labels=observed_labels(rows, run.vocabulary).float(),
        vocabulary=run.vocabulary.words,
        records=_records_of(rows, run.vocabulary),
        features=features,
        groups=[group_of[name] for name in names],
        decided=decided_labels(rows, run.vocabulary),
        files=[media_name(row) for row in stream_rows(rows, ("image", "video", "frames"))],
        sources=tag_sources(rows, run.vocabulary),
        is_listed=~np.isin(run.vocabulary.words, [] if with_function_words else function_words(run.vocabulary)),
        settings=_head_settings(run),
    )
    if features_path is not None and not any(rows["features"][:]):  # the page shows photos, if they are there
        return evidence, read_bags(manifest, rows, reading, SkipList(1.0), run.config.num_frames)
    return evidence, media.select(kept)


def read_arrays(
    array_path: Path, tags_path: Path, are_probabilities: bool, min_count: int, skips: SkipList
) -> Evidence:
    """Embeddings or probabilities, and the tags of the same examples, by id where the embeddings have ids.

    Args:
        array_path: a file of embeddings [N, D], or .npy or .npz with one array of probabilities [N, K] in 0..1.
        tags_path: a manifest, a table of tags with a row per example, or a numpy file [N, K] of 1, 0, -1 for unknown.
        are_probabilities: whether these are p(y=1|x) of models that did not see the example, a column per tag: as in
            the numpy file, or in alphabetical order for other tags.
        min_count: leave out tags of embeddings that are rarer.
        skips: gets the rows without embeddings.

    Raises:
        InputError: a file is not what it should be, or the numbers of examples or tags differ.
    """
    embeddings = None if are_probabilities else open_embeddings(array_path)
    array = _read_array(array_path) if embeddings is None else embeddings.array
    num_examples = len(array)
    chosen = np.arange(num_examples)  # rows of the array
    if tags_path.suffix in ARRAY_SUFFIXES:
        reader = LabelReader(_read_array(tags_path), num_examples, None, "tags")
        labels = torch.from_numpy(reader.read(slice(0, num_examples))).nan_to_num(-1)
        reader.check_convention()
        names_of_rows = map(str if embeddings is None else embeddings.name_of, range(num_examples))
        rows: list[Row] = [{"id": name} for name in names_of_rows]
        names = [str(column) for column in range(labels.shape[1])]
        decided = groups = sources = None
    else:
        is_manifest = tags_path.suffix in MANIFEST_SUFFIXES
        rows = list(iterate_rows(tags_path)) if is_manifest else read_tags(tags_path).rows
        if embeddings is not None and embeddings.ids is not None:
            chosen = embeddings.rows_of([row["id"] for row in rows], f"rows of {tags_path}")
            skips.expect(len(rows))
            skips.report_all(
                Skipped(row["id"], array_path, NO_FEATURES)
                for row, there in zip(rows, chosen >= 0, strict=True)
                if not there
            )
            rows = [row for row, there in zip(rows, chosen >= 0, strict=True) if there]
            chosen = chosen[chosen >= 0]
        elif len(rows) != num_examples:
            raise InputError(f"tags: expected {num_examples} rows, as {array_path} has, got {len(rows)} in {tags_path}")
        counts = Counter(tag for row in rows for tag in {normalise(tag) for tag in row.get("tags") or ()})
        names = sorted(tag for tag, count in counts.items() if are_probabilities or count >= min_count)
        if not names:
            raise InputError(f"{tags_path}: expected tags of {min_count} rows or more each, got none")
        if dropped := len(counts) - len(names):
            tell(f"{counted(dropped, 'tag')} of fewer than {min_count} rows left out")
        vocabulary = Vocabulary(tuple(names), ("-",) * len(names), tuple(counts[name] for name in names))
        labels, decided = observed_labels(rows, vocabulary).float(), decided_labels(rows, vocabulary)
        groups = [row.get("group") for row in rows]
        sources = tag_sources(rows, vocabulary)
    if are_probabilities:
        if array.shape[1] != len(names):
            raise InputError(f"probabilities: expected {len(names)} columns, one per tag, got {array.shape[1]}")
        if not ((array >= 0) & (array <= 1)).all():
            raise InputError(f"{array_path}: expected probabilities from 0 to 1, got others")
    if embeddings is not None:
        embeddings.require_finite(chosen)
    values = torch.from_numpy(np.asarray(array[chosen], dtype=np.float32))
    return Evidence(
        ids=[row["id"] for row in rows],
        labels=labels,
        vocabulary=tuple(names),
        records=_tag_lists(labels, names),
        features=None if are_probabilities else values,
        logits=values.clamp(1e-6, 1 - 1e-6).logit() if are_probabilities else None,
        groups=groups,
        decided=decided,
        files=[media_name(row) for row in rows],
        sources=sources,
    )


def _read_array(path: Path) -> Any:
    require_file(path, "numpy file")
    if path.suffix not in ARRAY_SUFFIXES:
        raise InputError(f"{path}: expected a numpy file ({', '.join(ARRAY_SUFFIXES)})")
    try:
        array = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            if len(array.files) != 1:
                raise InputError(f"{path}: expected one array, got {', '.join(array.files) or 'none'}")
            array = array[array.files[0]]
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable numpy file ({error})") from None
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected numbers of shape [examples, columns], got {array.dtype} {array.shape}")
    return array


def _mean_features(
    run: Run, media: MediaBags, reading: Reading, skips: SkipList
) -> tuple[list[int], Float[Tensor, "N D"]]:
    """The bags that can be used, and the mean feature of each over regions and frames, from the untrained backbone."""
    classifier = load_classifier(run)
    device = classifier.head.weight.device
    backbone, preprocessing = classifier.backbone, run.preprocessing
    if not run.config.freeze_backbone and run.config.weights == "none":
        tell("warning: the run's backbone began from no weights: it has learnt these tags and may vouch for wrong ones")
    elif not run.config.freeze_backbone:
        backbone, preprocessing = load_backbone(run.config.backbone, run.config.weights, run.config.resolution)
    probe = Classifier(backbone, classifier.num_features, 1).to(device).eval()
    cached = features_of(media.frames, probe, run.config.backbone, preprocessing, skips, reading.cache)
    usable = cached.rows >= 0
    chosen, kept = media.keep_frames(usable)
    if not kept:
        raise InputError("manifest: expected photos that can be used, got none")
    labels = torch.zeros(len(kept), 1, dtype=torch.int8)
    bags = FeatureBags(cached.array, cached.rows[usable], chosen.starts, labels, chosen.ids)
    return kept, torch.cat(list(batches_of_means(bags))).to(device)


def _head_settings(run: Run) -> HeadSettings:
    """The head of the run, trained in memory; of a run on the posterior the head that the posterior came from."""
    config = run.config
    q = 0.0 if config.q == "auto" else config.q
    chosen = run.folder / CHOICES
    if chosen.is_file() and read_json_object(chosen).get("train_on_posterior"):
        return replace(JOINT, q=q)
    values: dict[str, Any] = {name: getattr(config, name) for name in CHOSEN_FIELDS} | {"q": q}
    return HeadSettings(**values)


def _records_of(rows: Any, vocabulary: Vocabulary) -> Records:
    """The captions of the rows, and each row's list of tags."""
    words, bags = caption_words(rows, vocabulary)
    texts = [caption for captions in rows["captions"][:] for caption in captions or ()]
    listed = [row for row, tags in enumerate(rows["tags"][:]) if tags]
    tags = rows.select(listed).select_columns(["id", "tags"])
    of_tags = observed_labels(list(tags), vocabulary).numpy() == 1 if listed else np.zeros((0, len(vocabulary)), bool)
    return Records(
        sparse.csr_array(sparse.vstack([words, sparse.csr_array(of_tags.astype(np.float64))])),
        np.concatenate([bags, np.array(listed, dtype=np.int64)]),
        [*texts, *(", ".join(names) for names in tags["tags"][:])],
        np.arange(len(texts) + len(listed)) < len(texts),
    )


def _tag_lists(labels: Float[Tensor, "N K"], names: list[str]) -> Records:
    """The tags of each example that has any as one list."""
    present = labels.numpy() == 1
    bags = np.flatnonzero(present.any(1))
    texts = [", ".join(names[column] for column in row.nonzero()[0].tolist()) for row in present[bags]]
    words = sparse.csr_array(present[bags].astype(np.float64))
    return Records(words, bags, texts, np.zeros(len(bags), dtype=bool))
