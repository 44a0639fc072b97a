"""The time and disk space that a reproduction announces."""

from truetag.paper.plan import Costs, Job, describe
from truetag.training.recipes import SCHEDULE, settings_of


def test_the_plan_counts_epochs_frames_and_weights():
    costs = Costs(step=2.0, forward=1.0, weights=10**6, features=100)
    jobs = [Job(settings_of("mlcn", SCHEDULE), False), Job(settings_of("nmn-fi", SCHEDULE), True)]
    # 3 + 2 epochs of 100 steps and 10 validation photos, 20 test photos twice
    assert "2 runs on 100 photos" in describe(jobs, costs, 1, 100, 10, 20)
    assert "about 18 min" in describe(jobs, costs, 1, 100, 10, 20)
    assert "8.0 MB" in describe(jobs, costs, 1, 100, 10, 20)
    assert "3.0 h" in describe(jobs, costs, 10, 100, 10, 20)
