"""Training: `train` prepares the data and runs two stages, the first without, the second with the noise model.

Stage 1 fits the classifier alone. Stage 2 continues with the noise model or (the fair baseline, `*` in the paper) for
the same number of epochs without it. The epoch that is kept is the one with the best mean AP against the noisy
validation tags: no true label is ever looked at. A run that was stopped, or killed, continues from its last checkpoint
and ends with the very weights that it would have had (bit for bit on CPU).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from truetag.data.bags import features_file
from truetag.data.batches import EpochBatches, PhotoBags
from truetag.data.embeddings import open_embeddings
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import function_words, read_vocabulary
from truetag.evaluation.decisions import best_threshold, decision_scores, expected_f1_thresholds
from truetag.io.files import remove_leftovers, write_text
from truetag.io.paths import takes_paths
from truetag.io.tensors import digest_state
from truetag.io.terminal import tell
from truetag.label_noise.frequencies import match_frequencies
from truetag.label_noise.linear_head import label_frequencies
from truetag.label_noise.relabelling import match_logits
from truetag.media.digests import default_cache_folder
from truetag.media.files import Reading, SkipList
from truetag.media.preprocessing import Preprocessing
from truetag.models.backbones import load_backbone
from truetag.models.building import build_classifier
from truetag.models.classifier import Classifier
from truetag.noise_models import NoiseModel, make_noise_model
from truetag.runs.config import EMBEDDINGS, TrainConfig
from truetag.runs.folder import Run, create_run, lock_run, open_run
from truetag.runs.journal import Epoch, Journal
from truetag.runs.noise_model import save_noise_model
from truetag.runs.paths import is_run, require_new_folder
from truetag.runs.tracker import require_tracker
from truetag.training.preparation import (
    Bags,
    TrainingData,
    TrainingInputs,
    config_for,
    count_labels,
    prepare_data,
    warn_of_labels,
)
from truetag.training.resuming import stopped_run, take_over
from truetag.training.stage import ObservedNetwork, Stage, stage_settings, trained_state
from truetag.training.targets import Targets, learn_targets

STATISTICS_BATCHES = 100
NOISY_OR_STEPS = 4
"""A noisy-OR follows its biases nearly, not exactly: so often the frequencies are matched."""


@takes_paths
def train(
    config: TrainConfig,
    data: Path,
    vocabulary: Path,
    out: Path,
    start_from: Path | None = None,
    resume: bool = False,
    reading: Reading = Reading(),
    features: Path | None = None,
) -> Run:
    """Train one recipe and leave a run folder.

    Args:
        config: all settings.
        data: the manifest; rows with split `train` (or none) are learnt from.
        vocabulary: the word list that gives the labels.
        out: the run folder to make.
        start_from: a run whose stage 1 is taken over instead of trained again.
        resume: continue the run in `out` where it was stopped; begin it if there is none yet.
        reading: how photos and clips are read.
        features: a file of embeddings to learn from instead of the photos.

    Raises:
        InputError: a setting, the data or `out` is not what it should be; or training diverges.
    """
    if config.noise_model != "auto":
        make_noise_model(config.noise_model, 1, 1)  # an unknown name ends here, before any work
    require_tracker(config.log_to)
    words = read_vocabulary(vocabulary)
    manifest = read_manifest(data)
    features_path = features or features_file(manifest)
    config = config_for(config, features_path)
    accelerator = Accelerator(mixed_precision=config.precision)
    writes = accelerator.is_main_process  # several processes (`accelerate launch`) compute alike; one of them writes
    with ExitStack() as stack:
        stopped = None
        if resume and is_run(out):
            if writes:  # before anything of it is read: another command may be at it
                stack.enter_context(lock_run(out))
                remove_leftovers(out)
            stopped = stopped_run(out, config, words.words)
        if stopped is None:
            require_new_folder(out)
        elif stopped.is_finished:
            tell(f"{out} is finished already")
            if writes:
                Journal(out, config.checkpoint_seconds).checkpoints.clear()  # it may have been killed just before this
            return stopped
        classifier, preprocessing = _new_classifier(config, len(words), features_path, accelerator.device)
        inputs = TrainingInputs(config, manifest, words, classifier, preprocessing, reading, features)
        bags = prepare_data(inputs)
        taken_over = None if start_from is None else _take_over_stage1(inputs, start_from)
        accelerator.wait_for_everyone()
        run = stopped or Run(out, config, words, inputs.preprocessing)
        if stopped is None and writes:
            run = create_run(out, config, words, inputs.preprocessing)
            stack.enter_context(lock_run(out))
        journal = stack.enter_context(Journal(run.folder, config.checkpoint_seconds, writes, config.log_to))
        origin = {
            "the training data": bags.fingerprint(),
            "--from": None if taken_over is None else taken_over.fingerprint,
        }
        bags.skips.restore(journal.begin(origin, stopped is not None))
        targets = _learn_targets(inputs, bags, run, writes)
        training = _Training(run, inputs.classifier, bags, targets.config, accelerator, journal)
        noise_model = training.run_stages(None if taken_over is None else taken_over.history)
        if targets.logit_moments is not None and config.freeze_backbone and config.pooling == "mean":
            match_logits(inputs.classifier.head, training.training_logits(), targets.logit_moments)
        if targets.frequencies is not None:
            training.match_frequencies(targets.frequencies)
        skips = _gather_skips(bags.skips)
        if writes:
            skips.write(run.folder / "skipped.jsonl")
            if (noise_model := targets.noise_model or noise_model) is not None:
                save_noise_model(run, noise_model, inputs.classifier.num_noise_features)
            _choose_threshold(run, training.validation_logits(), bags.validation.labels, targets.doubts_labels)
            # the last: a run that has it is finished
            run.save_classifier(inputs.classifier.state_dict(), _shared_backbones(config, reading))
            journal.checkpoints.clear()
        accelerator.wait_for_everyone()
    return replace(run, config=targets.config)


def _shared_backbones(config: TrainConfig, reading: Reading) -> Path | None:
    """Where frozen backbones are kept once."""
    if not config.freeze_backbone or config.backbone == EMBEDDINGS:
        return None
    return (reading.cache or default_cache_folder()) / "backbones"


def _new_classifier(
    config: TrainConfig, num_labels: int, features: Path | None, device: torch.device
) -> tuple[Classifier, Preprocessing]:
    """The classifier before its first step, and what it expects of a photo.

    Args:
        config: all settings.
        num_labels: K.
        features: a file of embeddings of the width that it is to read; None for photos.
        device: where the classifier goes.
    """
    width = None if features is None else open_embeddings(features).array.shape[1]
    with torch.random.fork_rng():  # weights that are not loaded are drawn, by layers that take no generator
        torch.manual_seed(config.seed)
        backbone, preprocessing = load_backbone(config.backbone, config.weights, config.resolution)
        classifier = build_classifier(config, backbone, preprocessing, num_labels, width).to(device)
        if config.channels_last:
            classifier = classifier.to(memory_format=torch.channels_last)
    return classifier, preprocessing


@dataclass(frozen=True)
class _TakenOver:
    """Stage 1 of another run: its history, and a fingerprint of its weights."""

    history: list[Epoch]
    fingerprint: str


def _take_over_stage1(inputs: TrainingInputs, start_from: Path) -> _TakenOver:
    other = open_run(start_from)
    take_over(inputs.classifier, other, inputs.config, inputs.vocabulary.words)
    history = [record for record in other.history() if record["stage"] == 1]
    return _TakenOver(history, digest_state(trained_state(inputs.classifier, inputs.config.freeze_backbone)))


def _learn_targets(inputs: TrainingInputs, bags: TrainingData, run: Run, writes: bool) -> Targets:
    """Warn of labels, learn what the settings leave open, and record it in the run folder.

    Args:
        inputs: the classifier and the settings.
        bags: the bags.
        run: its folder gets the record.
        writes: whether this process writes.
    """
    if writes:
        warn_of_labels(bags.train.labels, inputs.vocabulary)
        write_text(run.folder / "labels.tsv", count_labels(bags.train.labels, inputs.vocabulary))
    targets = learn_targets(inputs, bags, run.folder / "targets.safetensors", writes)
    if writes and targets.note:
        run.record_choice(targets.config, targets.note)
        for message in targets.messages:
            tell(message)
    return targets


@dataclass(frozen=True)
class _Training:
    """Both stages, or what of them is not done yet."""

    run: Run
    classifier: Classifier
    data: TrainingData
    config: TrainConfig
    accelerator: Accelerator
    journal: Journal

    def run_stages(self, stage1_history: list[Epoch] | None) -> NoiseModel | None:
        """Train, and return the noise model. With the history of a stage 1 that was taken over, only stage 2 runs."""
        config, classifier, journal = self.config, self.classifier, self.journal
        if journal.resumed_at(2) is None:
            if stage1_history is None:
                if journal.resumed is None:
                    _initialise(classifier, self.data, config)
                self._run_stage(1, None)
            else:
                for record in stage1_history:
                    journal.log(record)
            if journal.writes:
                self.run.save_state("stage1", trained_state(classifier, config.freeze_backbone))
        if not config.stage2_epochs:
            return None
        noise_model = make_noise_model(
            config.noise_model,
            classifier.num_noise_features,
            len(classifier.head.bias),
            config.initial_missing_rate,
            config.initial_incorrect_rate,
        )
        self._run_stage(2, noise_model)
        return noise_model

    def match_frequencies(self, frequencies: Float[Tensor, "K"]) -> None:
        """Shift the biases, so that each label is as frequent among the training bags as it would be without noise."""
        for _ in range(1 if self.config.pooling == "mean" else NOISY_OR_STEPS):
            match_frequencies(self.classifier.head, self.training_logits(), frequencies)

    def training_logits(self) -> Float[Tensor, "N K"]:
        """The classifier's logits of all training bags."""
        return self._logits(self.data.train)

    def validation_logits(self) -> Float[Tensor, "M K"]:
        """The classifier's logits of all validation bags."""
        return self._logits(self.data.validation)

    @torch.inference_mode()
    def _logits(self, bags: Bags) -> Float[Tensor, "N K"]:
        self.classifier.eval()
        logits = []
        for picks in EpochBatches(len(bags), 4 * self.config.batch_size, 0, shuffle=False):
            batch = bags.__getitems__(picks)
            inputs, mask = send_to_device((batch.inputs, batch.mask), self.accelerator.device)
            logits.append(self.classifier(inputs, mask)[0].float())
        return torch.cat(logits)

    def _run_stage(self, number: int, noise_model: NoiseModel | None) -> None:
        settings = stage_settings(self.config, number, self.classifier.head.weight.shape[1])
        network = ObservedNetwork(self.classifier, noise_model, self.config.detach_features)
        Stage(settings, network, self.data, self.accelerator, self.journal, self.config).run()


