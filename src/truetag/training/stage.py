"""One stage of training: its steps, and the epoch that is kept. It can be left and entered again at any step."""

import math
import time
import zlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import send_to_device
from jaxtyping import Bool, Float
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from truetag import optimisation
from truetag.data.batches import Batch, EpochBatches, PhotoBags
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.io.signals import ignore_signals, stoppable
from truetag.io.tensors import State, copy_state
from truetag.io.terminal import Progress
from truetag.label_noise.linear_head import label_frequencies
from truetag.losses import q_likelihood
from truetag.models.classifier import Classifier
from truetag.noise_models import NoiseModel
from truetag.runs.checkpoints import Checkpoint, Position, load_optimiser_state, load_schedule_state, optimiser_state
from truetag.runs.config import TrainConfig
from truetag.runs.journal import Journal
from truetag.training.preparation import Bags, TrainingData


class ObservedNetwork(nn.Module):
    """Classifier and noise model: inputs to true logits, and to the transition logits that make them observed ones."""

    def __init__(self, classifier: Classifier, noise_model: NoiseModel | None, detach_features: bool) -> None:
        super().__init__()
        self.classifier, self.noise_model, self.detach_features = classifier, noise_model, detach_features

    def forward(
        self,
        inputs: Float[Tensor, "B T ..."],
        mask: Bool[Tensor, "B T"] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "*Q K 2"] | None]:
        """True and transition logits for bags of photos or features; `generator` decides dropout.

        Without a noise model there are no transition logits: the observed logits are the true ones.
        """
        true_logits, h = self.classifier(inputs, mask, generator)
        h = h.detach() if self.detach_features else h
        return true_logits.float(), None if self.noise_model is None else self.noise_model.transition_logits(h.float())


@dataclass(frozen=True)
class StageSettings:
    """What differs between stage 1 and stage 2."""

    number: int
    num_epochs: int
    learning_rate: float
    """Peak rate of the head."""
    weight_decay: float


def stage_settings(config: TrainConfig, number: int, num_features: int) -> StageSettings:
    """The settings of stage 1 or 2 of a head on `num_features` features."""
    sizes = optimisation.step_sizes(num_features, config.learning_rate, config.weight_decay)
    if number == 1:
        return StageSettings(1, config.stage1_epochs, sizes.learning_rate, sizes.weight_decay)
    rate = optimisation.stage2_learning_rate(sizes.learning_rate, config.stage2_learning_rate, config.stage1_epochs)
    return StageSettings(2, config.stage2_epochs, rate, sizes.weight_decay)


