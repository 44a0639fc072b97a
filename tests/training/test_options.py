"""The settings of training that are off by default: each does what its name says, and a run with it resumes exactly."""

import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from truetag.data.batches import Batch, EpochBatches
from truetag.data.manifest import iterate_rows, write_manifest
from truetag.errors import InputError
from truetag.losses import q_likelihood
from truetag.media.preprocessing import Preprocessing
from truetag.runs.config import TrainConfig
from truetag.training import stage
from truetag.training.augmentation import make_augmentation
from truetag.training.train import train

PLAIN = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
RESUMED = {
    "accumulation": {"bags_at_a_time": 6},
    "clipping": {"gradient_clip": 0.1},
    "average": {"ema_decay": 0.9},
    "channels last": {"channels_last": True},
    "augmentation": {"augment": "rand-m9-mstd0.5", "random_erasing": 0.5},
    "label weights": {"label_weights": "inverse-sqrt"},
    "bf16 and average": {"precision": "bf16", "ema_decay": 0.9},
    "frozen average": {"freeze_backbone": True, "ema_decay": 0.9, "bags_at_a_time": 5},
}


@pytest.fixture
def start(tiny, tiny_config, tmp_path):
    """Train on `tiny` into a folder of this test."""
    AcceleratorState._reset_state(reset_partial_state=True)  # another precision is another state

    def run(name, data=tiny / "swapped.jsonl", resume=False, **settings):
        return train(
            replace(tiny_config, **settings), data, tiny / "vocabulary.tsv", tmp_path / name, resume=resume
        ).folder

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def states(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def weights(folder):
    return load_file(folder / "classifier.safetensors")


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_ends_like_an_undisturbed_one(start, tiny_run, monkeypatch, settings):
    undisturbed = start("undisturbed", **settings)
    assert states(undisturbed) != states(tiny_run.folder)
    steps = []
    original = stage.Stage._seed

    def interrupting(self):
        steps.append(1)
        if len(steps) in (2, 8):  # in stage 1 and in stage 2
            os.kill(os.getpid(), signal.SIGINT)
        original(self)

    monkeypatch.setattr(stage.Stage, "_seed", interrupting)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            start("stopped", resume=True, **settings)
    resumed = start("stopped", resume=True, **settings)
    assert states(resumed) == states(undisturbed)


@pytest.mark.parametrize("loss", ["mean", "sum_labels"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradients_of_parts_add_up_to_that_of_the_batch(loss, weighted):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(13, 1, 1, 4, generator=generator)
    labels = torch.randint(-1, 2, (13, 3), generator=generator)  # a third is unknown, unevenly
    labels[:4] = -1
    batch = Batch(features, labels, torch.arange(13), None, [])
    by_label = torch.tensor([0.5, 1.0, 1.5]) if weighted else None
    gradients = []
    for size in (0, 13, 5, 1):
        matrix = torch.linspace(-1, 1, 12).reshape(4, 3).requires_grad_()
        for part, share in stage._parts(batch, TrainConfig(bags_at_a_time=size, loss=loss), by_label):
            assert len(part.labels) <= (size or 13)
            logits = part.inputs.flatten(1) @ matrix
            (q_likelihood(logits, part.labels, 0.0, loss, None, by_label) * share).backward()
        gradients.append(matrix.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


def test_a_run_in_parts_equals_a_run_on_whole_batches(start, tiny, tmp_path):
    rows = list(iterate_rows(tiny / "scenes.jsonl"))
    for row in rows[:20]:
        row |= {"tags": ["a"], "unknown_tags": ["the", "red"]}
        del row["captions"]
    write_manifest(tmp_path / "unknown.jsonl", rows, {"media_root": str(tiny)})
    settings = {"freeze_backbone": True, "dropout": 0.0, "data": tmp_path / "unknown.jsonl"}
    whole, halves = (weights(start(f"by {size}", bags_at_a_time=size, **settings)) for size in (0, 8))
    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_norm_of_no_step_exceeds_the_clip(start, monkeypatch):
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *arguments, **named):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return original(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    start("free")
    free = list(norms)
    norms.clear()
    start("clipped", gradient_clip=0.5 * min(free))
    assert max(norms) <= 0.5001 * min(free)


def test_the_average_is_what_is_validated_and_kept(start, monkeypatch):
    decay, seen = 0.5, []
    original = stage.Stage._seed

    def watching(self):
        seen.append(self.network.classifier.head.weight.detach().clone())  # before each step
        original(self)

    monkeypatch.setattr(stage.Stage, "_seed", watching)
    settings = {"noise_model": "none", "stage1_epochs": 2, "stage2_epochs": 0, "select": "last"}
    run = start("averaged", ema_decay=decay, **settings)
    monkeypatch.undo()
    seen.append(weights(start("last", **settings))["head.weight"])  # the raw weights after the last step
    assert len(seen) == 7
    expected = seen[1]
    for step, after in enumerate(seen[2:7], start=2):
        share = min(1 - step ** (-2 / 3), decay)  # fewer in the first steps
        expected = share * expected + (1 - share) * after
    torch.testing.assert_close(weights(run)["head.weight"], expected)


def test_channels_last_changes_rounding_alone(start):
    settings = {"stage1_epochs": 1, "stage2_epochs": 0, "noise_model": "none"}
    plain, last = (weights(start(f"{flag}", channels_last=flag, **settings)) for flag in (False, True))
    for name, tensor in plain.items():
        torch.testing.assert_close(last[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "rand-m9-n3-inc1", "augmix-m5-w2", "original", "v0r-mstd0.5"])
def test_a_seed_decides_how_a_photo_is_varied(policy):
    vary = make_augmentation(TrainConfig(augment=policy, random_erasing=1.0), PLAIN)
    assert vary is not None
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = vary(photo, False, 1), vary(photo, False, 1), vary(photo, False, 2)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, PLAIN(photo))


def test_processes_that_decode_photos_vary_them_alike(start):
    settings = {"augment": "rand-m9", "random_erasing": 0.5, "stage2_epochs": 0, "noise_model": "none"}
    assert states(start("none", **settings)) == states(start("two", num_workers=2, **settings))


def test_seeds_of_variation_leave_the_order_and_the_flips_as_they_are():
    plain = EpochBatches(9, 4, seed=3, shuffle=True, flip=True)
    varied = EpochBatches(9, 4, seed=3, shuffle=True, flip=True, vary=True)
    assert [pick[:2] for batch in varied for pick in batch] == [pick for batch in plain for pick in batch]
    seeds = [pick[2] for batch in varied for pick in batch]
    assert len(set(seeds)) == 9
    varied.set_epoch(1)
    assert seeds != [pick[2] for batch in varied for pick in batch]


@pytest.mark.parametrize("q", [0.0, 0.5])
@pytest.mark.parametrize("with_noise_model", [False, True])
def test_labels_count_by_their_weights(q, with_noise_model):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 3, generator=generator)
    labels = torch.randint(-1, 2, (6, 3), generator=generator).float()
    counts = torch.tensor([0.2, 1.0, 1.8])
    sure = torch.tensor([-40.0, 40.0]).expand(3, 2)  # observed labels are the true ones
    found = q_likelihood(logits, labels, q, "mean", sure if with_noise_model else None, counts)
    total, weight = 0.0, 0.0
    for row, of_row in zip(logits, labels, strict=True):
        for logit, label, count in zip(row, of_row, counts, strict=True):
            if label >= 0:
                log_p = logsigmoid(logit if label == 1 else -logit)
                total += count * (-log_p if q == 0 else (1 - torch.exp(q * log_p)) / q)
                weight += count
    torch.testing.assert_close(found, total / weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "rnd-m9"}, "augment: expected none or a policy of timm such as rand-m9-mstd0.5, got 'rnd-m9'"),
        ({"augment": "rand m9"}, "augment: expected none or a policy"),
        ({"augment": "rand-m9", "freeze_backbone": True}, "augment: expected none with a frozen backbone"),
        ({"random_erasing": 0.1, "freeze_backbone": True}, "random_erasing: expected 0 with a frozen backbone"),
        ({"random_erasing": 1.5}, "random_erasing: expected a number from 0 to 1"),
        ({"ema_decay": 1.0}, "ema_decay: expected a number from 0 to below 1"),
        ({"gradient_clip": -1.0}, "gradient_clip: expected 0 or more"),
        ({"bags_at_a_time": -1}, "bags_at_a_time: expected 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError) as refused:
        TrainConfig(**settings)
    assert str(refused.value).startswith(message)


def test_a_policy_that_timm_does_not_know_is_refused():
    with pytest.raises(InputError, match=r"augment: expected a policy of timm .* got rand-z3"):
        make_augmentation(TrainConfig(augment="rand-z3"), PLAIN)