def _choose_threshold(
    run: Run, logits: Float[Tensor, "M K"], labels: Shaped[Tensor, "M K"], doubts_labels: bool
) -> None:
    """Keep the threshold with the best overall F1 of the words that `predict` writes, if there is anything to judge.

    Args:
        run: gets the threshold.
        logits: of the validation bags.
        labels: theirs, as observed.
        doubts_labels: whether F1 is what the probabilities let expect, instead of what the observed labels say.
    """
    left_out = set(function_words(run.vocabulary))
    written = [index for index, word in enumerate(run.vocabulary.words) if word not in left_out]
    probabilities, labels = logits[:, written].sigmoid().cpu(), labels[:, written].cpu()
    if not (labels == 1).any():
        tell("threshold: none could be chosen, as no validation row has a tag; predict and evaluate use 0.5")
        return
    if doubts_labels:
        as_one = probabilities.reshape(-1, 1)
        threshold = expected_f1_thresholds(as_one, as_one).item()
        run.save_threshold(threshold)
        tell(f"threshold: {threshold:.3f} lets expect the best F1 on the validation rows; predict uses it")
        return
    threshold = best_threshold(probabilities, labels)
    run.save_threshold(threshold)
    of1 = decision_scores(probabilities, labels, threshold)["of1"]
    tell(f"threshold: {threshold:.3f} has the best F1 on the validation tags, {100 * of1:.1f}; predict uses it")


