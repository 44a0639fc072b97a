"""`truetag caption train`: fit S2VT to the captions of training clips, and keep the epoch that is best on others.

Everything that an epoch and a step draw follows from (seed, epoch, step): a run that was stopped, or killed, continues
from its last checkpoint and ends with the very weights that it would have had (bit for bit on CPU).
"""

import math
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn import functional

from truetag import optimisation
from truetag.captioning.clips import CaptionedClips, choose_rows, make_batch, read_clips
from truetag.captioning.config import CaptionConfig
from truetag.captioning.decode import Decoding, write_all
from truetag.captioning.folder import CaptionerFolder, create_captioner, open_captioner
from truetag.captioning.frames import Source
from truetag.captioning.sentences import collect_words, encode_captions
from truetag.data.batches import EpochBatches
from truetag.data.manifest import read_manifest
from truetag.evaluation.captions import cider
from truetag.io.files import remove_leftovers
from truetag.io.paths import takes_paths
from truetag.io.signals import Stop, stoppable
from truetag.io.tensors import copy_state
from truetag.io.terminal import Progress, tell
from truetag.io.text import counted
from truetag.media.files import Reading, SkipList
from truetag.runs.checkpoints import Checkpoint, Position, load_optimiser_state, load_schedule_state, optimiser_state
from truetag.runs.config import require_same
from truetag.runs.folder import lock_run
from truetag.runs.journal import Journal
from truetag.runs.paths import is_run, require_new_folder

STAGE = 1


@takes_paths
def train_captioner(
    config: CaptionConfig,
    data: Path,
    out: Path,
    run: Path | None = None,
    features: Path | None = None,
    resume: bool = False,
    reading: Reading = Reading(),
) -> CaptionerFolder:
    """Train a captioner on the frames and captions of a manifest.

    Args:
        config: all settings.
        data: the manifest; rows with split `train` (or none) and captions are learnt from.
        out: the folder to make.
        run: the run of `truetag train` whose concept probabilities are read from each frame.
        features: read these features instead: a folder with ID.npy [frames, features] for each row, or an .npz file
            with `ids` and `features`.
        resume: continue in `out` where it was stopped; begin if there is nothing yet.
        reading: how photos and clips are read.

    Raises:
        InputError: a setting, the data or `out` is not what it should be; or training diverges.
    """
    source = Source(run, features)
    with ExitStack() as stack:
        stopped = None
        if resume and is_run(out):
            stack.enter_context(lock_run(out))
            remove_leftovers(out)
            stopped = open_captioner(out)
            require_same(stopped.config, config, out)
        else:
            require_new_folder(out)
        if stopped is not None and stopped.is_finished:
            tell(f"{out} is finished already")
            Journal(out, config.checkpoint_seconds).checkpoints.clear()  # it may have been killed just before this
            return stopped
        skips = SkipList(reading.max_skipped)
        manifest = read_manifest(data)
        train_rows, validation_rows = choose_rows(manifest, config)
        clips = read_clips(manifest, train_rows, source, reading, skips, "train")
        validation = read_clips(manifest, validation_rows, source, reading, skips, "validation")
        words = collect_words((tokens for of_clip in clips.captions for tokens in of_clip), config.min_count)
        if stopped is not None:
            stopped.require_fitting(clips.frames, source)
        folder = stopped or create_captioner(out, config, words, clips.frames.num_features, source)
        if stopped is None:
            stack.enter_context(lock_run(out))
        journal = stack.enter_context(Journal(out, config.checkpoint_seconds))
        origin: dict[str, str | None] = {"the training data": f"{clips.fingerprint()} {validation.fingerprint()}"}
        skips.restore(journal.begin(origin, stopped is not None))
        tell(f"{counted(len(clips.ids), 'clip')} to learn from, {counted(len(words.vocabulary), 'word')}")
        training = _Training(folder, clips, validation, journal, skips)
        training.run()
        skips.write(out / "skipped.jsonl")
        folder.save(training.captioner)  # the last: a folder that has it is finished
        journal.checkpoints.clear()
    return folder


