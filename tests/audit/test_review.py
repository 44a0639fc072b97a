"""The review page, in a real browser: decisions by keyboard and in batches, undone, downloaded, applied and loaded."""

import json
import re
import shutil

import pandas as pd
import pytest
from PIL import Image

from truetag.audit.clean import clean
from truetag.audit.review import write_review
from truetag.data.bags import read_bags
from truetag.data.manifest import iterate_rows, read_manifest, write_manifest

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
EVIL = (
    "<script>document.title='broken'</script>",
    '"><img src=x onerror="document.title=\'broken\'">',
    "</script><b>bold",
    "☕ emoji",
    "שלום",
    "../../etc/passwd",
    "two\nlines",
    "a'b",
)
NUM_ISSUES = 3000


def issue(row, label, kind, probability, record=None, source=None):
    entry = {"id": row, "label": label, "kind": kind, "probability": probability, "record": record}
    return entry | {"source": source}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A manifest of eight photos, and a page with many issues about them; the first ones have evil names."""
    folder = tmp_path_factory.mktemp("review")
    rows = []
    for number, name in enumerate(EVIL):
        Image.new("RGB", (64, 48), (number * 30, 90, 200)).save(folder / f"{number}.jpg")
        rows.append({"id": name, "image": f"{number}.jpg", "tags": ["sky", name]})
    write_manifest(folder / "m.jsonl", rows)
    media = read_bags(read_manifest(folder / "m.jsonl"))
    issues = [issue(name, name, "incorrect", 0.99 - number / 1000) for number, name in enumerate(EVIL)]
    issues.append(issue(EVIL[0], None, "record", 0.98, "a caption of another photo"))
    issues += [
        issue(EVIL[number % 8], f"tag {number % 100}", ("missing", "incorrect")[number % 2], 0.9 - number / 10000)
        for number in range(NUM_ISSUES)
    ]
    table = pd.DataFrame(issues).drop_duplicates(["id", "label", "kind"]).reset_index(drop=True)
    write_review(folder / "index.html", table, media, "m.jsonl & co", {EVIL[0]: ["sky", EVIL[0]]})
    return folder


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium here: the page is not opened")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, folder):
    """The page in a browser that remembers nothing, with everything that goes wrong in it."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.problems.append(request.url) if request.url[:4] == "http" else None)
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector(".item")
    yield page
    assert page.problems == []
    context.close()


def downloaded(page, path):
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(path)
    assert download.value.suggested_filename == "decisions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def progress(page):
    return [int(number) for number in re.findall(r"\d+", page.inner_text("#done"))]


def test_texts_are_shown_and_do_nothing_else(page):
    assert page.title() == "Review m.jsonl & co"
    shown = [page.locator(f"#issue-{number} .what .tag").text_content() for number in range(4)]
    assert shown == list(EVIL[:4])
    assert page.locator("#space b, #space script").count() == 0
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert page.locator("img.photo").first.get_attribute("src").startswith("data:image/jpeg")


def test_only_what_is_in_view_is_in_the_document(page):
    decided, total, shown = progress(page)
    assert (decided, shown) == (0, total)
    assert total > 200
    assert page.locator(".item").count() < 60
    page.evaluate("document.getElementById('list').scrollTop = 1e7")
    page.locator(f"#issue-{total - 1}").wait_for(state="attached")
    assert page.locator(".item").count() < 60


def test_keys_decide_and_undo(page, tmp_path):
    for key in ("a", "r", "s"):
        page.keyboard.press(key)
    assert progress(page)[0] == 3
    page.keyboard.press("u")
    assert progress(page)[0] == 2
    lines = downloaded(page, tmp_path / "d.jsonl")
    assert [line["decision"] for line in lines] == ["accept", "reject"]
    assert lines[0]["id"] == lines[0]["label"] == EVIL[0]
    assert all(line["source"] == "person" and line["when"].endswith("Z") for line in lines)


def test_filters_narrow_what_is_shown(page):
    total = progress(page)[1]
    page.select_option("#kind", "record")
    assert progress(page)[2] == 1
    assert page.locator(".item .what").inner_text() == "− a caption of another photo"
    page.select_option("#kind", "missing")
    missing = progress(page)[2]
    assert 0 < missing < total
    page.keyboard.press("Escape")
    page.select_option("#tag", "tag 4")
    assert 0 < progress(page)[2] < missing
    page.select_option("#tag", "")
    page.select_option("#kind", "")
    page.focus("#list")
    page.keyboard.press("/")
    page.keyboard.type("שלום")
    page.keyboard.press("Escape")
    assert 0 < progress(page)[2] < total
    page.keyboard.press("a")
    page.select_option("#state", "accept")
    assert progress(page)[2] == 1
    page.fill("#search", "nothing has this name")
    assert page.is_visible("#empty")
    page.keyboard.press("Escape")
    page.keyboard.press("a")  # nothing is selected
    assert progress(page)[0] == 1


@pytest.fixture
def other_page(browser, tmp_path):
    """A page of few issues: tags from three sources, and issues of whole photos."""
    issues = [
        issue("a", "dog", "incorrect", 0.9, source="caption"),
        issue("a", "cat", "incorrect", 0.8, source="my <shop>"),
        issue("b", "dog", "incorrect", 0.7, source="person"),
        issue("b", "sky", "missing", 0.6),
        issue("b", None, "near_duplicate", float("nan"), "same photo as a; only here: sky"),
        issue("a", None, "outlier", float("nan"), "looks like no other photo"),
    ]
    write_review(tmp_path / "index.html", pd.DataFrame(issues), None, "m.jsonl", {"a": ["dog", "cat"]})
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector(".item")
    yield page
    assert page.problems == []
    page.close()


