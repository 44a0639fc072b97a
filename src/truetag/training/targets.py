"""What a run learns before it trains: which captions belong to their bags, which noise model and q suit the labels,
and, where there are no captions to weigh, what each tag probably means (`label_noise.relabelling`).

All of it comes from heads on the mean features of the untrained backbone, out of sample and from noisy labels alone.
The training labels become soft; the validation labels, which choose the epoch, stay as they were observed. Where the
manifest states `tag_probabilities`, they are the training labels, whatever else was learnt.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int8, Int64
from scipy import sparse
from torch import Tensor

from truetag.data.batches import FeatureBags, PhotoBags, batches_of_means
from truetag.data.labels import caption_words, decided_labels
from truetag.io.tensors import State, read_tensors, write_tensors
from truetag.io.terminal import Progress
from truetag.label_noise.frequencies import named_if_valid
from truetag.label_noise.heads import NUM_FOLDS, out_of_sample_logits
from truetag.label_noise.relabelling import (
    LogitMoments,
    calibrated_logits,
    moments_of,
    posterior_of,
    second_head_settings,
)
from truetag.label_noise.selection import candidates, choose, describe
from truetag.label_noise.settings import HeadSettings
from truetag.label_noise.validity import caption_validity, naming_shares, soft_labels
from truetag.models.classifier import Classifier
from truetag.models.features import features_of
from truetag.noise_models import FeatureIndependentNoise, NoiseModel
from truetag.runs.config import TrainConfig
from truetag.training.preparation import TrainingData, TrainingInputs

CLEAN_SHARE = 0.95
"""From this share of valid captions on they count as clean."""
CHOSEN_FIELDS = (
    *("noise_model", "q", "initial_missing_rate", "initial_incorrect_rate", "noise_learning_rate"),
    *("stage1_epochs", "stage2_epochs"),
)
"""The settings that a choice decides."""


class Captions(NamedTuple):
    """All captions: the words that each names, and its bag."""

    words: sparse.csr_array
    """[S, K], 1 where the caption names the word."""
    bags: Int64[np.ndarray, "S"]


@dataclass(frozen=True)
class Targets:
    """What was learnt before training."""

    config: TrainConfig
    """The settings with what was chosen: those of the run that follows."""
    noise_model: NoiseModel | None
    """The estimated rates; None where none were estimated."""
    logit_moments: LogitMoments | None
    """Mean and deviation of calibrated out-of-sample logits; None where none were computed."""
    frequencies: Float[Tensor, "K"] | None
    """How often each label would be present if all captions belonged where they are; None without captions."""
    note: dict[str, Any]
    """What was chosen and why, for chosen.json; empty where nothing was open."""
    messages: list[str]
    """The same in words."""

    @property
    def doubts_labels(self) -> bool:
        """Whether observed labels were found to be wrong, so that probabilities say more than they do."""
        share = self.note.get("share_of_valid_captions")
        if share is not None:
            return share < CLEAN_SHARE
        return self.noise_model is not None and (self.config.noise_model != "none" or self.note["train_on_posterior"])


def learn_targets(inputs: TrainingInputs, data: TrainingData, path: Path, writes: bool) -> Targets:
    """Soften the training labels of `data` in place, and choose the noise model, as the settings ask.

    Args:
        inputs: what the run learns from.
        data: its bags; the labels of the training bags change.
        path: the file that holds what was learnt, for a run that is resumed.
        writes: whether this process writes it.
    """
    targets = _learn(inputs, data, path, writes)
    if data.soft is not None:
        data.train.labels = torch.where(data.soft.isnan(), data.train.labels.float(), data.soft)
    return targets


def _learn(inputs: TrainingInputs, data: TrainingData, path: Path, writes: bool) -> Targets:
    config = inputs.config
    if not config.validity and config.noise_model != "auto":
        return Targets(config, None, None, None, {}, [])
    rows = inputs.manifest.rows.select(data.train_rows)
    captions = Captions(*caption_words(rows, inputs.vocabulary)) if config.validity else None
    if path.is_file():
        state, note = read_tensors(path)
    else:
        # on the accelerator, if there is one: heads are trained in a fraction of the time
        features = _mean_features(inputs, data).to(inputs.classifier.head.weight.device)
        state, note = learn_from_features(config, data.train.labels, features, captions, rows["group"][:])
        if writes:
            write_tensors(path, state, note)
    observed = data.train.labels
    if captions is not None and "validity" in state:
        data.train.labels = soften(captions, state["validity"].numpy(), observed)
    if "posterior" in state:
        data.train.labels = state["posterior"].float()
    if data.train.labels is not observed:  # what a person has decided stays as it is
        decided = decided_labels(rows, inputs.vocabulary)
        data.train.labels = torch.where(decided, observed.float(), data.train.labels)
    noise_model = moments = None
    if "missing" in state:
        noise_model = FeatureIndependentNoise(len(inputs.vocabulary), state["missing"], state["incorrect"])
        moments = LogitMoments(state["logit_mean"], state["logit_deviation"])
    messages = note.pop("messages")
    chosen = replace(config, **note["chosen"])
    return Targets(chosen, noise_model, moments, state.get("frequencies"), note, messages)


def learn_from_features(
    config: TrainConfig,
    labels: Int8[Tensor, "N K"],
    features: Float[Tensor, "N D"],
    captions: Captions | None,
    groups: Sequence[Hashable] | None = None,
) -> tuple[State, dict[str, Any]]:
    """What `learn_targets` keeps, from features in memory.

    Args:
        config: whether the noise model is open, the epochs, and the seed.
        labels: as they were observed.
        features: the mean feature of each bag.
        captions: to be weighed by their validity; None where they are not.
        groups: near-duplicates, none of which is learnt from where another is predicted.

    Returns:
        The "validity" of each caption with the "frequencies" of labels if all were valid; or the rates of wrong labels
        with the moments of calibrated logits, and the "posterior" of each label if it is trained on. And a note: the
        settings that were "chosen", "held_out_ap" of each candidate, and "messages".
    """
    state: State = {}
    note: dict[str, Any] = {"chosen": {}, "messages": []}
    targets = None
    if captions is not None and len(np.unique(captions.bags)) >= 2:
        shares = _naming_shares(captions, labels)
        with Progress("asking of each caption whether it belongs to its photo", NUM_FOLDS) as progress:
            logits = out_of_sample_logits(
                features, shares, groups=groups, seed=config.seed, on_fold=progress.advance
            ).cpu()
        validity = caption_validity(logits, captions.words, captions.bags, groups, config.seed)
        state["validity"] = torch.from_numpy(validity.probabilities)
        state["frequencies"] = named_if_valid(captions.words, captions.bags, validity.probabilities, len(labels))
        note["share_of_valid_captions"] = validity.share
        percent = 100 * validity.share
        note["messages"].append(f"about {percent:.0f} % of {len(captions.bags)} captions belong where they are")
        targets = soften(captions, validity.probabilities, labels)
    if config.noise_model != "auto":
        return state, note
    settings = HeadSettings(stage1_epochs=config.stage1_epochs, stage2_epochs=config.stage2_epochs)
    q = None if config.q == "auto" else config.q
    among = candidates(settings, q, with_solved=False)
    with Progress("choosing how to treat the noise", None, even=False) as progress:
        choice = choose(
            features,
            labels,
            among,
            targets=targets,
            groups=groups,
            seed=config.seed,
            on_compared=lambda compared: progress.advance(1, f"tried {describe(compared)}"),
        )
    settings = choice.settings
    note |= {"held_out_ap": choice.scores, "reason": choice.reason, "train_on_posterior": settings.train_on_posterior}
    note["messages"].append(f"chosen: {choice.reason}")
    if targets is None and choice.scores:  # as `NoisyLabelClassifier` does, whatever was chosen
        with Progress("estimating the rates of wrong tags", NUM_FOLDS) as progress:
            calibrated = calibrated_logits(
                features, labels, settings, groups=groups, seed=config.seed, on_fold=progress.advance
            )
        rates, moments = calibrated.calibration, moments_of(calibrated.logits)
        state |= {"missing": rates.missing, "incorrect": rates.incorrect}
        state |= {"logit_mean": moments.mean, "logit_deviation": moments.deviation}
        if settings.train_on_posterior:
            state["posterior"] = posterior_of(calibrated, labels, groups=groups, seed=config.seed).half()
            settings = second_head_settings(settings)
    note["chosen"] = {name: getattr(settings, name) for name in CHOSEN_FIELDS}
    return state, note


def soften(captions: Captions, validity: Float64[np.ndarray, "S"], labels: Int8[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Labels by the validity of the captions that name them; tags stay present, and unknown labels unknown."""
    soft = soft_labels(captions.words, captions.bags, validity, len(labels))
    named = naming_shares(captions.words, captions.bags, len(labels)) > 0
    return torch.where((labels == 1) & named, soft, labels.float())


def _naming_shares(captions: Captions, labels: Int8[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """The share of a bag's captions that name each word; unknown where the label is, or where there is no caption."""
    shares = naming_shares(captions.words, captions.bags, len(labels))
    has_captions = torch.from_numpy(np.bincount(captions.bags, minlength=len(labels)) > 0)
    return torch.where((labels >= 0) & has_captions.unsqueeze(1), shares, -1)


def _mean_features(inputs: TrainingInputs, data: TrainingData) -> Float[Tensor, "N D"]:
    """The mean over regions and frames of each training bag."""
    bags = data.train
    if isinstance(bags, PhotoBags):
        classifier = inputs.classifier
        probe = Classifier(classifier.backbone, classifier.num_features, 1).to(classifier.head.weight.device)
        cached = features_of(
            bags.bags.frames, probe, inputs.config.backbone, inputs.preprocessing, data.skips, inputs.reading.cache
        )
        bags = FeatureBags(cached.array, cached.rows, bags.starts, bags.labels, bags.ids)
    return torch.cat(list(batches_of_means(bags)))
