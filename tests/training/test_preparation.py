"""From manifest to bags: which rows, and what is told of labels that cannot be learnt."""

import numpy as np
import torch

from truetag.data.batches import FeatureBags
from truetag.data.vocabulary import Vocabulary
from truetag.media.files import SkipList
from truetag.training.preparation import TrainingData, count_labels, warn_of_labels


def test_words_that_can_hardly_be_learnt_are_told_with_their_counts(capsys):
    vocabulary = Vocabulary(tuple("abcdef"), ("NN",) * 6, (1,) * 6)
    labels = torch.zeros(40, 6, dtype=torch.int8)
    labels[:, 0] = 1  # always
    labels[:20, 1] = 1
    labels[:3, 2] = 1  # hardly
    labels[:, 4] = -1  # never known
    labels[:12, 5], labels[12:, 5] = 1, -1  # always, where it is known
    warn_of_labels(labels, vocabulary)
    assert capsys.readouterr().err.splitlines() == [
        "warning: 2 of 6 words are never present: d (0), e (0)",
        "warning: 2 of 6 words are present in every row: a (40), f (12)",
        "warning: 1 of 6 words are present fewer than 10 times: c (3); "
        "`truetag vocabulary --min-count` leaves such words out",
    ]
    table = [line.split("\t") for line in count_labels(labels, vocabulary).splitlines()]
    assert table[0] == ["word", "present", "absent", "unknown"]
    assert table[1:] == [
        ["a", "40", "0", "0"],
        ["b", "20", "20", "0"],
        ["c", "3", "37", "0"],
        ["d", "0", "40", "0"],
        ["e", "0", "0", "40"],
        ["f", "12", "0", "28"],
    ]


def test_many_such_words_are_counted(capsys):
    vocabulary = Vocabulary(tuple(f"w{number}" for number in range(30)), ("NN",) * 30, (1,) * 30)
    warn_of_labels(torch.zeros(40, 30, dtype=torch.int8), vocabulary)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("w9 (0) and 20 more")


def test_the_fingerprint_changes_with_rows_labels_and_source():
    def data(ids="ab", value=1, source="photos"):
        labels = torch.tensor([[value], [0]], dtype=torch.int8)
        features = torch.zeros(2, 1, 3).numpy()
        bags = FeatureBags(features, np.arange(2), np.arange(3), labels, list(ids))
        return TrainingData(bags, bags, [0, 1], source, SkipList()).fingerprint()

    assert data() == data()
    assert len({data(), data(ids="ac"), data(value=-1), data(source="cache")}) == 4