class _Training:
    """The epochs, or what of them is not done yet."""

    def __init__(
        self,
        folder: CaptionerFolder,
        clips: CaptionedClips,
        validation: CaptionedClips,
        journal: Journal,
        skips: SkipList,
    ) -> None:
        config = folder.config
        self.config, self.words, self.journal, self.skips = config, folder.words, journal, skips
        self.clips, self.validation = clips, validation
        device = Accelerator().device
        with torch.random.fork_rng():  # weights are drawn by layers that take no generator
            torch.manual_seed(config.seed)
            self.captioner = folder.build().to(device)
        self.numbers = encode_captions(clips.captions, self.words, config.max_words)
        self.validation_numbers = encode_captions(validation.captions, self.words, config.max_words)
        written = [number for of_clip in self.numbers for caption in of_clip for number in caption]
        counts = torch.bincount(torch.tensor(written, dtype=torch.int64), minlength=len(self.words))
        self.captioner.set_prior(counts.float().to(device))
        self.device, self.generator = device, torch.Generator(device)
        self.batches = EpochBatches(len(clips.ids), config.batch_size, config.seed, shuffle=True)
        groups = optimisation.parameter_groups(self.captioner.parameters(), config.learning_rate, config.weight_decay)
        self.optimiser = optimisation.make_optimiser(groups, [self.captioner])
        self.schedule = optimisation.make_schedule(self.optimiser, config.epochs * len(self.batches))
        self.position = Position(STAGE, best_score=-math.inf)
        self.best = copy_state(self.captioner.state_dict())

    def run(self) -> None:
        """Train to the end, and load the epoch that is kept.

        Raises:
            InputError: the loss stops being finite.
            KeyboardInterrupt: after Ctrl-C (SystemExit after SIGTERM), once a checkpoint is written.
        """
        resumed = self.journal.resumed_at(STAGE)
        if resumed is None:
            self._save()
        else:
            self._restore(resumed)
        position, steps = self.position, len(self.batches)
        with Progress("training", self.config.epochs * steps) as self.progress, stoppable() as stop:
            self.progress.advance((position.epoch - 1) * steps + position.step)
            while position.epoch <= self.config.epochs:
                started = time.monotonic()
                self._train_epoch(stop)
                self._close_epoch(time.monotonic() - started, stop)
                self._pause_if_asked(stop)
        self.captioner.load_state_dict(self.best)
        self.captioner.eval()

    def _train_epoch(self, stop: Stop) -> None:
        position, config = self.position, self.config
        self.batches.set_epoch(position.epoch)
        self.captioner.train()
        sampling_rate = config.scheduled_sampling * (position.epoch - 1) / max(config.epochs - 1, 1)
        for number, picks in enumerate(self.batches):
            if number < position.step:
                continue
            clips = [pick[0] for pick in picks]
            text = f"{config.seed} {position.epoch} {position.step}"
            self.generator.manual_seed(zlib.crc32(text.encode()))
            batch = make_batch(
                self.clips.frames, self.numbers, clips, self.generator if config.captions == "one" else None
            )
            value = 0.0
            if batch is not None:  # captions of unknown words alone may be all that its clips have
                batch = batch.to(self.device)
                logits = self.captioner(*batch, self.generator, sampling_rate)
                targets = batch.words[batch.wanted]
                loss = functional.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
                loss.backward()
                value = loss.item()
                norm = torch.nn.utils.clip_grad_norm_(self.captioner.parameters(), config.gradient_clip or math.inf)
                if not math.isfinite(value) or not bool(norm.isfinite()):
                    what = f"the loss is {value}, its gradient's norm {norm.item()}"
                    at = f"epoch {position.epoch}, step {position.step + 1}"
                    raise self.journal.diverged(f"{what} at {at}", [self.clips.ids[clip] for clip in clips])
                self.optimiser.step()
            self.schedule.step()
            self.optimiser.zero_grad()
            position.step += 1
            position.total_loss += value
            self.progress.advance(1)
            if self.journal.is_due:
                self._save()
            self._pause_if_asked(stop)

    def _close_epoch(self, seconds: float, stop: Stop) -> None:
        position = self.position
        loss = position.total_loss / len(self.batches)
        self.captioner.eval()
        validation_loss, score = self._validate(stop)
        self.progress.advance(0, f"loss {loss:.3f}, validation loss {validation_loss:.3f}, CIDEr {100 * score:.1f}")
        self.journal.log(
            {
                "stage": STAGE,
                "epoch": position.epoch,
                "loss": loss,
                "validation_loss": validation_loss,
                "validation_cider": score,
                "learning_rate": self.schedule.get_last_lr()[0],
                "seconds": round(seconds, 2),
            }
        )
        score = {"cider": score, "loss": -validation_loss, "last": math.inf}[self.config.select]
        if score > position.best_score or self.config.select == "last":
            position.best_epoch, position.best_score = position.epoch, score
            self.best = copy_state(self.captioner.state_dict())
        position.epoch, position.step, position.total_loss = position.epoch + 1, 0, 0.0

    @torch.inference_mode()
    def _validate(self, stop: Stop) -> tuple[float, float]:
        """The loss per word, and the CIDEr of greedy sentences, on the validation captions."""
        total, num_words = 0.0, 0
        candidates: dict[str, list[str]] = {}
        frames = self.validation.frames
        decoding = Decoding(beam=1, max_words=self.config.max_words)
        for clips, sentences in write_all(self.captioner, frames, decoding):
            batch = make_batch(frames, self.validation_numbers, clips)
            if batch is not None:
                batch = batch.to(self.device)
                targets = batch.words[batch.wanted]
                total += functional.cross_entropy(self.captioner(*batch), targets, reduction="sum").item()
                num_words += len(targets)
            for clip, sentence in zip(clips, sentences, strict=True):
                candidates[self.validation.ids[clip]] = self.words.decode(sentence.words)
            self._pause_if_asked(stop)
        references = dict(zip(self.validation.ids, self.validation.captions, strict=True))
        return total / max(num_words, 1), cider(references, candidates).score

    def _pause_if_asked(self, stop: Stop) -> None:
        """Obey a signal here, between two steps, where a checkpoint holds everything."""
        if stop.requested:
            self._save()
            position = self.position
            at = f"epoch {position.epoch}, after step {position.step} of {len(self.batches)}"
            self.progress.say(f"stopped in {at}; --resume goes on from there")
        stop.check()

    def _save(self) -> None:
        note = {"schedule": self.schedule.state_dict(), "skipped": self.skips.to_json()}
        network = self.captioner.state_dict()
        self.journal.save(Checkpoint(self.position, network, self.best, optimiser_state(self.optimiser), note))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.position, self.best = checkpoint.position, checkpoint.best
        self.captioner.load_state_dict(checkpoint.network)
        load_optimiser_state(self.optimiser, checkpoint.optimiser)
        load_schedule_state(self.schedule, self.optimiser, checkpoint.note["schedule"])
