"""`truetag report`: what a page shows, what it says is missing, and that tags and names stay data."""

import dataclasses
import html
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from truetag.audit.find import audit
from truetag.data.manifest import write_manifest
from truetag.data.vocabulary import Vocabulary
from truetag.errors import InputError
from truetag.evaluate import evaluate
from truetag.media.preprocessing import Preprocessing
from truetag.reports.report import report
from truetag.reports.seed_groups import group_runs
from truetag.runs.config import TrainConfig
from truetag.runs.folder import append_history, create_run
from truetag.training.train import train

EVIL = (
    "<script>document.title='broken'</script>",
    '"><img src=x onerror=alert(1)>',
    "two\nlines",
    "שלום",
    "a'b & c",
    "$x_1^2$",
    "_hidden",
)


class Text(HTMLParser):
    """The text of a page that is shown, and its elements."""

    def __init__(self, page):
        super().__init__()
        self.shown, self.elements, self.attributes, self.ids = [], [], [], []
        self.feed(page.read_text())
        self.text = " ".join(" ".join(self.shown).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        if self.elements and self.elements[-1] not in ("style", "script"):
            self.shown.append(data)


@pytest.fixture(scope="module")
def runs(tiny, tiny_config, tmp_path_factory):
    """Two seeds of a noise model and one run without one, scored; and an unfinished run."""
    folder = tmp_path_factory.mktemp("report")
    for seed in (0, 1):
        config = dataclasses.replace(tiny_config, seed=seed, noise_model="fi")
        run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", folder / "fi" / f"seed-{seed}")
        evaluate(run.folder, tiny / "swapped.jsonl", truth="true")
    config = dataclasses.replace(tiny_config, noise_model="none")
    run = train(config, tiny / "swapped.jsonl", tiny / "vocabulary.tsv", folder / "plain")
    evaluate(run.folder, tiny / "swapped.jsonl", truth="true")
    unfinished = create_run(folder / "stopped", config, run.vocabulary, run.preprocessing)
    append_history(unfinished.folder, {"stage": 1, "epoch": 0, "loss": 0.5, "validation_ap": 0.25})
    return folder


def test_seeds_count_as_one_and_scores_have_their_spread(runs, tmp_path):
    page = report([runs / "fi", runs / "plain"], tmp_path / "out")
    text = Text(page).text
    aps = [
        json.loads((runs / "fi" / f"seed-{seed}" / "metrics" / "swapped-test.json").read_text())["mean_ap"]
        for seed in (0, 1)
    ]
    mean, deviation = sum(aps) / 2, abs(aps[0] - aps[1]) / 2**0.5
    assert f"{100 * mean:.1f}\xa0±\xa0{100 * deviation:.1f}".replace("\xa0", " ") in text.replace("\xa0", " ")
    assert "2 taggers compared" in text
    assert "3 runs" in text
    assert "noise_model fi none" in text  # the setting that differs
    assert "AP by part of speech" in text
    assert "true tags or captions, which training never sees" in text
    assert "No rates of plain" in text
    assert "No audit of these runs was found" in text


def test_every_figure_is_also_a_file_that_is_whole(runs, tmp_path):
    page = report([runs / "fi", runs / "plain"], tmp_path / "out")
    files = sorted((tmp_path / "out" / "figures").iterdir())
    names = {path.name for path in files}
    assert {"loss.svg", "validation-ap.svg", "rates-missing.svg", "precision-1.svg", "reliability-1.svg"} <= names
    inline = re.findall(r"<svg viewBox[^>]*class=\"drawn\".*?</svg>", page.read_text(), re.DOTALL)
    assert len(inline) == len(files)
    for text in [*inline, *(path.read_text() for path in files)]:
        ElementTree.fromstring(text)
    assert ">plain<" in (tmp_path / "out" / "figures" / "loss.svg").read_text()  # its legend
    parsed = Text(page)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_a_page_fetches_nothing_and_forbids_all_but_its_own_style(runs, tmp_path):
    page = report([runs / "plain"], tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    content = page.read_text()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', content)[1])
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"http-equiv", "", content)
    parsed = Text(page)
    assert "script" not in parsed.elements
    assert not {"style"} & set(parsed.attributes)  # which the policy forbids
    assert not [name for name in parsed.attributes if name.startswith("on")]


def test_an_unfinished_run_shows_what_is_there(runs, tmp_path):
    text = Text(report([runs / "stopped", runs / "plain"], tmp_path / "out")).text
    assert "not finished: 1 of 4 epochs" in text
    assert "Without scores here: stopped" in text
    alone = Text(report([runs / "stopped"], tmp_path / "alone")).text
    for sentence in ("No scores yet", "None: no run was evaluated.", "Not known: no run was evaluated."):
        assert sentence in alone
    assert (tmp_path / "alone" / "figures" / "loss.svg").is_file()


def test_a_run_that_has_just_begun(runs, tmp_path):
    shutil.copytree(runs / "stopped", tmp_path / "begun")
    (tmp_path / "begun" / "history.jsonl").unlink()
    assert "No epoch is finished yet." in Text(report([tmp_path / "begun"], tmp_path / "out")).text


def test_runs_of_an_earlier_version_have_no_curves(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "old")
    (tmp_path / "old" / "metrics" / "swapped-test.curves.safetensors").unlink()
    text = Text(report([tmp_path / "old"], tmp_path / "out")).text
    assert "None are stored, or no tag has enough examples" in text
    assert "Highest AP" in text


def test_an_audit_beside_the_run_is_shown_with_its_photos(tiny, runs, tmp_path, few_steps):
    run = tmp_path / "work" / "run"
    shutil.copytree(runs / "plain", run)
    audit(run, tiny / "swapped.jsonl", out=tmp_path / "work" / "audit", split="train", min_probability=0.0)
    page = report([run], tmp_path / "out", num_photos=3)
    parsed = Text(page)
    assert parsed.elements.count("article") == 3
    assert parsed.elements.count("img") == 3
    assert page.read_text().count("data:image/jpeg;base64,") == 3
    assert {"del", "ins"} & set(parsed.elements)
    assert "audit of run" in parsed.text
    assert (tmp_path / "out" / "figures" / "rates-missing.svg").is_file()
    other = Text(report([runs / "plain"], tmp_path / "other")).text  # whose audit this is not
    assert "No audit of these runs was found" in other
    (tmp_path / "work").rename(tmp_path / "moved")  # run and audit stay together
    assert Text(report([tmp_path / "moved" / "run"], tmp_path / "again")).elements.count("article") == 12


def test_tags_names_and_files_are_data(tmp_path):
    folder = tmp_path / "run <script>alert(1)<!-- $a$"
    create_run(
        folder, TrainConfig(), Vocabulary(("x",), ("-",), (1,)), Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )
    append_history(folder, {"stage": 1, "epoch": 0, "loss": 0.5, "validation_ap": 0.25})
    rates = dict.fromkeys((*EVIL, "\x1b[2J\b"), 0.25)  # control characters are no XML
    metrics = {
        **{"split": "<b>test", "truth": "true", "num_examples": 9, "mean_ap": 0.5, "count_mean_ap": None, "ece": 0.1},
        **{"op": 0.5, "or": 0.5, "of1": 0.5, "threshold": 0.5, "by_pos": {}, "per_label": {"x": 0.5}},
        "noise": {"missing_rate": rates, "incorrect_rate": rates},
    }
    (folder / "metrics").mkdir()
    (folder / "metrics" / "<i>name-test.json").write_text(json.dumps(metrics))
    for number in range(len(EVIL)):
        Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [{"id": name, "image": f"{number}.png", "tags": [name]} for number, name in enumerate(EVIL)]
    write_manifest(tmp_path / "m.jsonl", rows)
    issues = pd.DataFrame(
        [
            {
                "id": name,
                "label": name,
                "kind": ("missing", "incorrect")[number % 2],
                "probability": 0.9,
                "record": None,
            }
            for number, name in enumerate(EVIL)
        ]
    )
    issues.to_parquet(tmp_path / "issues.parquet")
    page = report([folder], tmp_path / "out", issues=tmp_path / "issues.parquet", data=tmp_path / "m.jsonl")
    parsed = Text(page)
    for name in EVIL:
        assert " ".join(name.split()) in parsed.text, name
    assert not {"script", "b", "i"} & set(parsed.elements)
    assert parsed.elements.count("img") == len(EVIL)
    assert not [name for name in parsed.attributes if name.startswith("on")]
    for path in (tmp_path / "out" / "figures").iterdir():
        ElementTree.parse(path)


def test_runs_are_grouped_only_if_nothing_but_the_seed_differs(runs, tmp_path):
    def groups(*folders):
        return [(group.name, [record.run.config.seed for record in group.records]) for group in group_runs(folders)]

    assert groups(runs / "fi") == [("fi", [0, 1])]
    assert groups(runs / "fi" / "seed-0", runs / "plain") == [("seed-0", [0]), ("plain", [0])]
    shutil.copytree(runs / "plain", tmp_path / "copy")
    assert len(groups(runs / "plain", tmp_path / "copy")) == 2  # the same seed twice is something else
    shutil.copytree(runs / "plain", tmp_path / "one")
    config = json.loads((tmp_path / "one" / "config.json").read_text()) | {"seed": 1}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    assert groups(runs / "plain", tmp_path / "one") == [("plain", [0, 1])]
    with (tmp_path / "one" / "labels.tsv").open("r+") as file:
        lines = file.readlines()
        word, present, *others = lines[1].split("\t")
        lines[1] = "\t".join([word, str(int(present) + 1), *others])
        file.seek(0)
        file.writelines(lines)
    assert len(groups(runs / "plain", tmp_path / "one")) == 2  # it learnt from other tags


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_photos": -1}, "num_photos: expected 0 or more, got -1"),
        ({"issues": "no.parquet"}, "no.parquet: no such list of issues"),
        ({"data": "no.jsonl"}, "no.jsonl: no such manifest file"),
    ],
)
def test_mistakes(runs, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        report([runs / "plain"], tmp_path / "out", **options)


def test_mistakes_in_runs(runs, tmp_path):
    with pytest.raises(InputError, match="runs: expected a run folder, or a folder of runs"):
        report([tmp_path], tmp_path / "out")
    with pytest.raises(InputError, match=r"runs: expected different folders, got .*plain' twice"):
        report([runs / "plain", runs / "plain"], tmp_path / "out")
    with pytest.raises(InputError, match=r"runs: expected different folders, got .*seed-0' twice"):
        report([runs / "fi", runs / "fi" / "seed-0"], tmp_path / "out")
    shutil.copytree(runs / "stopped", tmp_path / "broken")
    append_history(tmp_path / "broken", {"stage": 1, "epoch": 1, "loss": "<b>"})
    with pytest.raises(InputError, match=r"history\.jsonl: loss: expected a number, got '<b>'"):
        report([tmp_path / "broken"], tmp_path / "out")
    report([runs / "plain"], tmp_path / "out")
    with pytest.raises(InputError, match="add --overwrite"):
        report([runs / "plain"], tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="out: expected a folder"):
        report([runs / "plain"], tmp_path / "file")
