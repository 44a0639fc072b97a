"""Settings on the command line: from files, shown, and in helps that are short or whole."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from truetag.captioning.config import CaptionConfig
from truetag.cli import COMMANDS, main
from truetag.options import descriptions
from truetag.runs.config import TrainConfig
from truetag.training.recipes import DECIDED, RECIPES, SCHEDULE, recipe

SMALL = {"backbone": "test_resnet", "weights": "none", "resolution": 32, "stage1_epochs": 1, "stage2_epochs": 1}


def run(capsys, *arguments) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def settings(capsys, *arguments):
    code, out, err = run(capsys, "train", *arguments, "--show")
    assert code == 0, err
    return json.loads(out)


def states(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("name", ["nmn-fd", "best"])
def test_the_config_of_a_run_repeats_it(tiny, tmp_path, capsys, few_steps, name):
    (tmp_path / "small.json").write_text(json.dumps(SMALL | {"batch_size": 16, "freeze_backbone": True}))
    data = ("--data", tiny / "swapped.jsonl", "--vocabulary", tiny / "vocabulary.tsv")
    code, _, err = run(capsys, "train", name, *data, "--config", tmp_path / "small.json", "--out", tmp_path / "first")
    assert code == 0, err
    config = tmp_path / "first" / "config.json"
    assert run(capsys, "train", *data, f"--config={config}", "--out", tmp_path / "again")[0] == 0
    assert states(tmp_path / "again") == states(tmp_path / "first") != {}
    for file in ("config.json", "threshold.json"):
        assert (tmp_path / "again" / file).read_text() == (tmp_path / "first" / file).read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_shown_is_a_settings_file(tmp_path, capsys, name):
    shown = settings(capsys, name)
    assert shown == dataclasses.asdict(recipe(name))
    (tmp_path / "all.json").write_text(json.dumps(shown))
    assert settings(capsys, "--config", tmp_path / "all.json") == shown


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("reproduce", SCHEDULE),
        ("reproduce table1 --data coco --out out", SCHEDULE),
        ("caption train", CaptionConfig()),
        ("caption train data.jsonl --out out", CaptionConfig()),
    ],
)
def test_other_commands_begin_with_the_settings_of_their_signature(tmp_path, capsys, command, expected):
    code, out, err = run(capsys, *command.split(), "--show")
    assert (code, json.loads(out)) == (0, dataclasses.asdict(expected)), err
    (tmp_path / "some.json").write_text('{"batch_size": 3}')
    code, out, err = run(capsys, *command.split(), "--show", "--config", tmp_path / "some.json")
    assert (code, json.loads(out)) == (0, dataclasses.asdict(expected) | {"batch_size": 3}), err


def test_the_command_line_wins_over_the_file_and_the_file_over_the_recipe(tmp_path, capsys):
    (tmp_path / "some.json").write_text('{"dropout": 0.2, "weight_decay": 1, "flip": false, "noise_model": "fi"}')
    found = settings(capsys, "mlcn", "--config", tmp_path / "some.json", "--dropout", "0.3", "--stage2-epochs", "4")
    expected = {"dropout": 0.3, "weight_decay": 1.0, "flip": False, "noise_model": "fi", "stage2_epochs": 4}
    assert found == dataclasses.asdict(recipe("mlcn")) | expected
    code, _, err = run(capsys, "train", "mlcn", "--config", tmp_path / "some.json", "--show")
    assert (code, err) == (2, "truetag: stage2_epochs: expected a number above 0 where there is a noise model, got 0\n")


def test_a_captioner_has_settings_files_too(tmp_path, capsys):
    (tmp_path / "some.json").write_text('{"state_size": 9}')
    code, out, _ = run(capsys, "caption", "train", "--config", tmp_path / "some.json", "--epochs", "2", "--show")
    assert code == 0
    assert json.loads(out) == dataclasses.asdict(CaptionConfig(state_size=9, epochs=2))


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        ("mlcn --config FILE", '{"droput": 0.2}', "FILE: 'droput' is not a setting; did you mean 'dropout'?"),
        ("mlcn --config FILE", '{"dropout": "much"}', "FILE: dropout: expected a finite number or null, got 'much'"),
        ("mlcn --config FILE", '{"flip": 1}', "FILE: flip: expected true or false, got 1"),
        ("mlcn --config FILE", '{"log_to": "paper"}', "FILE: log_to: expected one of tensorboard, wandb"),
        ("mlcn --config FILE", "[1]", "FILE: expected a JSON object of settings, got [1]"),
        ("mlcn --config FILE", "dropout: 0.2", "FILE: not a JSON file (Expecting value at character 1)"),
        ("mlcn --config FILE", '{"dropout": 0.2, "dropout": 0.3}', "FILE: not a JSON file (a key is given twice"),
        ("mlcn --config nowhere.json", "{}", "nowhere.json: no such settings file"),
        ("mlcn --config FILE --config FILE", "{}", "config: expected one file, got several"),
        ("mlcn --config", "{}", "config: expected a file, got nothing"),
        ("mlcn --config --show", "{}", "config: expected a file, got --show"),
        (
            "--config FILE",
            '{"dropout": 0.2}',
            "config: expected a recipe before it (`truetag train best --config FILE`",
        ),
        ("--data FILE", "{}", "train: expected a recipe (best, mlcn"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(tmp_path, capsys, arguments, content, message):
    file = tmp_path / "settings.json"
    file.write_text(content)
    code, out, err = run(capsys, "train", *arguments.replace("FILE", str(file)).split())
    assert (code, out) == (2, "")
    assert err.startswith(f"truetag: {message.replace('FILE', str(file))}")
    assert err.count("\n") == 1


def test_settings_are_shown_without_torch(tmp_path):
    program = (
        "import sys; from truetag.cli import main; main(['train', 'best', '--show', '--seed', '3']); "
        "print(*sorted({'torch', 'timm', 'accelerate', 'datasets'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["seed"] == 3
    assert done.stderr == "\n"


def test_the_short_help_has_the_everyday_options_and_the_other_all_of_them(capsys):
    short, whole = (run(capsys, "train", "best", flag)[1] for flag in ("--help", "--help-all"))
    everyday = {f"--{name.replace('_', '-')}" for name in COMMANDS["train"].everyday}
    every = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainConfig)}
    every |= {"--data", "--vocabulary", "--out", "--from", "--resume", "--seeds", "--config", "--show", "--max-skipped"}
    options = [set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", text)) for text in (short, whole)]
    positive = [{word for word in words if not word.startswith("--no-")} for words in options]
    assert everyday <= positive[0] <= everyday | {"--help", "--help-all"}
    assert len(everyday) < 16
    assert every <= positive[1]
    assert "--help-all shows all" in short
    for section in TrainConfig.SECTIONS:
        assert f"{section} options" in whole


def test_help_all_is_also_the_help_of_a_command_without_a_short_one(capsys):
    assert run(capsys, "evaluate", "--help-all") == run(capsys, "evaluate", "--help")


@pytest.mark.parametrize("kind", [TrainConfig, CaptionConfig])
def test_every_setting_is_described_and_in_a_group(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    assert list(descriptions(kind)) == ["SECTIONS", *names]
    assert next(iter(kind.SECTIONS.values())) == names[0]
    assert set(kind.SECTIONS.values()) <= set(names)


def test_a_file_without_a_recipe_states_what_recipes_decide():
    assert {"noise_model", "validity", "pooling", "stage2_epochs", "select"} <= set(DECIDED)
    assert not {"seed", "num_workers", "checkpoint_seconds", "log_to"} & set(DECIDED)
