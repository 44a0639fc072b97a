"""A run that was stopped goes on as if it had not been, and what cannot go on says why."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from truetag.data.manifest import iterate_rows, write_manifest
from truetag.errors import InputError
from truetag.io import tensors
from truetag.runs import checkpoints
from truetag.runs.checkpoints import Checkpoint, CheckpointFolder, Position, load_optimiser_state, optimiser_state
from truetag.runs.folder import lock_run
from truetag.training import stage
from truetag.training.train import train

STEPS_AN_EPOCH, STEPS = 3, 12


def states(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def records(run):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in run.history()]


def at_step(monkeypatch, number, act):
    """Call `act` in the course of one training step; returns a list that grows with every step."""
    steps = []
    original = stage.q_likelihood

    def counting(*arguments):
        steps.append(len(steps) + 1)
        if len(steps) == number:
            act()
        return original(*arguments)

    monkeypatch.setattr(stage, "q_likelihood", counting)
    return steps


@pytest.fixture
def start(tiny, tiny_config, tmp_path):
    """Train on `tiny`, as `tiny_run` was, into a folder of this test."""

    def run(resume=False, data=tiny / "swapped.jsonl", vocabulary=tiny / "vocabulary.tsv", **settings):
        return train(replace(tiny_config, **settings), data, vocabulary, tmp_path / "run", resume=resume)

    return run


@pytest.mark.parametrize("step", [1, 3, 5, 6, 7, 11, 12])
@pytest.mark.parametrize(
    ("number", "ending", "code"), [("SIGINT", KeyboardInterrupt, None), ("SIGTERM", SystemExit, 143)]
)
def test_a_signal_saves_and_the_rest_is_as_it_would_have_been(
    start, tiny_run, monkeypatch, capsys, step, number, ending, code
):
    at_step(monkeypatch, step, lambda: os.kill(os.getpid(), signal.Signals[number]))
    with pytest.raises(ending) as stopped:
        start()
    assert code is None or stopped.value.code == code
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    steps = at_step(monkeypatch, 0, lambda: None)
    resumed = start(resume=True)
    assert len(steps) == STEPS - step  # the step that was running is finished, and none is done twice
    assert states(resumed.folder) == states(tiny_run.folder)
    assert records(resumed) == records(tiny_run)
    assert not (resumed.folder / "checkpoints").exists()


def test_a_crash_loses_what_came_after_the_last_checkpoint_alone(start, tiny_run, monkeypatch):
    def crash():
        raise MemoryError

    at_step(monkeypatch, 8, crash)
    with pytest.raises(MemoryError):
        start(checkpoint_seconds=0.0)
    monkeypatch.undo()
    steps = at_step(monkeypatch, 0, lambda: None)
    assert states(start(resume=True).folder) == states(tiny_run.folder)
    assert len(steps) == STEPS - 7


def test_without_the_option_an_unfinished_run_is_refused(start, monkeypatch):
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    with pytest.raises(InputError, match="an unfinished run: give --resume to go on with it, or a new folder"):
        start()


def test_resuming_nothing_begins_and_resuming_a_finished_run_leaves_it(start, tiny_run, capsys):
    run = start(resume=True)
    assert states(run.folder) == states(tiny_run.folder)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.*")}
    assert start(resume=True).folder == run.folder
    assert "finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.*")} == before


def test_only_the_same_run_is_resumed(start, tiny, tmp_path, monkeypatch):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    with pytest.raises(InputError, match=r"begun with dropout 0\.1, now it is 0\.5"):
        start(resume=True, dropout=0.5)
    words = (tiny / "vocabulary.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "fewer.tsv").write_text("".join(words[:-1]))
    with pytest.raises(InputError, match=r"another vocabulary \(20 words, now 19\)"):
        start(resume=True, vocabulary=tmp_path / "fewer.tsv")
    rows = list(iterate_rows(tiny / "swapped.jsonl"))
    write_manifest(tmp_path / "fewer.jsonl", rows[1:], {"media_root": str(tiny)})
    with pytest.raises(InputError, match=r"the training data is not what .* was begun with"):
        start(resume=True, data=tmp_path / "fewer.jsonl")
    # what changes nothing in what is learnt may change
    assert start(resume=True, num_workers=0, checkpoint_seconds=1.0).is_finished


def test_a_run_in_use_is_refused(start, tmp_path, monkeypatch):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    with (
        lock_run(tmp_path / "run"),
        pytest.raises(InputError, match=rf"is in use by process {os.getpid()} on "),
    ):
        start(resume=True)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(start, tiny_run, tmp_path, monkeypatch, capsys):
    at_step(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start(checkpoint_seconds=0.0)
    older, newest = sorted((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    newest.write_bytes(newest.read_bytes()[:-100])
    monkeypatch.undo()
    steps = at_step(monkeypatch, 0, lambda: None)
    assert states(start(resume=True).folder) == states(tiny_run.folder)
    assert len(steps) == STEPS - 7
    assert f"passed over a broken checkpoint: {newest.name}" in capsys.readouterr().err
    assert older.name < newest.name


def test_good_checkpoints_outlive_a_damaged_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "KEPT", 1)
    folder = CheckpointFolder(tmp_path, 60.0)
    weights = {"w": torch.zeros(1)}
    folder.save(Checkpoint(Position(1, 1, 5), weights, {}, {}))
    (tmp_path / "1-000009-000000000.safetensors").write_bytes(b"broken")
    again = CheckpointFolder(tmp_path, 60.0)
    found = again.latest()
    assert found is not None
    assert found.position.step == 5
    again.save(Checkpoint(Position(1, 1, 6), weights, {}, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["1-000001-000000006.safetensors"]


def test_a_signal_in_the_last_validation_of_a_stage_is_obeyed(start, tiny_run, monkeypatch):
    original = stage.average_precision

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(stage, "average_precision", interrupted)
    with pytest.raises(SystemExit):
        start()
    monkeypatch.undo()
    assert states(start(resume=True).folder) == states(tiny_run.folder)


def test_another_origin_is_not_resumed(start, tiny, tiny_run, tiny_config, tmp_path, monkeypatch):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    arguments = (tiny_config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")
    with pytest.raises(InputError, match=r"--from is not what .* was begun with"):
        train(*arguments, start_from=tiny_run.folder, resume=True)
    rows = list(iterate_rows(tiny / "swapped.jsonl"))
    images = [row["image"] for row in rows if row["split"] == "train"]
    others = iter(images[1:] + images[:1])
    rows = [row | {"image": next(others)} if row["split"] == "train" else row for row in rows]
    write_manifest(tmp_path / "permuted.jsonl", rows, {"media_root": str(tiny)})
    with pytest.raises(InputError, match="the training data is not"):
        start(resume=True, data=tmp_path / "permuted.jsonl")


def test_the_users_own_files_in_a_run_folder_are_left_alone(start, tmp_path, monkeypatch):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    (tmp_path / "run" / ".gitignore").write_text("*")
    (tmp_path / "run" / ".ipynb_checkpoints").mkdir()
    start(resume=True)
    assert (tmp_path / "run" / ".gitignore").exists()


def test_only_damaged_checkpoints_are_said(start, tmp_path, monkeypatch):
    at_step(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start()
    for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"resume: no checkpoint in .* can be read"):
        start(resume=True)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(start, tiny_run, tmp_path, monkeypatch):
    original, calls = tensors.save_file, []

    def save_file(state, path, note):
        calls.append(path)
        if len(calls) > 6:
            raise tensors.SafetensorError("Error while serializing: I/O error: whatever (os error 28)")
        original(state, path, note)

    monkeypatch.setattr(tensors, "save_file", save_file)
    with pytest.raises(InputError, match=r"cannot write a checkpoint \(No space left on device\); 2 earlier ones are"):
        start(checkpoint_seconds=0.0)
    monkeypatch.undo()
    assert states(start(resume=True).folder) == states(tiny_run.folder)


def test_the_batch_of_a_loss_that_is_not_finite_is_named(start, tmp_path, monkeypatch):
    original, losses = stage.q_likelihood, []

    def breaks(*arguments):
        losses.append(original(*arguments))
        return losses[-1] * (torch.nan if len(losses) == 5 else 1.0)

    monkeypatch.setattr(stage, "q_likelihood", breaks)
    with pytest.raises(
        InputError, match=r"the loss is nan at stage 1, epoch 2, step 2; its batch: 'train-\d+', "
    ) as error:
        start(checkpoint_seconds=0.0)
    report = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert len(report["ids"]) == 16
    assert all(repr(name) in str(error.value) for name in report["ids"][:8])
    found = CheckpointFolder(tmp_path / "run" / "checkpoints", 60.0).latest()
    assert found is not None
    assert (found.position.epoch, found.position.step) == (2, 1)
    assert all(tensor.isfinite().all() for tensor in found.network.values() if tensor.is_floating_point())


def test_a_gradient_that_is_not_finite_is_caught_before_the_step(start, monkeypatch):
    original, losses = stage.q_likelihood, []

    def steep(*arguments):
        losses.append(original(*arguments))
        return losses[-1] + (0 * losses[-1]).sqrt() if len(losses) == 3 else losses[-1]  # its slope is infinite

    monkeypatch.setattr(stage, "q_likelihood", steep)
    with pytest.raises(InputError, match="the gradient's norm is nan at stage 1, epoch 1, step 3"):
        start()


def test_the_last_n_checkpoints_and_their_best_epochs_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, 60.0)
    weights = {"w": torch.arange(3.0)}
    for epoch in range(1, 6):
        position = Position(stage=1, epoch=epoch, step=epoch, best_epoch=epoch // 2, best_score=0.1)
        folder.save(Checkpoint(position, weights, {}, {}, {"x": epoch}))
    (tmp_path / ".half.new.safetensors").write_text("x")
    best = {"w": torch.zeros(3)}
    folder.save(Checkpoint(position, weights, best, {"0/step": torch.tensor(3.0)}, {"x": 6}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1-000004-000000004.safetensors",
        "1-000005-000000005.safetensors",
    ]
    found = folder.latest()
    assert found is not None
    assert found.position == position
    assert found.note == {"x": 6}
    assert torch.equal(found.best["w"], best["w"])
    assert found.optimiser == {"0/step": torch.tensor(3.0)}
    folder.clear()
    assert CheckpointFolder(tmp_path, 60.0).latest() is None


def test_a_checkpoint_is_due_by_the_clock(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    folder = CheckpointFolder(tmp_path, 60.0)
    assert not folder.is_due
    now = 160.0
    assert folder.is_due
    folder.save(Checkpoint(Position(1), {"w": torch.zeros(1)}, {}, {}))
    assert not folder.is_due


@pytest.mark.parametrize("kind", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_an_optimiser_goes_on_from_its_tensors(kind):
    def step(optimiser, weight):
        (weight**3).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = kind([weight])
    step(optimiser, weight)
    copy = torch.nn.Parameter(weight.detach().clone())
    other = kind([copy])
    load_optimiser_state(other, {name: tensor.clone() for name, tensor in optimiser_state(optimiser).items()})
    for _ in range(3):
        step(optimiser, weight)
        step(other, copy)
    assert torch.equal(weight, copy)
