"""The demo in small: its table, its page, its tags, and what makes its rows comparable."""

import re
from pathlib import Path

import pytest
import torch

from truetag.cli import main
from truetag.data.labels import label_matrix
from truetag.data.manifest import iterate_rows, read_manifest
from truetag.data.vocabulary import read_vocabulary
from truetag.demo.demo import BASELINE, BEST, COLUMNS, FUNCTION_WORDS, METHODS, NUM_CARDS, head_config
from truetag.demo.scenes import WORDS
from truetag.runs.folder import open_run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def printed(drawn):
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *values, **_: lines.append(" ".join(map(str, values))))
        assert main(["demo", "--out", str(drawn), "--num-train", "48", "--num-test", "16"]) == 0
    return "\n".join(lines)


@pytest.fixture(scope="module")
def page(printed, drawn):
    return (drawn / "index.html").read_text()


def cards(page: str) -> list[str]:
    return re.findall(r'<article class="photo">.*?</article>', page, re.S)


def test_the_table_has_a_row_for_each_method_and_the_last_line_names_the_page(printed, drawn):
    rows = [line for line in printed.splitlines() if line.startswith(tuple(m.title for m in METHODS.values()))]
    assert [len(re.findall(r"-?\d+\.\d(?!\d)", row)) for row in rows[: len(METHODS)]] == [len(COLUMNS)] * len(METHODS)
    assert "truetag's gain" in printed
    assert printed.splitlines()[-1].endswith(str(drawn / "index.html"))


def test_the_page_needs_no_network(page):
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;;'  # the browser sees to it
    assert page.count(policy) == 1
    assert "http" not in re.sub(r"data:[^\"]*", "", page.replace(policy, ""))
    assert page.count("<img") == NUM_CARDS


def test_the_page_shows_one_dot_per_word_and_kind_of_mistake(page, drawn):
    panels = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(panels) == 2
    rows = read_manifest(drawn / "photos.jsonl").in_split("train")
    true = label_matrix(rows, read_vocabulary(drawn / "vocabulary.tsv"), "true") == 1
    for panel, has_rate in zip(panels, (true.any(0), ~true.all(0)), strict=True):
        assert panel.count("<circle") == int(has_rate.sum())


def test_cards_mark_changes_by_more_than_colour(page, drawn):
    shown = cards(page)
    assert len(shown) == NUM_CARDS
    assert any("<del>" in card for card in shown)
    assert all(text.startswith("+") for card in shown for text in re.findall(r"<ins>(.*?)</ins>", card))
    assert re.search(r"del \{[^}]*line-through", page)


def test_cards_show_no_function_words(page):
    words = {word for word, part in WORDS.items() if part in FUNCTION_WORDS}
    assert words
    for card in cards(page):
        listed = re.sub(r"<[^>]+>|[+,−]|&nbsp;", " ", " ".join(re.findall(r"<dd>(.*?)</dd>", card, re.S)))
        assert not words & set(listed.split())


def test_cards_are_the_first_training_photos_as_they_were_tagged(page, drawn):
    rows = [row for row in iterate_rows(drawn / "photos.jsonl") if row["split"] == "train"][:NUM_CARDS]
    for card, row in zip(cards(page), rows, strict=True):
        expected = [word for word in row["tags"] if WORDS[word] not in FUNCTION_WORDS]
        assert re.findall(r"<dd>(.*?)</dd>", card, re.S)[0] == (", ".join(expected) or "nothing")


def test_training_tags_are_noisy_and_test_tags_exact(printed, drawn):
    rows = list(iterate_rows(drawn / "photos.jsonl"))
    assert all(set(row["tags"]) == set(row["true_tags"]) for row in rows if row["split"] == "test")
    assert sum(set(row["tags"]) != set(row["true_tags"]) for row in rows if row["split"] == "train") > 40
    assert all(set(row["tags"]) == set(row["true_tags"]) for row in iterate_rows(drawn / "photos-exact.jsonl"))


def test_the_network_has_seen_none_of_the_photos_that_are_compared(printed, drawn):
    photos, others = (
        {path.read_bytes() for path in (drawn / "scenes" / name / "photos").iterdir()} for name in ("photos", "seeing")
    )
    assert not photos & others


def test_all_rows_share_the_frozen_network(printed, drawn):
    states = [open_run(drawn / name).load_classifier_state() for name in METHODS]
    names = [name for name in states[0] if name.startswith("backbone.")]
    assert names
    assert all(torch.equal(states[0][name], state[name]) for state in states[1:] for name in names)


def test_plain_training_and_truetag_have_as_many_epochs():
    configs = [head_config(METHODS[name], Path("backbone.safetensors"), 0) for name in (BASELINE, "nmn-fi", BEST)]
    assert len({config.stage1_epochs + config.stage2_epochs for config in configs}) == 1
    assert configs[0].noise_model == "none"
    assert all(METHODS[name].learns_truth == (name == "exact") for name in METHODS)
