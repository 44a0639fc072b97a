from pathlib import Path

import pytest

from truetag.data.word_changes import read_changes
from truetag.errors import InputError


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_chains_are_followed_to_their_end(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "c.csv"
    lines = ["Word,Action,To", "Pups,merge,puppy", "", "puppy,imply,dog", "dog,Imply,animal", "cat,drop,", "owl,add,"]
    path.write_text("\n".join(lines).replace(",", separator))
    changes = read_changes(path)
    assert changes.added == ("owl",)
    assert changes.removed == {"pups", "cat"}
    assert changes.aliases == {"puppy": ("pups",), "dog": ("pups", "puppy"), "animal": ("pups", "puppy", "dog")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no changes"),
        ("dog,drop\n", "line 1: expected the columns word,action,to, got 'dog,drop'"),
        ("word,action,to\ndog,eat,cat\n", "line 2: action: expected one of add, drop, .*, got 'eat'"),
        ("word,action,to\ndog,merge,\n", "line 2: merge: expected a word in column `to`"),
        ("word,action,to\ndog,drop,cat\n", "line 2: drop: expected no word in column `to`, got 'cat'"),
        ("word,action,to\n,drop,\n", "line 2: expected a word, an action"),
        ("word,action,to\na,merge,b\nb,imply,a\n", "'a' leads back to itself"),
        ("word,action,to\na,merge,b\na,drop,\n", "line 3: 'a': expected one of .*, got merge and drop"),
        ("word,action,to\na,merge,b\nb,drop,\n", "line 2: 'b' is dropped in the same table"),
    ],
)
def test_changes_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_changes(tmp_path / "c.csv")
