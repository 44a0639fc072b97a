"""Training: `train` prepares the data and runs two stages, the first without, the second with the noise model.

Stage 1 fits the classifier alone. Stage 2 goes on from there, with the noise model or (the fair baseline, `*` in the
paper) for the same number of epochs without. The epoch that is kept is the one with the best mean AP against the noisy
validation tags: no true label is ever looked at. A run that was stopped, or killed, goes on from its last checkpoint
and ends with the very weights that it would have had (bit for bit on CPU).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from truetag.data.batches import EpochBatches, PhotoBags
from truetag.data.manifest import read_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.io.files import remove_leftovers, write_text
from truetag.io.tensors import digest_state
from truetag.io.terminal import tell
from truetag.media.files import Reading, SkipList
from truetag.models.backbones import load_backbone
from truetag.models.building import build_classifier
from truetag.models.classifier import Classifier
from truetag.runs.config import TrainConfig
from truetag.runs.folder import Run, create_run, is_run, lock_run, open_run, require_new_folder
from truetag.runs.journal import Epoch, Journal
from truetag.training.observed_tagger import make_noise_model
from truetag.training.preparation import TrainingData, count_labels, prepare_data, warn_of_labels
from truetag.training.resuming import stopped_run, take_over
from truetag.training.stage import Stage, trained_state
from truetag.training.targets import learn_targets

STATISTICS_BATCHES = 100


def train(
    config: TrainConfig,
    data: Path,
    vocabulary: Path,
    out: Path,
    start_from: Path | None = None,
    resume: bool = False,
    reading: Reading = Reading(),
) -> Run:
    """Train one recipe and leave a run folder.

    Args:
        config: all settings.
        data: the manifest; rows with split `train` (or none) are learnt from.
        vocabulary: the word list that gives the labels.
        out: the run folder to make.
        start_from: a run whose stage 1 is taken over instead of trained again.
        resume: go on with the run in `out` where it was stopped; begin it if there is none yet.
        reading: how photos and clips are read.
    """
    words = read_vocabulary(vocabulary)
    accelerator = Accelerator(mixed_precision=config.precision)
    # several processes (`accelerate launch`) compute alike; one of them writes
    writes = accelerator.is_main_process
    with ExitStack() as stack:
        stopped = None
        if resume and is_run(out):
            if writes:  # before anything of it is read: it may be under way elsewhere
                stack.enter_context(lock_run(out))
                remove_leftovers(out)
            stopped = stopped_run(out, config, words)
        if stopped is None:
            require_new_folder(out)
        elif stopped.is_finished:
            tell(f"{out} is finished already")
            if writes:
                Journal(stopped, writes).checkpoints.clear()  # it may have been killed when all was done but this
            return stopped
        source = None if start_from is None else open_run(start_from)
        manifest = read_manifest(data)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)  # weights that are not loaded are drawn
            backbone, preprocessing = load_backbone(config.backbone, config.weights, config.resolution)
            classifier = build_classifier(config, backbone, preprocessing, len(words)).to(accelerator.device)
        bags = prepare_data(config, manifest, words, classifier, preprocessing, reading)
        origin = {"the training data": bags.digest(), "--from": None}
        history: list[Epoch] = []
        if source is not None:
            take_over(classifier, source, config, words)
            history = [record for record in source.history() if record["stage"] == 1]
            origin["--from"] = digest_state(trained_state(classifier, config))
        accelerator.wait_for_everyone()
        run = stopped or Run(out, config, words, preprocessing)
        if stopped is None and writes:
            run = create_run(out, config, words, preprocessing)
            stack.enter_context(lock_run(out))
        journal = stack.enter_context(Journal(run, writes))
        bags.skips.restore(journal.begin(origin, stopped is not None))
        if writes:
            warn_of_labels(bags.train.labels, words)
            write_text(run.folder / "labels.tsv", count_labels(bags.train.labels, words))
        chosen, known_noise, said = learn_targets(
            *(config, manifest, words, bags, classifier, preprocessing, reading.cache),
            kept=run.folder / "targets.safetensors",
            writes=writes,
        )
        journal.run = replace(run, config=chosen)
        if writes:
            for line in said:
                tell(line)
        noise_model = _train_stages(classifier, bags, journal, accelerator, None if source is None else history)
        skips = _gather_skips(bags.skips)
        if writes:
            skips.write(run.folder / "skipped.jsonl")
            if (noise_model := noise_model or known_noise) is not None:
                run.save_state("noise_model", noise_model.state_dict())
            run.save_state("classifier", classifier.state_dict())  # the last: a run that has it is finished
            journal.checkpoints.clear()
        accelerator.wait_for_everyone()
    return run


def _train_stages(
    classifier: Classifier,
    data: TrainingData,
    journal: Journal,
    accelerator: Accelerator,
    stage1_history: list[Epoch] | None,
) -> nn.Module | None:
    """Both stages, or what of them is not done yet; returns the noise model.

    With the history of a stage 1 that was taken over there is only the second.
    """
    config = journal.run.config
    if journal.resumed_at(2) is None:
        if stage1_history is None:
            if journal.resumed is None:
                _start(classifier, data, config)
            Stage(1, classifier, None, data, accelerator, journal).run()
        else:
            for record in stage1_history:
                journal.log(record)
        if journal.writes:
            journal.run.save_state("stage1", trained_state(classifier, config))
    if not config.stage2_epochs:
        return None
    rates = (config.initial_missing_rate, config.initial_incorrect_rate)
    num_features, num_labels = classifier.num_noise_features, len(journal.run.vocabulary)
    noise_model = make_noise_model(config.noise_model, num_features, num_labels, *rates)
    Stage(2, classifier, noise_model, data, accelerator, journal).run()
    return noise_model


def _start(classifier: Classifier, data: TrainingData, config: TrainConfig) -> None:
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
            # of a bag without any frame that can be decoded nothing is known, and it looks like nothing
            known = (batch.labels >= 0).any(1)
            frames = batch.inputs[known].flatten(0, 1) if batch.mask is None else batch.inputs[known][batch.mask[known]]
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
        known = bags.labels >= 0
        frequencies = torch.where(known, bags.labels, 0).float().sum(0) / known.sum(0).clamp(min=1)
        num_frames = bags.starts[-1] / len(bags)
        classifier.set_prior(frequencies.to(device), num_regions * num_frames)


def _gather_skips(skips: SkipList) -> SkipList:
    """The skip list of all processes, in the order of ids."""
    gathered = SkipList(1.0, skips.total)
    gathered.restore(sorted(gather_object(skips.to_json())))
    return gathered
