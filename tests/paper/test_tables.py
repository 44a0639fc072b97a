"""The published numbers are consistent, and each row is trained as the paper describes it."""

import pytest

from truetag.paper.tables import COLUMNS, TABLE1, TABLE2, TABLE3
from truetag.training.recipes import SCHEDULE, settings_of, stage1_of

COCO = (176, 616, 119, 10, 11, 38, 30)  # words of each part of speech


@pytest.mark.parametrize(
    ("rows", "counts"),
    [(TABLE1, COCO), (TABLE2, COCO), (TABLE3, (265, 620, 104, 9, 16, 33, 40))],
)
def test_published_parts_of_speech_average_to_all(rows, counts):
    assert COLUMNS[-1] == "All"
    for row in rows:
        *parts, of_all = row.published
        if None in parts:
            assert parts == [None] * 7
        else:
            mean = sum(count * part for count, part in zip(counts, parts, strict=True)) / sum(counts)
            assert of_all == pytest.approx(mean, abs=0.12), row


def test_rows_differ_from_their_baseline_in_pooling_and_noise_model_alone():
    for row in (*TABLE1, *TABLE2, *TABLE3):
        if row.recipe is None:
            continue
        config = settings_of(row.recipe, SCHEDULE, row.level)
        assert config.pooling == ("noisy-or" if "mil" in row.recipe else "mean")
        assert (config.stage2_epochs == 0) == (stage1_of(row.recipe) is None)
        assert config.noise_model == {"fi": "fi", "fd": "fd"}.get(row.recipe[-2:], "none")
        assert (config.stage1_epochs, config.loss, config.initial_bias) == (3, "sum_labels", -6.58)
