"""Epochs in a tracker: each once, also of a run that is stopped and resumed, and a tracker that fails ends nothing."""

import importlib.util
import json
import os
import signal
from dataclasses import replace
from typing import ClassVar

import pytest
from accelerate import tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from truetag.cli import main
from truetag.errors import InputError
from truetag.runs import tracker
from truetag.runs.tracker import Tracker, require_tracker
from truetag.training import stage
from truetag.training.train import train


class Board:
    """A tracker with a memory, in place of that of wandb."""

    logged: ClassVar[list] = []
    started: ClassVar[list] = []
    settings: ClassVar[list] = []
    fails_at: int | None = None

    def __init__(self, project, **named):
        self.named = named | {"project": project}

    def start(self):
        self.started.append(self.named)

    def store_init_configuration(self, values):
        self.settings.append(values)

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("no\nnetwork")
        self.logged.append((step, values))

    def finish(self):
        self.started.append("finished")


@pytest.fixture
def board(monkeypatch):
    monkeypatch.setattr(Board, "logged", [])
    monkeypatch.setattr(Board, "started", [])
    monkeypatch.setattr(Board, "settings", [])
    monkeypatch.setattr(tracking, "WandBTracker", Board)
    monkeypatch.setattr(tracker, "require_tracker", lambda name: None)
    monkeypatch.setattr("truetag.training.train.require_tracker", lambda name: None)
    return Board


@pytest.fixture
def stopped_and_resumed(tiny, tiny_config, tmp_path, monkeypatch):
    """Train on `tiny` with some tracker; the run is stopped at its eighth step of twelve, and resumed."""

    def run(log_to):
        steps = []
        original = stage.Stage._seed

        def interrupting(self):
            steps.append(1)
            if len(steps) == 8:
                os.kill(os.getpid(), signal.SIGINT)
            original(self)

        monkeypatch.setattr(stage.Stage, "_seed", interrupting)
        arguments = (tiny / "swapped.jsonl", tiny / "vocabulary.tsv", tmp_path / "run")
        config = replace(tiny_config, log_to=log_to)
        with pytest.raises(KeyboardInterrupt):
            train(config, *arguments)
        return train(config, *arguments, resume=True)

    return run


def test_tensorboard_has_each_epoch_once(stopped_and_resumed):
    run = stopped_and_resumed("tensorboard")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for name in ("loss", "validation_ap"):
        for number in (1, 2):
            found = {event.step: event.value for event in events.Scalars(f"stage{number}/{name}")}
            assert len(events.Scalars(f"stage{number}/{name}")) == 2
            expected = {row["epoch"]: row[name] for row in run.history() if row["stage"] == number}
            assert found == pytest.approx(expected)
    assert not (run.folder / "tracker.json").exists()


def test_another_tracker_has_each_epoch_once_in_one_run(stopped_and_resumed, board):
    run = stopped_and_resumed("wandb")
    assert [step for step, _ in board.logged] == [1, 2, 3, 4]
    for record, (_, values) in zip(run.history(), board.logged, strict=True):
        assert values[f"stage{record['stage']}/loss"] == record["loss"]
    first, end, second, end_again = board.started
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("truetag", "run", "allow")
    assert end == end_again == "finished"
    assert [values["noise_model"] for values in board.settings] == ["fd"]
    assert not (run.folder / "tensorboard").exists()
    assert json.loads((run.folder / "tracker.json").read_text())["num_logged"] == 4


def test_an_epoch_that_a_killed_run_had_logged_is_not_logged_again(tmp_path, board):
    (tmp_path / "config.json").write_text("{}")
    for resume in (False, True):
        log = Tracker("wandb", tmp_path)
        log.begin(resume)
        for number in (1, 2) if not resume else (1, 2, 3):  # the second time from before the first epoch
            log.log(number, 1, number, {"loss": 0.5})
    assert [step for step, _ in board.logged] == [1, 2, 3]
    fresh = Tracker("wandb", tmp_path)
    fresh.begin(False)
    fresh.log(1, 1, 1, {"loss": 0.5})
    assert len({named["id"] for named in board.started}) == 2


def test_a_tracker_that_fails_is_told_of_and_training_goes_on(tmp_path, board, monkeypatch, capsys):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(Board, "fails_at", 1)
    log = Tracker("wandb", tmp_path)
    log.begin(False)
    log.log(1, 1, 1, {"loss": 0.5})
    log.log(2, 1, 2, {"loss": 0.4})
    assert board.logged == [(2, {"stage1/loss": 0.4})]
    assert capsys.readouterr().err == "warning: wandb did not take epoch 1 (no network); history.jsonl has it\n"

    def refuse(self):
        raise RuntimeError("no account")

    monkeypatch.setattr(Board, "start", refuse)
    with pytest.raises(InputError, match=r"log_to: wandb does not start \(no account\)"):
        Tracker("wandb", tmp_path).begin(False)


def test_without_a_tracker_there_is_the_history_alone(stopped_and_resumed):
    run = stopped_and_resumed("none")
    assert len(run.history()) == 4
    assert not (run.folder / "tensorboard").exists()


def test_a_missing_package_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"log_to: mlflow is not installed: pip install 'truetag\[mlflow\]'"):
        require_tracker("mlflow")
    require_tracker("none")
    assert main(["train", "mlcn", "--data", "d", "--vocabulary", "v", "--out", "o", "--log-to", "wandb"]) == 2
    assert capsys.readouterr().err == "truetag: log_to: wandb is not installed: pip install 'truetag[wandb]'\n"
