"""What is kept, removed and added, and how much of it is right."""

import torch

from truetag.reports.corrections import correct_tags

WORDS = ("dog", "cat", "sky", "in")
OBSERVED = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]])
TRUE = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]])
POSTERIOR = torch.tensor([[0.9, 0.2, 0.5, 0.1], [0.7, 0.3, 0.1, 0.9]])
SHOWN = torch.tensor([True, True, True, False])


def test_words_are_kept_removed_and_added():
    first, second = correct_tags(WORDS, OBSERVED, TRUE, POSTERIOR, SHOWN).photos
    assert (first.observed, first.true) == (["dog", "cat"], ["dog", "sky"])
    assert (first.kept, first.removed, first.added) == (["dog"], ["cat"], ["sky"])
    assert (second.kept, second.removed, second.added) == ([], ["cat"], ["dog"])
    assert (first.num_changes, first.num_right_changes) == (2, 2)
    assert (second.num_changes, second.num_right_changes) == (2, 0)


def test_counts_and_shares_leave_out_what_is_not_shown():
    corrections = correct_tags(WORDS, OBSERVED, TRUE, POSTERIOR, SHOWN)
    assert (corrections.num_removed, corrections.removed_right) == (2, 0.5)
    assert (corrections.num_added, corrections.added_right) == (2, 0.5)


def test_nothing_changed_is_no_division_by_zero():
    corrections = correct_tags(WORDS, OBSERVED, TRUE, OBSERVED.float(), SHOWN)
    assert (corrections.num_removed, corrections.removed_right, corrections.num_added) == (0, 0.0, 0)