def _initialise(classifier: Classifier, data: TrainingData, config: TrainConfig) -> None:
    """Set what the training data decides before the first step: feature statistics and label frequencies."""
    bags = data.train
    device = classifier.head.weight.device
    num_regions = 1

    def batches() -> Iterator[Tensor]:
        nonlocal num_regions
        batches = EpochBatches(len(bags), config.batch_size, config.seed, shuffle=True)
        for number, picks in enumerate(batches):
            if number == STATISTICS_BATCHES and isinstance(bags, PhotoBags):
                return
            batch = bags.__getitems__(picks)
            data.skips.report_all(batch.skipped)
            # a bag whose frames all fail to decode has unknown labels and black pixels
            usable = (batch.labels >= 0).any(1)
            mask = None if batch.mask is None else batch.mask[usable]
            frames = batch.inputs[usable].flatten(0, 1) if mask is None else batch.inputs[usable][mask]
            frames = frames.to(device)
            regions = classifier.extract(frames) if frames.ndim == 4 else frames
            num_regions = regions.shape[1]
            yield regions

    classifier.eval()
    if config.standardise:
        classifier.set_feature_statistics(batches())
    elif config.pooling == "noisy-or":
        next(batches())
    if config.initial_bias is not None:
        nn.init.constant_(classifier.head.bias, config.initial_bias)
    else:
        num_frames = bags.starts[-1] / len(bags)
        classifier.set_prior(label_frequencies(bags.labels).to(device), num_regions * num_frames)


def _gather_skips(skips: SkipList) -> SkipList:
    """The skip list of all processes, in order of ids."""
    gathered = SkipList(skips.max_skipped, skips.total)
    gathered.restore(sorted(gather_object(skips.to_json())))
    return gathered
