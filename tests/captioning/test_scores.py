"""The official tokenizer and METEOR, which need Java: it is started as rarely as possible."""

import csv
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from truetag.captioning import java, scores
from truetag.captioning.java import Meteor, meteor, tokenise_by_java
from truetag.captioning.scores import score_captions
from truetag.errors import InputError
from truetag.evaluation.caption_tokens import fold_space, tokenise_caption

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
REFERENCES = {
    "a": ["A dog runs in the grass.", "the brown dog is running"],
    "b": ["Two children play\u2028with a red ball.", "kids ||| with a ball"],
    "c": ["A man's surfboard is blue.", "surfing"],
}
CANDIDATES = {"a": "a dog is running in grass", "b": "two kids\r\nplay with a ball", "c": ""}
# of the toolkit's own class on the tokens above, where `|||` is three tokens
OFFICIAL = {"a": 0.374255, "b": 0.406134, "c": 0.0}
# a state at the end keeps its full stop: of 200,199 captions the only one
EXCEPTIONS = {"coco": ["Closeup of a button in front of the Louisville Slugger factory in KY."]}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The toolkit in a folder whose name has a blank, on a machine that writes decimals with a comma."""
    specification = importlib.util.find_spec("pycocoevalcap")
    assert specification is not None
    assert specification.submodule_search_locations is not None
    folder = tmp_path_factory.mktemp("with a blank") / "toolkit"
    for part in ("meteor", "tokenizer"):
        shutil.copytree(Path(specification.submodule_search_locations[0]) / part, folder / part)
    for path in (folder / "meteor", folder / "tokenizer"):
        path.chmod(0o555)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java, "_folder", lambda: folder)
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
        java._kept.cache_clear()
        yield folder
    java._kept.cache_clear()
    for path in (folder / "meteor", folder / "tokenizer"):
        path.chmod(0o755)


def test_the_official_scores(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = score_captions(REFERENCES, CANDIDATES)
    assert capsys.readouterr().err == "starting METEOR: Java takes about 20 seconds and 1.5 GB of memory\n"
    assert (result.tokenizer, result.missing) == ("PTB", None)
    assert {name: each["meteor"] for name, each in result.per_clip.items()} == pytest.approx(OFFICIAL, abs=1e-6)
    assert result.meteor is not None
    assert 0 < result.meteor < 0.41
    ours = score_captions(REFERENCES, CANDIDATES, official=False)
    assert (result.bleu, result.rouge_l, result.cider) == (ours.bleu, ours.rouge_l, ours.cider)
    # line ends inside captions shift nothing
    reversed_order = {name: CANDIDATES[name] for name in reversed(CANDIDATES)}
    assert score_captions(REFERENCES, reversed_order).per_clip == result.per_clip
    assert capsys.readouterr().err == ""  # one process, kept


def test_a_process_that_dies_says_so_and_is_started_again(elsewhere: Path) -> None:
    process = meteor()
    process._process.kill()
    process._process.wait()
    with pytest.raises(InputError, match="METEOR failed"):
        process.score([[["a"]]], [["a"]])
    (elsewhere / "meteor").chmod(0o755)
    jar = elsewhere / "meteor" / "meteor-1.5.jar"
    jar.rename(jar.with_suffix(".away"))
    with pytest.raises(InputError, match=r"METEOR failed .*Unable to access jarfile"):
        meteor().score([[["a"]]], [["a"]])
    jar.with_suffix(".away").rename(jar)
    (elsewhere / "tokenizer" / "stanford-corenlp-3.4.1.jar").rename(elsewhere / "away")
    with pytest.raises(InputError, match=r"the PTB tokenizer failed .*PTBTokenizer"):
        tokenise_by_java(["a dog"])
    (elsewhere / "away").rename(elsewhere / "tokenizer" / "stanford-corenlp-3.4.1.jar")


def test_without_java_meteor_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "is_installed", lambda: False)
    result = score_captions(REFERENCES, CANDIDATES)
    assert result.meteor is None
    assert "meteor" not in result.per_clip["a"]
    assert result.tokenizer == "truetag"
    assert result.missing == "METEOR and the official tokenizer need Java: pip install 'truetag[captions]'"
    with pytest.raises(InputError, match=r"official: expected METEOR .*pip install 'truetag\[captions\]'"):
        score_captions(REFERENCES, CANDIDATES, official=True)


@pytest.mark.skipif(not DATA.is_dir(), reason="the captions are not here")
@pytest.mark.parametrize("corpus", ["coco", "flickr8k", "msrvtt"])
def test_our_tokens_are_the_official_ones(corpus: str) -> None:
    match corpus:
        case "coco":
            content = json.loads((DATA / "coco_captions" / "captions_val2017.json").read_text())
            captions = [entry["caption"] for entry in content["annotations"]]
        case "flickr8k":
            with (DATA / "flickr8k" / "captions.csv").open(newline="") as file:
                captions = [row["caption"] for row in csv.DictReader(file)]
        case _:
            content = json.loads((DATA / "msrvtt" / "train_val_videodatainfo.json").read_text())
            captions = [entry["caption"] for entry in content["sentences"]]
    captions = [fold_space(caption) for caption in captions]
    assert len(captions) > 20_000
    theirs = tokenise_by_java(captions)
    differing = [
        (caption, tokens)
        for caption, tokens in zip(captions, theirs, strict=True)
        if tokenise_caption(caption) != tokens
    ]
    assert [caption for caption, _ in differing] == EXCEPTIONS.get(corpus, [])


def test_a_process_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    process = Meteor()
    assert process.is_running
    process.close()
    assert not process.is_running
