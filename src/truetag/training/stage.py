"""One stage of training: its steps, and the epoch that is kept. It can be left and entered again at any step."""

import math
import time
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import DataLoader

from truetag.data.batches import Batch, EpochBatches, PhotoBags
from truetag.evaluation.ranking import average_precision, mean_over_labels
from truetag.io.signals import ignore_signals, stoppable
from truetag.io.tensors import State
from truetag.io.terminal import Progress
from truetag.losses import q_likelihood
from truetag.models.classifier import Classifier
from truetag.optimisation import learning_rate_share, make_optimiser
from truetag.runs.checkpoints import Checkpoint, Place, load_optimiser_state, optimiser_state
from truetag.runs.config import TrainConfig
from truetag.runs.journal import Journal
from truetag.training.observed_tagger import ObservedTagger
from truetag.training.preparation import Bags, TrainingData


class Stage:
    """Minimises the objective on the observed logits and keeps the epoch that `config.select` chooses.

    Begins at the checkpoint that the journal was resumed at, if that lies in this stage.
    """

    def __init__(
        self,
        number: int,
        classifier: Classifier,
        noise_model: nn.Module | None,
        data: TrainingData,
        accelerator: Accelerator,
        journal: Journal,
    ) -> None:
        config = journal.run.config
        self.config, self.data, self.accelerator, self.journal = config, data, accelerator, journal
        self.classifier, self.noise_model = classifier, noise_model
        self.num_epochs = config.stage1_epochs if number == 1 else config.stage2_epochs
        self.network = ObservedTagger(classifier, noise_model, config.detach_features)
        loader, self.batches = _loader(data.train, config, number)
        optimiser = make_optimiser(classifier, noise_model, config, number)
        num_steps = self.num_epochs * len(self.batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_share(step, num_steps, config.warmup)
        )
        self.prepared, self.optimiser, self.loader, self.schedule = accelerator.prepare(
            self.network, optimiser, loader, schedule
        )
        self.parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        self.place, self.best = Place(number), _copy(trained_state(self.network, config))

    def run(self) -> None:
        """Train to the end.

        Raises:
            InputError: the loss or its gradient stops being finite.
            KeyboardInterrupt: after Ctrl-C (SystemExit after SIGTERM), once a checkpoint is written.
        """
        place = self.place
        resumed = self.journal.resumed_at(place.stage)
        if resumed is None:
            self._save()
        else:
            place = self._restore(resumed)
        steps = len(self.loader)
        with (
            Progress(f"stage {place.stage}", self.num_epochs * steps) as self.progress,
            torch.random.fork_rng(),
            stoppable() as self.stop,
        ):
            self.progress.advance((place.epoch - 1) * steps + place.step)
            while place.epoch <= self.num_epochs:
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
        place = self.place
        self.batches.set_epoch(place.epoch)
        self.network.train()
        if self.config.freeze_backbone:
            self.classifier.backbone.eval()
        for batch in self._rest_of_epoch():
            _seed(self.accelerator, self.config.seed, place)
            with self.accelerator.autocast():
                logits = self.prepared(batch.inputs, batch.mask)
                loss = q_likelihood(logits, batch.labels, self.config.q or 0.0, self.config.loss)
            self.accelerator.backward(loss)
            value = loss.item()
            if problem := self._find_infinity(value):
                at = f"stage {place.stage}, epoch {place.epoch}, step {place.step + 1}"
                ids = [self.data.train.ids[int(index)] for index in batch.indices]
                raise self.journal.diverged(f"{problem} at {at}", ids)
            self.optimiser.step()
            self.schedule.step()
            self.optimiser.zero_grad()
            place.step += 1
            place.total_loss += value
            self.data.skips.report_all(batch.skipped)
            self.progress.advance(1)
            if self.journal.is_due:
                self._save()
            self._pause_if_asked()

    def _rest_of_epoch(self) -> Iterable[Batch]:
        if self.place.step:
            return skip_first_batches(self.loader, self.place.step)
        self.loader.set_epoch(self.place.epoch)  # which a loader hands on to the sampler whenever it is iterated
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
        place = self.place
        loss = place.total_loss / len(self.loader)
        self.progress.advance(0, f"loss {loss:.4f}, validation AP {100 * validation_ap:.2f}")
        self.journal.log(
            {
                "stage": place.stage,
                "epoch": place.epoch,
                "loss": loss,
                "validation_ap": validation_ap,
                "learning_rate": self.schedule.get_last_lr()[0],
                "seconds": round(seconds, 2),
                **_mean_rates(self.noise_model),
            }
        )
        if validation_ap > place.best_ap or self.config.select == "last":
            place.best_epoch, place.best_ap = place.epoch, validation_ap
            self.best = _copy(trained_state(self.network, self.config))
        place.epoch, place.step, place.total_loss = place.epoch + 1, 0, 0.0

    @torch.inference_mode()
    def _validate(self) -> float:
        """Mean AP against the noisy validation tags."""
        self.classifier.eval()
        validation = self.data.validation
        logits, labels = [], []
        for picks in EpochBatches(len(validation), 4 * self.config.batch_size, 0, shuffle=False):
            batch = validation.__getitems__(picks)
            self.data.skips.report_all(batch.skipped)
            inputs, mask = send_to_device((batch.inputs, batch.mask), self.accelerator.device)
            logits.append(self.classifier(inputs, mask)[0].float().cpu())
            labels.append(batch.labels)
            self._pause_if_asked()
        ap = mean_over_labels(average_precision(torch.cat(logits), torch.cat(labels)))
        return 0.0 if math.isnan(ap) else ap

    def _pause_if_asked(self) -> None:
        """Where a signal is obeyed: between two steps, so that a checkpoint says all."""
        if self.stop.requested:
            self._save()
            place = self.place
            at = f"stage {place.stage}, epoch {place.epoch}, after step {place.step} of {len(self.loader)}"
            self.progress.say(f"stopped in {at}; --resume goes on from there")
        self.stop.check()

    def _save(self) -> None:
        note: dict[str, Any] = {"schedule": self.schedule.state_dict()}
        note["skipped"] = self.data.skips.to_json()
        if self.accelerator.scaler is not None:
            note["scaler"] = self.accelerator.scaler.state_dict()
        network = trained_state(self.network, self.config)
        self.journal.save(Checkpoint(self.place, network, self.best, optimiser_state(self.optimiser), note))

    def _restore(self, checkpoint: Checkpoint) -> Place:
        self.place, self.best = checkpoint.place, checkpoint.best
        self.network.load_state_dict(checkpoint.network, strict=False)
        load_optimiser_state(self.optimiser, checkpoint.optimiser)
        self.schedule.load_state_dict(checkpoint.note["schedule"])
        for group, rate in zip(self.optimiser.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.note["scaler"])
        return self.place