def test_the_source_of_a_tag_filters(other_page, page):
    assert not page.is_visible("#source")  # nothing is known of any source there, or they are all the same
    options = other_page.locator("#source option").all_inner_texts()
    assert options[:2] == ["all", "(not given) (3)"]
    assert sorted(options[2:]) == ["caption (1)", "my <shop> (1)", "person (1)"]
    other_page.select_option("#source", "my <shop>")
    assert progress(other_page)[2] == 1
    assert "probably incorrect · my <shop>" in other_page.locator(".item").inner_text()
    other_page.select_option("#tag", "dog")
    assert progress(other_page)[2] == 0
    other_page.select_option("#source", "caption")
    assert progress(other_page)[2] == 1
    other_page.select_option("#source", "")
    assert progress(other_page)[2] == 2


def test_issues_of_photos_have_no_probability_and_stand_apart(other_page):
    other_page.select_option("#kind", "near_duplicate")
    tile = other_page.locator(".item")
    assert tile.locator(".what").inner_text() == "same photo as a; only here: sky"
    assert "%" not in tile.inner_text()
    assert "percent" not in tile.get_attribute("aria-label")
    other_page.select_option("#kind", "")
    assert progress(other_page)[2] == 6
    other_page.locator("#least").fill("1")
    assert progress(other_page)[2] == 4


def test_a_full_page_keeps_room_for_photos(tmp_path, monkeypatch):
    monkeypatch.setattr("truetag.audit.review.MOST_ISSUES", 20)
    issues = [issue("a", f"tag {number}", "missing", 0.9) for number in range(30)]
    issues += [issue(f"p{number}", None, "outlier", float("nan"), "looks like no other photo") for number in range(5)]
    write_review(tmp_path / "index.html", pd.DataFrame(issues), None, "m.jsonl")
    text = (tmp_path / "index.html").read_text()
    assert (text.count('"kind": "missing"'), text.count('"kind": "outlier"')) == (18, 2)


def test_a_batch_by_shift_click_is_one_step(page):
    page.select_option("#tag", "tag 6")
    number = progress(page)[2]
    assert number >= 2
    page.locator(".item").first.click()
    page.locator(".item").nth(number - 1).click(modifiers=["Shift"])
    page.keyboard.press("r")
    assert progress(page)[0] == number
    page.click("#undo")
    assert progress(page)[0] == 0
    page.click("#all")
    page.click("#accept")
    assert progress(page)[0] == number


def test_one_by_one(page):
    page.click("#view")
    assert page.locator(".item").count() == 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    assert progress(page)[0] == 1
    page.click("#view")
    assert page.locator(".item").count() > 1


def test_decisions_outlive_the_page_and_change_the_manifest(page, folder, tmp_path):
    page.keyboard.press("a")
    page.reload()
    page.wait_for_selector(".item")
    assert progress(page)[0] == 1
    downloaded(page, tmp_path / "decisions.jsonl")
    clean(folder / "m.jsonl", decisions=tmp_path / "decisions.jsonl", out=tmp_path / "clean.jsonl")
    assert next(iterate_rows(tmp_path / "clean.jsonl"))["rejected_tags"] == [EVIL[0]]


def test_loading_tells_of_conflicts_and_keeps_what_is_there(page, tmp_path):
    page.keyboard.press("a")
    lines = downloaded(page, tmp_path / "d.jsonl")
    second = {"id": EVIL[1], "kind": "incorrect", "label": EVIL[1], "decision": "accept"}
    stranger = {"id": "?", "kind": "missing", "label": "?", "decision": "accept"}
    content = [lines[0] | {"decision": "reject"}, second, stranger]
    (tmp_path / "other.jsonl").write_text("\n".join([*map(json.dumps, content), "no JSON", '{"decision": 1}']) + "\n")
    page.set_input_files("#file", tmp_path / "other.jsonl")
    page.locator("#message", has_text="loaded").wait_for()
    message = page.inner_text("#message")
    assert "1 decisions loaded; 1 differ from yours, which stay; 1 are about issues" in message
    assert "2 lines are no decisions" in message
    assert progress(page)[0] == 2
    after = {line["id"]: line["decision"] for line in downloaded(page, tmp_path / "after.jsonl")}
    assert after == {EVIL[0]: "accept", EVIL[1]: "accept"}


def test_a_person_with_a_screen_reader_or_a_keyboard_gets_along(page):
    assert page.evaluate("document.activeElement.id") == "list"
    current = page.locator("#list").get_attribute("aria-activedescendant")
    assert page.locator(f"#{current}").get_attribute("aria-selected") == "true"
    assert "probably incorrect, 99 percent" in page.locator("#issue-0").get_attribute("aria-label")
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"search", "tag", "kind", "state", "view", "download", "accept", "undo", "all"} - seen <= {"undo"}
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select')].filter((node) =>
             !(node.textContent.trim() || node.labels?.length || node.getAttribute('aria-label'))).length"""
    )
    assert unnamed == 0


def test_it_fits_a_phone(browser, folder):
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector(".item")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    box = page.locator("#list").bounding_box()
    assert box["height"] > 450
    page.click("#filters")
    assert page.is_visible("#kind")
    page.close()
