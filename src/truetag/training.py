"""Training: `train` prepares the data and calls `fit` twice, once without and once with the noise model.

Stage 1 fits the classifier alone. Stage 2 goes on from there, with the noise model or (the fair baseline, `*` in the
paper) for the same number of epochs without. The epoch that is kept is the one with the best mean AP against the noisy
validation tags: no true label is ever looked at.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from truetag.backbones import digest_weights, load_backbone
from truetag.classifier import Classifier
from truetag.config import TrainConfig
from truetag.data.bags import Batch, EpochBatches, FeatureBags, PhotoBags, Skipped
from truetag.data.labels import observed_labels
from truetag.data.manifest import Manifest, read_manifest
from truetag.data.media import Preprocessing
from truetag.data.splits import stratified_split
from truetag.data.vocabulary import Vocabulary, read_vocabulary
from truetag.errors import InputError
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.features import cached_features, feature_spec
from truetag.latent import observe
from truetag.noise_models import FeatureDependentNoise, FeatureIndependentNoise
from truetag.objectives import q_likelihood
from truetag.progress import Progress
from truetag.runs import Run, create_run, open_run, require_new_folder, write_skipped

Bags = FeatureBags | PhotoBags
Epoch = dict[str, Any]
"""One line of the history."""
STATISTICS_BATCHES = 100
_SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class TrainingData:
    """Bags to learn from, bags to choose the epoch on, and the photos of both that could not be used."""

    train: Bags
    validation: Bags
    skipped: list[Skipped]


def train(
    config: TrainConfig,
    data: Path,
    vocabulary: Path,
    out: Path,
    start_from: Path | None = None,
    cache: Path | None = None,
) -> Run:
    """Train one recipe and leave a run folder.

    Args:
        config: all settings.
        data: the manifest; rows with split `train` (or none) are learnt from.
        vocabulary: the word list that gives the labels.
        out: the run folder to make.
        start_from: a run whose stage 1 is taken over instead of trained again.
        cache: where features are cached; by default in the user's cache folder.
    """
    require_new_folder(out)
    source = None if start_from is None else open_run(start_from)
    manifest, words = read_manifest(data), read_vocabulary(vocabulary)
    accelerator = Accelerator(mixed_precision=config.precision)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # weights that are not loaded are drawn
        backbone, preprocessing = load_backbone(config.backbone, config.weights, config.resolution)
        classifier = _build_classifier(config, backbone, preprocessing, len(words)).to(accelerator.device)
    training_data = _prepare_data(config, manifest, words, classifier, preprocessing, cache)
    if source is not None:
        _take_over(classifier, source, config, words)
    # several processes (`accelerate launch`) compute alike; one of them writes
    writes = accelerator.is_main_process
    run = create_run(out, config, words, preprocessing) if writes else Run(out, config, words, preprocessing)

    with ExitStack() as stack:
        board = stack.enter_context(SummaryWriter(str(run.folder / "tensorboard"))) if writes else None

        def log(record: Epoch) -> None:
            if board is None:
                return
            run.append_history(record)
            for name in record.keys() - {"stage", "epoch"}:
                board.add_scalar(f"stage{record['stage']}/{name}", record[name], record["epoch"])

        if source is None:
            _start(classifier, training_data.train, config)
            fit(classifier, None, training_data, config, accelerator, log, stage=1)
        else:
            for record in source.history():
                if record["stage"] == 1:
                    log(record)
        stage1 = _copy_trained(classifier, config)
        noise_model = None
        if config.stage2_epochs:
            noise_model = make_noise_model(config, classifier.head.in_features, len(words))
            fit(classifier, noise_model, training_data, config, accelerator, log, stage=2)
    if writes:
        undecoded = [skip for part in (training_data.train, training_data.validation) for skip in part.skipped]
        if training_data.skipped or undecoded:
            write_skipped(run.folder / "skipped.jsonl", training_data.skipped + undecoded)
        run.save_state("stage1", stage1)
        run.save_state("classifier", classifier.state_dict())
        if noise_model is not None:
            run.save_state("noise_model", noise_model.state_dict())
    accelerator.wait_for_everyone()
    return run


def fit(
    classifier: Classifier,
    noise_model: nn.Module | None,
    data: TrainingData,
    config: TrainConfig,
    accelerator: Accelerator,
    log: Callable[[Epoch], None],
    stage: int,
) -> None:
    """One stage: minimise the objective on the observed logits; keep the epoch that `config.select` chooses.

    Raises:
        InputError: the loss stops being finite.
    """
    num_epochs = config.stage1_epochs if stage == 1 else config.stage2_epochs
    loader, batches = _loader(data.train, config, stage)
    optimiser = _make_optimiser(classifier, noise_model, config, stage)
    num_steps = num_epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, num_steps, config.warmup))
    network = ObservedTagger(classifier, noise_model, config.detach_features)
    prepared, optimiser, loader, schedule = accelerator.prepare(network, optimiser, loader, schedule)

    best_ap, best_state = -math.inf, _copy_trained(network, config)
    with Progress(f"stage {stage}", num_epochs * len(loader)) as progress, torch.random.fork_rng():
        for epoch in range(1, num_epochs + 1):
            started = time.monotonic()
            # dropout draws from the global generator: seeded here, an epoch can be repeated by itself
            torch.manual_seed(config.seed * 1_000_003 + stage * 10_007 + epoch * 101 + accelerator.process_index)
            loader.set_epoch(epoch)  # which a single process hands on to the sampler, and several do not
            batches.set_epoch(epoch)
            network.train()
            if config.freeze_backbone:
                classifier.backbone.eval()
            total = torch.zeros((), device=accelerator.device)
            for batch in loader:
                with accelerator.autocast():
                    loss = q_likelihood(prepared(batch.inputs), batch.labels, config.q, config.loss)
                accelerator.backward(loss)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
                total += loss.detach()
                progress.advance(1)
            mean_loss = (total / len(loader)).item()
            if not math.isfinite(mean_loss):
                raise InputError(f"the loss of stage {stage}, epoch {epoch} is {mean_loss}; lower learning_rate")
            validation_ap = _validation_ap(classifier, data.validation, config, accelerator.device)
            progress.advance(0, f"loss {mean_loss:.4f}, validation AP {100 * validation_ap:.2f}")
            log(
                {
                    "stage": stage,
                    "epoch": epoch,
                    "loss": mean_loss,
                    "validation_ap": validation_ap,
                    "learning_rate": schedule.get_last_lr()[0],
                    "seconds": round(time.monotonic() - started, 2),
                    **_mean_rates(noise_model),
                }
            )
            if validation_ap > best_ap or config.select == "last":
                best_ap, best_state = validation_ap, _copy_trained(network, config)
    network.load_state_dict(best_state, strict=False)


def make_noise_model(config: TrainConfig, num_features: int, num_labels: int) -> nn.Module | None:
    """The noise model that the config names, at its start."""
    rates = (config.initial_missing_rate, config.initial_incorrect_rate)
    match config.noise_model:
        case "none":
            return None
        case "fi":
            return FeatureIndependentNoise(num_labels, *rates)
        case "fd":
            return FeatureDependentNoise(num_features, num_labels, *rates)


class ObservedTagger(nn.Module):
    """observe o noise model o classifier: inputs to observed logits; without a noise model, to the true ones."""

    def __init__(self, classifier: Classifier, noise_model: nn.Module | None, detach_features: bool) -> None:
        super().__init__()
        self.classifier, self.noise_model, self.detach_features = classifier, noise_model, detach_features

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B K"]:
        """Logits of p(z=1|I) for photos or features."""
        logits, h = self.classifier(inputs)
        if self.noise_model is None:
            return logits.float()
        return observe(logits.float(), self.noise_model((h.detach() if self.detach_features else h).float()))


def _build_classifier(
    config: TrainConfig, backbone: nn.Module, preprocessing: Preprocessing, num_labels: int
) -> Classifier:
    probe = Classifier(backbone, 1, 1, config.pooling)
    try:
        num_features = feature_spec(probe, config.backbone, "", preprocessing).num_features
    except RuntimeError as error:
        got = f"{config.backbone} cannot take photos of {config.resolution} x {config.resolution}"
        raise InputError(f"resolution: {got} ({error})") from None
    backbone.requires_grad_(not config.freeze_backbone)
    return Classifier(backbone, num_features, num_labels, config.pooling, config.dropout)


def _prepare_data(
    config: TrainConfig,
    manifest: Manifest,
    vocabulary: Vocabulary,
    classifier: Classifier,
    preprocessing: Preprocessing,
    cache: Path | None,
) -> TrainingData:
    parts = _choose_rows(config, manifest, vocabulary)
    all_paths = manifest.photo_paths()
    bags: list[Bags] = []
    skipped: list[Skipped] = []
    spec = None
    for rows, labels in parts:
        paths = [all_paths[row] for row in rows]
        if not config.freeze_backbone:
            found = [i for i, path in enumerate(paths) if path.is_file()]
            skipped += [Skipped(path, "no such file") for path in paths if not path.is_file()]
            bags.append(PhotoBags([paths[i] for i in found], labels[found], preprocessing))
            continue
        spec = spec or feature_spec(classifier, config.backbone, digest_weights(classifier.backbone), preprocessing)
        features = cached_features(paths, classifier, spec, cache)
        kept = np.flatnonzero(features.rows >= 0)
        bags.append(FeatureBags(features.array, features.rows[kept], labels[kept]))
        skipped += features.skipped
    for name, part in zip(("train", "validation"), bags, strict=True):
        if not len(part):
            raise InputError(f"{manifest.path}: none of its {name} photos can be used")
    return TrainingData(bags[0], bags[1], skipped)


def _choose_rows(
    config: TrainConfig, manifest: Manifest, vocabulary: Vocabulary
) -> list[tuple[list[int], Int8[Tensor, "N K"]]]:
    """Row numbers and observed labels of the training and the validation part."""
    splits = manifest.rows["split"][:]
    rows = [row for row, split in enumerate(splits) if split in (None, "train")]
    validation = [row for row, split in enumerate(splits) if split == "validation"]
    if not rows:
        raise InputError(f"{manifest.path}: no row has split 'train', its splits are: {sorted(set(splits))}")
    labels = observed_labels(manifest.rows.select(rows), vocabulary)
    if not (labels == 1).any():
        raise InputError(f"{manifest.path}: no training row names a word of the vocabulary")
    if validation:
        return [(rows, labels), (validation, observed_labels(manifest.rows.select(validation), vocabulary))]
    if not config.validation_fraction:
        raise InputError(f"validation_fraction must be above 0: {manifest.path} has no rows of split 'validation'")
    # every noisy choice needs held-out rows; where none are given they are cut here, the same for the same seed
    fractions = {"train": 1 - config.validation_fraction, "validation": config.validation_fraction}
    groups = manifest.rows["group"][:]
    generator = torch.Generator().manual_seed(config.seed)
    drawn = stratified_split(labels, fractions, generator, [groups[row] for row in rows])
    picked = {name: [i for i, split in enumerate(drawn) if split == name] for name in fractions}
    return [([rows[i] for i in chosen], labels[chosen]) for chosen in picked.values()]


def _start(classifier: Classifier, bags: Bags, config: TrainConfig) -> None:
    """Set what the training data decides before the first step: feature statistics and label frequencies."""
    device = classifier.head.weight.device
    num_regions = 1

    def batches() -> Iterator[Tensor]:
        nonlocal num_regions
        batches = EpochBatches(len(bags), config.batch_size, config.seed, shuffle=True)
        for number, picks in enumerate(batches):
            if number == STATISTICS_BATCHES and isinstance(bags, PhotoBags):
                return
            batch = bags.__getitems__(picks)
            # of a photo that cannot be decoded nothing is known, and it looks like nothing
            inputs = batch.inputs[(batch.labels >= 0).any(1)].to(device)
            regions = classifier.extract(inputs) if inputs.ndim == 4 else inputs
            num_regions = regions.shape[1]
            yield regions

    classifier.eval()
    if config.standardise:
        classifier.set_feature_statistics(batches())
    elif config.pooling == "noisy-or":
        next(batches())
    if config.prior_bias:
        known = bags.labels >= 0
        frequencies = (bags.labels == 1).sum(0) / known.sum(0).clamp(min=1)
        classifier.set_prior(frequencies.to(device), num_regions)


def _take_over(classifier: Classifier, source: Run, config: TrainConfig, vocabulary: Vocabulary) -> None:
    """Load stage 1 of another run.

    Raises:
        InputError: that run has another vocabulary, or differs in a setting that stage 1 depends on.
    """
    if source.vocabulary.words != vocabulary.words:
        raise InputError(f"from: the vocabulary of {source.folder} is not the one given")
    # the seed too: it may have drawn the held-out part, which stage 2 must not choose its epoch on if stage 1 saw it
    for name in ("backbone", "weights", "freeze_backbone", "pooling", "resolution", "seed", "validation_fraction"):
        theirs, ours = getattr(source.config, name), getattr(config, name)
        if theirs != ours:
            raise InputError(f"from: {source.folder} was trained with {name} {theirs!r}, this run has {ours!r}")
    missing, unexpected = classifier.load_state_dict(source.load_state("stage1"), strict=False)
    if unexpected or any(not name.startswith("backbone.") for name in missing):
        raise InputError(
            f"from: stage 1 of {source.folder} does not fit this classifier ({[*unexpected, *missing][0]})"
        )


def _copy_trained(network: nn.Module, config: TrainConfig) -> dict[str, Tensor]:
    """The state on the CPU, without a frozen backbone, which never changes."""
    state = network.state_dict()
    kept = [name for name in state if not (config.freeze_backbone and "backbone." in name)]
    return {name: state[name].detach().cpu().clone() for name in kept}


def _loader(bags: Bags, config: TrainConfig, stage: int) -> tuple[DataLoader, EpochBatches]:
    photos = isinstance(bags, PhotoBags)
    batches = EpochBatches(
        len(bags), config.batch_size, 2 * config.seed + stage, shuffle=True, flip=config.flip and photos
    )
    workers = config.num_workers if photos else 0
    return DataLoader(bags, batch_sampler=batches, collate_fn=_as_it_is, num_workers=workers), batches


def _as_it_is(batch: Any) -> Batch:
    return batch


def _make_optimiser(
    classifier: Classifier, noise_model: nn.Module | None, config: TrainConfig, stage: int
) -> torch.optim.Optimizer:
    """Matrices decay, vectors do not; the backbone and the noise model have rates of their own."""
    rate = config.learning_rate if stage == 1 else config.stage2_learning_rate
    groups: list[dict] = []

    def add(parameters: Sequence[Tensor], learning_rate: float, decay: float) -> None:
        chosen = [parameter for parameter in parameters if parameter.requires_grad]
        for matrix in (True, False):
            part = [parameter for parameter in chosen if (parameter.ndim > 1) == matrix]
            if part:
                groups.append({"params": part, "lr": learning_rate, "weight_decay": decay if matrix else 0.0})

    add(list(classifier.head.parameters()), rate, config.weight_decay)
    add(list(classifier.backbone.parameters()), rate * config.backbone_learning_rate, config.weight_decay)
    if isinstance(noise_model, FeatureDependentNoise):
        add([noise_model.weights], config.noise_weight_learning_rate, config.noise_weight_decay)
    if noise_model is not None:
        groups.append({"params": [noise_model.biases], "lr": config.noise_learning_rate, "weight_decay": 0.0})
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=_SGD_MOMENTUM)


def _rate(step: int, num_steps: int, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the peak rate."""
    warm_steps = warmup * num_steps
    if step < warm_steps:
        return (step + 1) / (warm_steps + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_steps) / max(num_steps - warm_steps, 1)))


@torch.inference_mode()
def _validation_ap(classifier: Classifier, bags: Bags, config: TrainConfig, device: torch.device) -> float:
    classifier.eval()
    batches = EpochBatches(len(bags), 4 * config.batch_size, 0, shuffle=False)
    fetched = [bags.__getitems__(picks) for picks in batches]
    logits = [classifier(batch.inputs.to(device))[0].float().cpu() for batch in fetched]
    ap = mean_over_labels(average_precision(torch.cat(logits), torch.cat([batch.labels for batch in fetched])))
    return 0.0 if math.isnan(ap) else ap


@torch.no_grad()
def _mean_rates(noise_model: nn.Module | None) -> dict[str, float]:
    if noise_model is None:
        return {}
    return {
        "missing_rate": noise_model.missing_rate().mean().item(),  # type: ignore[operator]
        "incorrect_rate": noise_model.incorrect_rate().mean().item(),  # type: ignore[operator]
    }
