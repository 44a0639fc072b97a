"""The growing table: batches survive a stop, what is torn or belongs to another prediction does not."""

from pathlib import Path

import pytest

from truetag.errors import InputError
from truetag.media.files import SkipList, Skipped
from truetag.prediction.table import PartialTable

ROWS = [{"id": "a", "path": "a.jpg", "tags": ["sky"], "probabilities": [0.5]}]
SKIPPED = [Skipped("b", Path("b.jpg"), "no such file")]


@pytest.fixture
def out(tmp_path):
    """A table of two batches, five bags in all, one of which cannot be used."""
    with PartialTable(tmp_path / "p.csv", "this", SkipList(0.5, 9)) as table:
        table.add(2, ROWS, SKIPPED)
        table.add(3, ROWS * 3, [])
        table.flush()
    return tmp_path / "p.csv"


def test_a_stopped_prediction_goes_on_with_its_rows_and_its_skip_list(out):
    skips = SkipList(0.5, 9)
    with PartialTable(out, "this", skips) as table:
        assert (table.num_done, list(skips)) == (5, SKIPPED)
        table.add(1, ROWS, SKIPPED)
        table.flush()
        assert list(table.rows()) == ROWS * 5
        assert list(skips) == SKIPPED
        table.remove()
    assert not list(out.parent.iterdir())


def test_another_prediction_begins_anew(out):
    skips = SkipList(0.5, 9)
    with PartialTable(out, "other", skips) as table:
        assert (table.num_done, len(skips), list(table.rows())) == (0, 0, [])


@pytest.mark.parametrize("num_bytes", [1, 2, 30])
def test_a_torn_batch_is_dropped(out, num_bytes):
    path = out.with_name("p.csv.partial.jsonl")
    path.write_bytes(path.read_bytes()[:-num_bytes])
    with PartialTable(out, "this", SkipList(0.5, 9)) as table:
        assert table.num_done == 2
        table.add(3, ROWS * 3, [])
        table.flush()
        assert list(table.rows()) == ROWS * 4


def test_what_is_skipped_counts_against_the_share_when_it_goes_on(out):
    with pytest.raises(InputError, match="max_skipped"), PartialTable(out, "this", SkipList(0.1, 9)):
        pass
    with PartialTable(out, "this", SkipList(0.5, 9)) as table:  # with a larger share all of it is there
        assert table.num_done == 5


def test_two_predictions_of_one_table_are_refused(out):
    with (
        PartialTable(out, "this", SkipList(0.5, 9)),
        pytest.raises(InputError, match=r"p\.csv is being written"),
        PartialTable(out, "this", SkipList(0.5, 9)),
    ):
        pass
