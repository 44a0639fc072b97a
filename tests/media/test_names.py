"""The files that names mean: only the one that can be meant is taken, and what was done is said."""

import pytest

from truetag.media import names
from truetag.media.names import FoundFile, describe_names, find_files, list_files


@pytest.fixture
def folder(tmp_path):
    for name in ("DSC1.JPG", "s/x.jpg", "t/x.jpg", "s/y.jpg", "two.png", "two.jpg", "deep/er/z.mp4", "._a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "b.jpg").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.jpg").touch()
    return tmp_path


def found(folder, *wanted):
    return [file.name for file in find_files(folder, wanted)]


def test_companions_of_file_managers_are_no_files(folder):
    files = ["DSC1.JPG", "deep/er/z.mp4", "s/x.jpg", "s/y.jpg", "t/x.jpg", "two.jpg", "two.png"]
    assert sorted(list_files(folder)) == files


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("DSC1.JPG", "DSC1.JPG"),
        ("dsc1.jpg", "DSC1.JPG"),
        ("DSC1", "DSC1.JPG"),
        ("DSC1.png", "DSC1.JPG"),
        ("./s//y.jpg", "./s//y.jpg"),
        ("S\\Y.JPG", "s/y.jpg"),
        ("y.jpg", "s/y.jpg"),
        ("y", "s/y.jpg"),
        ("er/z.mp4", "deep/er/z.mp4"),
        ("z.avi", "deep/er/z.mp4"),
        ("/home/ann/photos/s/x.jpg", "s/x.jpg"),
        ("https://example.org/photos/t/x.jpg?size=large", "t/x.jpg"),
        ("file:///home/ann/t/x.jpg", "t/x.jpg"),
        ("/home/ann/photos/t/x", "t/x.jpg"),
    ],
)
def test_the_file_that_is_meant(folder, name, file):
    assert found(folder, name) == [file]


@pytest.mark.parametrize("name", ["x.jpg", "two", "two.gif", "u/x.jpg", "../x.jpg", "DSC2.JPG", "", "a\0b", "x" * 5000])
def test_names_that_may_mean_several_files_or_none(folder, name):
    assert found(folder, name) == [None]


def test_a_file_is_not_given_to_two_names(folder):
    assert found(folder, "DSC1.JPG", "dsc1.jpg", "DSC1.JPG") == ["DSC1.JPG", None, "DSC1.JPG"]
    first, second = find_files(folder, ["dsc1.jpg", "Dsc1.Jpg"])
    assert (first.name, second.name) == (None, None)
    assert "both may be 'DSC1.JPG'" in first.hint


def test_what_is_said(folder):
    files = find_files(folder, ["dsc1.jpg", "y", "s/x.jpg", "two.gif", "DSC2.JPG"])
    assert describe_names(files) == [
        "1 name found in another spelling: 'dsc1.jpg' is 'DSC1.JPG'",
        "1 name found by the end of a path: 'y' is 's/y.jpg'",
    ]
    assert files[2] == FoundFile("s/x.jpg")
    assert files[3].hint == "no such file (it may be 'two.jpg' or 'two.png')"
    assert files[4].hint == "no such file (the nearest name is 'DSC1.JPG')"


def test_a_folder_is_not_listed_for_names_that_are_there(folder, monkeypatch):
    monkeypatch.setattr(names, "list_files", lambda folder: pytest.fail("listed"))
    assert found(folder, "DSC1.JPG", "two.png") == ["DSC1.JPG", "two.png"]