def trained_state(network: nn.Module, config: TrainConfig) -> State:
    """The state without a frozen backbone, which never changes."""
    state = network.state_dict()
    return {name: state[name] for name in state if not (config.freeze_backbone and "backbone." in name)}


def _copy(state: State) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _seed(accelerator: Accelerator, seed: int, place: Place) -> None:
    """Seed the generator that dropout draws from: a step can be repeated without those before it."""
    text = f"{seed} {place.stage} {place.epoch} {place.step} {accelerator.process_index}"
    number = zlib.crc32(text.encode())  # torch.manual_seed would do the same for every kind of device, in 80 us
    torch.default_generator.manual_seed(number)
    if accelerator.device.type == "cuda":
        torch.cuda.manual_seed(number)


def _loader(bags: Bags, config: TrainConfig, stage: int) -> tuple[DataLoader, EpochBatches]:
    photos = isinstance(bags, PhotoBags)
    batches = EpochBatches(
        len(bags), config.batch_size, 2 * config.seed + stage, shuffle=True, flip=config.flip and photos
    )
    workers = config.num_workers if photos else 0
    loader = DataLoader(
        bags, batch_sampler=batches, collate_fn=_as_it_is, num_workers=workers, worker_init_fn=ignore_signals
    )
    return loader, batches


def _as_it_is(batch: Any) -> Batch:
    return batch


@torch.no_grad()
def _mean_rates(noise_model: nn.Module | None) -> dict[str, float]:
    if noise_model is None:
        return {}
    return {
        "missing_rate": noise_model.missing_rate().mean().item(),  # type: ignore[operator]
        "incorrect_rate": noise_model.incorrect_rate().mean().item(),  # type: ignore[operator]
    }