class Stage:
    """Minimises the objective on the observed logits and keeps the epoch that `config.select` chooses.

    Starts at the checkpoint that the journal was resumed at, if that lies in this stage.

    Args:
        settings: of this stage.
        network: the classifier, and in stage 2 the noise model.
        data: the bags.
        accelerator: places network and data on its devices.
        journal: receives the history and the checkpoints.
        config: the settings of the run.
    """

    def __init__(
        self,
        settings: StageSettings,
        network: ObservedNetwork,
        data: TrainingData,
        accelerator: Accelerator,
        journal: Journal,
        config: TrainConfig,
    ) -> None:
        self.config, self.data, self.accelerator, self.journal = config, data, accelerator, journal
        self.num_epochs = settings.num_epochs
        self.network, self.classifier = network, network.classifier
        self.generator = torch.Generator(accelerator.device)
        loader, self.batches = _loader(data.train, config, settings.number)
        optimiser = _make_optimiser(network, settings, config)
        schedule = optimisation.make_schedule(optimiser, settings.num_epochs * len(self.batches))
        self.prepared, self.optimiser, self.loader, self.schedule = accelerator.prepare(
            network, optimiser, loader, schedule
        )
        self.parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        # with a warm-up, or the weights before the first step would weigh for 1 / (1 - decay) steps
        self.average = ModelEmaV3(network, config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.label_weights = _label_weights(data.train, config, accelerator.device)
        self.position, self.best = Position(settings.number), copy_state(trained_state(network, config.freeze_backbone))

    def run(self) -> None:
        """Train to the end.

        Raises:
            InputError: the loss or its gradient stops being finite.
            KeyboardInterrupt: after Ctrl-C (SystemExit after SIGTERM), once a checkpoint is written.
        """
        position = self.position
        resumed = self.journal.resumed_at(position.stage)
        if resumed is None:
            self._save()
        else:
            position = self._restore(resumed)
        steps = len(self.loader)
        with (
            Progress(f"stage {position.stage}", self.num_epochs * steps) as self.progress,
            torch.random.fork_rng(enabled=not self.config.freeze_backbone),
            stoppable() as self.stop,
        ):
            self.progress.advance((position.epoch - 1) * steps + position.step)
            while position.epoch <= self.num_epochs:
                started = time.monotonic()
                try:
                    self._train_epoch()
                except RuntimeError:
                    self.stop.check()  # the signal may have ended a worker process too
                    raise
                validation_ap = self._validate()
                self._close_epoch(validation_ap, time.monotonic() - started)
                self._pause_if_asked()
        self.network.load_state_dict(self.best, strict=False)

    def _train_epoch(self) -> None:
        """The steps of an epoch that are not done yet."""
        position = self.position
        self.batches.set_epoch(position.epoch)
        self.network.train()
        if self.config.freeze_backbone:
            self.classifier.backbone.eval()
        for batch in self._rest_of_epoch():
            self._seed()
            value = self._add_gradients(batch)
            if problem := self._find_infinity(value):
                at = f"stage {position.stage}, epoch {position.epoch}, step {position.step + 1}"
                ids = [self.data.train.ids[int(index)] for index in batch.indices]
                raise self.journal.diverged(f"{problem} at {at}", ids)
            if self.config.gradient_clip:
                self.accelerator.clip_grad_norm_(self.parameters, self.config.gradient_clip)
            self.optimiser.step()
            self.schedule.step()
            self.optimiser.zero_grad()
            position.step += 1
            if self.average is not None:
                self.average.update(self.network, (position.epoch - 1) * len(self.loader) + position.step)
            position.total_loss += value
            self.data.skips.report_all(batch.skipped)
            self.progress.advance(1)
            if self.journal.is_due:
                self._save()
            self._pause_if_asked()

    def _add_gradients(self, batch: Batch) -> float:
        """The gradient of a batch, all of it at once or so many bags at a time; returns its loss."""
        q = 0.0 if self.config.q == "auto" else self.config.q
        total = 0.0
        parts = _parts(batch, self.config, self.label_weights)
        for number, (part, share) in enumerate(parts, start=1):
            is_last = number == len(parts)  # several processes exchange their gradients once
            with nullcontext() if is_last else self.accelerator.no_sync(self.prepared):
                with self.accelerator.autocast():
                    true_logits, transition_logits = self.prepared(part.inputs, part.mask, self.generator)
                    loss = q_likelihood(
                        true_logits, part.labels, q, self.config.loss, transition_logits, self.label_weights
                    )
                    loss = loss if len(parts) == 1 else loss * share
                self.accelerator.backward(loss)
            total += loss.item()
        return total

    def _seed(self) -> None:
        """Seed what a step draws, so that it can be repeated without the steps before it."""
        position = self.position
        text = f"{self.config.seed} {position.stage} {position.epoch} {position.step} {self.accelerator.process_index}"
        seed = zlib.crc32(text.encode())
        self.generator.manual_seed(seed)
        if not self.config.freeze_backbone:  # layers of the backbone may draw from torch's own generators
            torch.default_generator.manual_seed(seed)
            if self.accelerator.device.type == "cuda":
                torch.cuda.manual_seed(seed)

    def _rest_of_epoch(self) -> Iterable[Batch]:
        if self.position.step:
            return skip_first_batches(self.loader, self.position.step)
        self.loader.set_epoch(self.position.epoch)  # which a loader hands on to the sampler whenever it is iterated
        return self.loader

    def _find_infinity(self, loss: float) -> str | None:
        """What of a step is not finite and would ruin the weights."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if self.accelerator.scaler is None:  # which passes over steps with such gradients by itself
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item()
            if not math.isfinite(norm):
                return f"the gradient's norm is {norm}"
        return None

    def _close_epoch(self, validation_ap: float, seconds: float) -> None:
        position = self.position
        loss = position.total_loss / len(self.loader)
        self.progress.advance(0, f"loss {loss:.4f}, validation AP {100 * validation_ap:.2f}")
        self.journal.log(
            {
                "stage": position.stage,
                "epoch": position.epoch,
                "loss": loss,
                "validation_ap": validation_ap,
                "learning_rate": self.schedule.get_last_lr()[0],
                "seconds": round(seconds, 2),
                **_mean_rates(self._kept.noise_model),
            }
        )
        if validation_ap > position.best_score or self.config.select == "last":
            position.best_epoch, position.best_score = position.epoch, validation_ap
            self.best = copy_state(trained_state(self._kept, self.config.freeze_backbone))
        position.epoch, position.step, position.total_loss = position.epoch + 1, 0, 0.0

    @property
    def _kept(self) -> ObservedNetwork:
        """The network that is validated and kept: the averaged one, where there is one."""
        return self.network if self.average is None else cast(ObservedNetwork, self.average.module)

    @torch.inference_mode()
    def _validate(self) -> float:
        """Mean AP against the noisy validation tags."""
        classifier = self._kept.classifier.eval()
        validation = self.data.validation
        logits, labels = [], []
        for picks in EpochBatches(len(validation), 4 * self.config.batch_size, 0, shuffle=False):
            batch = validation.__getitems__(picks)
            self.data.skips.report_all(batch.skipped)
            inputs, mask = send_to_device((batch.inputs, batch.mask), self.accelerator.device)
            logits.append(classifier(inputs, mask)[0].float().cpu())
            labels.append(batch.labels)
            self._pause_if_asked()
        ap = mean_over_labels(average_precision(torch.cat(logits), torch.cat(labels)))
        return 0.0 if math.isnan(ap) else ap

    def _pause_if_asked(self) -> None:
        """Obey a signal here, between two steps, where a checkpoint holds everything."""
        if self.stop.requested:
            self._save()
            position = self.position
            at = f"stage {position.stage}, epoch {position.epoch}, after step {position.step} of {len(self.loader)}"
            self.progress.say(f"stopped in {at}; --resume goes on from there")
        self.stop.check()

    def _save(self) -> None:
        note: dict[str, Any] = {"schedule": self.schedule.state_dict(), "skipped": self.data.skips.to_json()}
        if self.accelerator.scaler is not None:
            note["scaler"] = self.accelerator.scaler.state_dict()
        network = trained_state(self.network, self.config.freeze_backbone)
        average = {} if self.average is None else trained_state(self._kept, self.config.freeze_backbone)
        self.journal.save(Checkpoint(self.position, network, self.best, optimiser_state(self.optimiser), note, average))

    def _restore(self, checkpoint: Checkpoint) -> Position:
        self.position, self.best = checkpoint.position, checkpoint.best
        self.network.load_state_dict(checkpoint.network, strict=False)
        if self.average is not None:
            self._kept.load_state_dict(checkpoint.average, strict=False)
        load_optimiser_state(self.optimiser, checkpoint.optimiser)
        load_schedule_state(self.schedule, self.optimiser, checkpoint.note["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.note["scaler"])
        return self.position


def _parts(batch: Batch, config: TrainConfig, label_weights: Float[Tensor, "K"] | None) -> list[tuple[Batch, float]]:
    """A batch in parts of at most `bags_at_a_time` bags, each with its share of the batch's loss."""
    num_bags = len(batch.labels)
    count = math.ceil(num_bags / (config.bags_at_a_time or num_bags))
    if count == 1:
        return [(batch, 1.0)]
    edges = [round(number * num_bags / count) for number in range(count + 1)]  # even: one bag has no batch statistics
    parts = []
    for rows in map(slice, edges, edges[1:]):
        mask = None if batch.mask is None else batch.mask[rows]
        parts.append(batch._replace(inputs=batch.inputs[rows], labels=batch.labels[rows], mask=mask))
    if config.loss == "sum_labels":
        return [(part, len(part.labels) / num_bags) for part in parts]
    weights = 1.0 if label_weights is None else label_weights
    counts = [((part.labels >= 0) * weights).sum().item() for part in parts]
    return [(part, counted / (sum(counts) or 1)) for part, counted in zip(parts, counts, strict=True)]


def _label_weights(bags: Bags, config: TrainConfig, device: torch.device) -> Float[Tensor, "K"] | None:
    """How much each label counts, 1 on average; None where all count alike."""
    if config.label_weights == "none":
        return None
    least = 1 / len(bags)  # a label that is never present counts like one that is present once
    weights = label_frequencies(bags.labels).clamp(min=least).rsqrt()
    return (weights / weights.mean()).to(device)


def trained_state(network: nn.Module, freeze_backbone: bool) -> State:
    """The state without a frozen backbone, which never changes."""
    state = network.state_dict()
    return {name: state[name] for name in state if not (freeze_backbone and "backbone." in name)}


def _make_optimiser(network: ObservedNetwork, settings: StageSettings, config: TrainConfig) -> torch.optim.Optimizer:
    """Head, backbone and noise model, each with its own learning rate."""
    classifier, noise_model = network.classifier, network.noise_model
    rate, decay = settings.learning_rate, settings.weight_decay
    head = [*classifier.head.parameters()]
    if classifier.log_sharpness is not None:
        head.append(classifier.log_sharpness)
    groups = optimisation.parameter_groups(head, rate, decay)
    backbone_rate = rate * config.backbone_learning_rate
    groups += optimisation.parameter_groups(classifier.backbone.parameters(), backbone_rate, decay)
    if noise_model is not None:
        groups += noise_model.parameter_groups(
            config.noise_learning_rate, config.noise_weight_learning_rate, config.noise_weight_decay
        )
    return optimisation.make_optimiser(groups, [network], config.optimiser)


def _loader(bags: Bags, config: TrainConfig, stage: int) -> tuple[DataLoader, EpochBatches]:
    """The batches of a stage.

    Returns:
        The loader, and its sampler, which is told the epoch.
    """
    has_photos = isinstance(bags, PhotoBags)
    seed = 2 * config.seed + stage
    batches = EpochBatches(
        len(bags),
        config.batch_size,
        seed,
        shuffle=True,
        flip=config.flip and has_photos,
        vary=isinstance(bags, PhotoBags) and bags.variation is not None,
    )
    loader = DataLoader(
        bags,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=config.num_workers if has_photos else 0,
        worker_init_fn=ignore_signals,
    )
    return loader, batches


def _as_it_is(batch: Any) -> Batch:
    return batch


@torch.no_grad()
def _mean_rates(noise_model: NoiseModel | None) -> dict[str, float]:
    if noise_model is None:
        return {}
    return {
        "missing_rate": noise_model.missing_rate().mean().item(),
        "incorrect_rate": noise_model.incorrect_rate().mean().item(),
    }
