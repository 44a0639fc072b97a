"""What a run learns before it trains: which captions belong to their bags, which noise model and q to use, and, where
there are no captions to weigh, what each tag probably means (`relabelling`).

All come from heads on the mean features of the backbone as it is at the start, out of sample and from noisy labels
alone. The training labels become soft; the validation labels, on which the epoch is chosen, stay as they were observed.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int8, Int64
from scipy import sparse
from torch import Tensor, nn

from truetag.data.batches import FeatureBags, PhotoBags, frame_indices
from truetag.data.labels import source_words
from truetag.data.manifest import Manifest
from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.io.tensors import State, read_tensors, write_tensors
from truetag.label_noise.heads import HeadSettings, out_of_sample_logits
from truetag.label_noise.relabelling import relabel, relabelled
from truetag.label_noise.selection import NUM_ERRORS, candidates, choose
from truetag.label_noise.validity import naming_shares, soft_labels, source_validity
from truetag.media.photos import Preprocessing
from truetag.models.backbones import digest_weights
from truetag.models.classifier import Classifier
from truetag.models.features import cached_features, feature_spec
from truetag.noise_models import FeatureIndependentNoise
from truetag.runs.config import TrainConfig
from truetag.training.preparation import TrainingData

CLEAN_SHARE = 0.95
"""From this share of valid captions on they count as clean."""
_BAGS_AT_A_TIME = 512


def learn_targets(
    config: TrainConfig,
    manifest: Manifest,
    vocabulary: Vocabulary,
    data: TrainingData,
    classifier: Classifier,
    preprocessing: Preprocessing,
    cache: Path | None,
    kept: Path,
    writes: bool,
) -> tuple[TrainConfig, nn.Module | None, list[str]]:
    """Make the training labels of `data` soft, if `config.validity`, and choose q, if it is None.

    Args:
        config: the settings of the run.
        manifest: whose rows `data` was made of.
        vocabulary: of the labels.
        data: the bags of the run, changed in place.
        classifier: with the backbone as it is at the start.
        preprocessing: of the backbone.
        cache: where features are cached.
        kept: the file that keeps what was learnt, for a run that goes on.
        writes: whether this process writes it.

    Returns:
        The settings with what was chosen; the noise model, if it is known and not to be trained; what to tell of both.

    Raises:
        InputError: the labels are taken for those of frames.
    """
    if not config.validity and config.q is not None:
        return config, None, []
    if config.level == "frame":
        raise InputError("level: validity and the choice of q need the labels of bags, got frame")
    sources = source_words(manifest.rows.select(data.train_rows), vocabulary) if config.validity else None
    if kept.is_file():
        state, note = read_tensors(kept)
    else:
        features = _mean_features(data, classifier, config, preprocessing, cache)
        state, note = learn_from_features(config, data.train.labels, features, sources)
        if writes:
            write_tensors(kept, state, note)
    if sources is not None and "validity" in state:
        data.train.labels = soften(*sources, state["validity"].numpy(), data.train.labels)
    noise_model = None
    if "posterior" in state:
        data.train.labels = state["posterior"].float()
        noise_model = FeatureIndependentNoise(len(vocabulary), state["missing"], state["incorrect"])
    return replace(config, **note["chosen"]), noise_model, note["said"]


def learn_from_features(
    config: TrainConfig,
    labels: Int8[Tensor, "N K"],
    features: Float[Tensor, "N D"],
    sources: tuple[sparse.csr_array, Int64[np.ndarray, "S"]] | None,
) -> tuple[State, dict[str, Any]]:
    """What `learn_targets` keeps, of features in memory.

    Args:
        config: whether q is to be chosen, and the seed.
        labels: as they were observed.
        features: the mean of each bag.
        sources: the words of each caption and its bag, if their validity is to be found.

    Returns:
        "validity" of each caption, or the "posterior" of each label with the rates that it comes from; and a note: what
        was "chosen", "held_out_ap" by candidate, and what to tell.
    """
    state: State = {}
    note: dict[str, Any] = {"chosen": {}, "said": []}
    settings = HeadSettings()
    targets = None
    if sources is not None:
        words, bags = sources
        sizes = np.bincount(bags, minlength=len(labels))
        if np.count_nonzero(sizes) >= 2:
            # the share of its captions that name a word; a bag without captions says nothing
            shares = naming_shares(words, bags, len(labels))
            shares[(labels < 0) | torch.from_numpy(sizes == 0).unsqueeze(1)] = -1
            logits = out_of_sample_logits(features, shares, HeadSettings(), seed=config.seed)
            found = source_validity(logits, words, bags, config.seed)
            state["validity"] = torch.from_numpy(found.probabilities)
            note["share_of_valid_captions"] = found.share
            note["said"].append(f"about {100 * found.share:.0f} % of {len(bags)} captions belong where they are")
            targets = soften(words, bags, found.probabilities, labels)
    if config.q is None:
        # where captions are known to be wrong, the plain head has no privilege
        errors = NUM_ERRORS if note.get("share_of_valid_captions", 1.0) >= CLEAN_SHARE else 0.0
        choice = choose(features, labels, candidates(settings), targets=targets, num_errors=errors, seed=config.seed)
        note["held_out_ap"] = choice.scores
        note["said"].append(f"chosen: {choice.reason}")
        settings = choice.settings
        if settings.relabel:
            found = relabel(features, labels, settings, seed=config.seed)
            rates = found.calibration
            state |= {"posterior": found.labels.half(), "missing": rates.missing, "incorrect": rates.incorrect}
            settings = relabelled(settings)
        note["chosen"] = {"noise_model": settings.noise_model, "q": settings.q}
    return state, note


def soften(
    words: sparse.csr_array,
    bags: Int64[np.ndarray, "S"],
    validity: Float64[np.ndarray, "S"],
    labels: Int8[Tensor, "N K"],
) -> Float[Tensor, "N K"]:
    """Labels by the validity of the captions that name them; what tags name stays present, what is unknown unknown."""
    soft = soft_labels(words, bags, validity, len(labels))
    said = naming_shares(words, bags, len(labels)) > 0
    return torch.where((labels == 1) & said, soft, labels.float())


def _mean_features(
    data: TrainingData, classifier: Classifier, config: TrainConfig, preprocessing: Preprocessing, cache: Path | None
) -> Float[Tensor, "N D"]:
    """The mean over regions and frames of each training bag."""
    bags = data.train
    if isinstance(bags, PhotoBags):
        probe = Classifier(classifier.backbone, len(classifier.feature_mean), 1).to(classifier.head.weight.device)
        spec = feature_spec(probe, config.backbone, digest_weights(classifier.backbone), preprocessing)
        cached = cached_features(bags.bags.frames, probe.eval(), spec, data.skips, cache)
        array, rows, starts = cached.array, cached.rows, bags.bags.starts
    else:
        array, rows, starts = bags.features, bags.rows, bags.starts
    return torch.cat(list(_means(FeatureBags(array, rows, starts, bags.labels, bags.ids))))


def _means(bags: FeatureBags) -> Iterator[Float[Tensor, "B D"]]:
    for first in range(0, len(bags), _BAGS_AT_A_TIME):
        frames_of, mask = frame_indices(bags.starts, range(first, min(first + _BAGS_AT_A_TIME, len(bags))))
        rows = bags.rows[frames_of]
        there = torch.from_numpy(rows >= 0) if mask is None else torch.from_numpy(rows >= 0) & mask
        frames = torch.from_numpy(np.asarray(bags.features[rows])).float().mean(2)
        frames = torch.where(there.unsqueeze(-1), frames, 0)
        yield frames.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
