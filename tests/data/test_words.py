import unicodedata

import pytest

from truetag.data.words import normalise, tokenise, undivided_scripts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("एक कुत्ता पानी में है", ["एक", "कुत्ता", "पानी", "में", "है"]),
        ("বাংলা ভাষা।", ["বাংলা", "ভাষা"]),
        ("สุนัขในน้ำ", ["สุนัขในน้ำ"]),
        (unicodedata.normalize("NFD", "Mädchen in MÜNCHEN"), ["mädchen", "in", "münchen"]),
        ("می\u200cخواهم، ک\u200d", ["می\u200cخواهم", "ک"]),
        ("क्\u200dष", ["क्\u200dष"]),
        ("Hunde\u00adhütte_rot", ["hundehütte", "rot"]),
        ("ein 🐕\ufe0f, 1\ufe0f\u20e3", ["ein", "1"]),
        ("\u0301a", ["a"]),
    ],
)
def test_marks_and_joiners_belong_to_their_word(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


def test_tags_of_both_unicode_forms_are_one_tag() -> None:
    assert normalise(unicodedata.normalize("NFD", " CAFÉ  Noir")) == "café noir"


def test_long_tokens_show_that_a_text_is_not_divided() -> None:
    assert undivided_scripts({"สุนัขในน้ำ": 2, "ab": 10}) == {"Thai": 0.5}
    assert undivided_scripts({"สุนัข": 2, "ใน": 3, "น้ำ": 1}) == {}
    assert undivided_scripts({}) == {}
