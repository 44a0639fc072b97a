"""The scores of groups of runs side by side: by evaluation, by part of speech, by tag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from truetag.io.text import counted
from truetag.reports.seed_groups import SeedGroup, Spread, spread
from truetag.runs.metrics import Curves, read_curves
from truetag.truth import TRUTH_IN_WORDS, Metrics, Truth

SCORES = {
    "mean_ap": "AP",
    "count_mean_ap": "count-AP",
    "of1": "F1, all tags together",
    "cf1": "F1, mean over tags",
    "ece": "calibration error",
}
"""Columns of the table, by their names in the metrics file."""
FEW_POSITIVES = 10
"""A tag with fewer positives is not shown among the best or worst: its AP is mostly chance."""


@dataclass(frozen=True)
class Evaluation:
    """Groups of runs that were scored on the same rows, against the same truth."""

    name: str
    """MANIFEST-SPLIT."""
    truth: Truth
    metrics: dict[str, list[Metrics]]
    """For each group that was scored, by its name: one per scored run."""

    @property
    def sizes(self) -> set[int]:
        """How many examples were scored; more than one number where photos of some runs could not be used."""
        return {of_run["num_examples"] for of_group in self.metrics.values() for of_run in of_group}

    @property
    def truth_in_words(self) -> str:
        """What counts as true."""
        return TRUTH_IN_WORDS.get(self.truth, str(self.truth))

    def scores(self, group: str) -> dict[str, Spread | None]:
        """The scores of a group by their names in the metrics file."""
        return {name: spread(of_run.get(name) for of_run in self.metrics[group]) for name in SCORES}

    @property
    def columns(self) -> dict[str, str]:
        """The scores that some group has, with their titles."""
        there = [self.scores(group) for group in self.metrics]
        return {name: title for name, title in SCORES.items() if any(one[name] is not None for one in there)}

    @cached_property
    def parts(self) -> dict[str, int]:
        """Parts of speech with their numbers of tags; empty where the vocabulary has none."""
        counts = {
            part: values["count"]
            for of_group in self.metrics.values()
            for part, values in of_group[0].get("by_pos", {}).items()
        }
        return {} if set(counts) <= {"-"} else counts

    def part_scores(self, group: str) -> dict[str, Spread | None]:
        """AP of a group by part of speech."""
        return {
            part: spread(of_run["by_pos"].get(part, {}).get("mean_ap") for of_run in self.metrics[group])
            for part in self.parts
        }


def evaluations(groups: Sequence[SeedGroup]) -> list[Evaluation]:
    """All evaluations, those of the most groups first."""
    found: dict[tuple[str, Truth], dict[str, list[Metrics]]] = {}
    for group in groups:
        for record in group.records:
            for name, metrics in record.metrics.items():
                found.setdefault((name, metrics["truth"]), {}).setdefault(group.name, []).append(metrics)
    listed = [Evaluation(name, truth, metrics) for (name, truth), metrics in found.items()]
    return sorted(listed, key=lambda one: (-len(one.metrics), one.truth != "true", not one.name.endswith("-test")))


@dataclass(frozen=True)
class TagScores:
    """One tag in one evaluation."""

    tag: str
    num_positives: int | None
    """Among the scored examples; None where no curves are stored."""
    share: float | None
    """Of the scored examples that have the tag, which is the AP of chance."""
    ap: dict[str, Spread | None]
    """By group."""

    @property
    def mean(self) -> float:
        """AP over the groups that have one."""
        known = [value.mean for value in self.ap.values() if value is not None]
        return sum(known) / len(known)


def rated_tags(evaluation: Evaluation, groups: Sequence[SeedGroup]) -> list[TagScores]:
    """The tags that all scored groups share and that have enough positives, from the highest mean AP down."""
    scored = [group for group in groups if group.name in evaluation.metrics]
    shared = set.intersection(*(set(group.run.vocabulary.words) for group in scored))
    vocabulary = scored[0].run.vocabulary
    curves = curves_of(evaluation, scored[0])
    positives = dict(zip(vocabulary.words, curves[0].num_positives.tolist(), strict=True)) if curves else {}
    known = dict(zip(vocabulary.words, curves[0].reliability.counts.sum(1).tolist(), strict=True)) if curves else {}
    found = []
    for tag in vocabulary.words:
        aps = {
            name: spread(of_run.get("per_label", {}).get(tag) for of_run in of_group)
            for name, of_group in evaluation.metrics.items()
        }
        enough = positives.get(tag, FEW_POSITIVES) >= FEW_POSITIVES
        if tag in shared and enough and any(value is not None for value in aps.values()):
            share = positives[tag] / known[tag] if known.get(tag) else None
            found.append(TagScores(tag, positives.get(tag), share, aps))
    return sorted(found, key=lambda one: -one.mean)


def curves_of(evaluation: Evaluation, group: SeedGroup) -> list[Curves]:
    """The curves of the scored runs of a group that store some."""
    return [
        curves
        for record in group.records
        if evaluation.name in record.metrics
        and (curves := read_curves(record.run.folder, evaluation.name, len(record.run.vocabulary))) is not None
    ]


def mean_precision(curves: Sequence[Curves], label: int) -> list[float]:
    """Precision of one label at each recall, the mean over runs."""
    return torch.stack([one.precision[label] for one in curves]).mean(0).tolist()


def pooled_reliability(curves: Sequence[Curves], label: int, fewest: int) -> list[tuple[float, float]]:
    """Mean probability and share with the label in each bin, over all runs; bins of fewer examples are left out."""
    counts = torch.stack([one.reliability.counts[label] for one in curves])
    total = counts.sum(0)
    means = [
        (torch.stack([part[label] for part in parts]).nan_to_num() * counts).sum(0) / total
        for parts in (
            [one.reliability.probabilities for one in curves],
            [one.reliability.shares for one in curves],
        )
    ]
    enough = total >= fewest * len(curves)
    return list(zip(*(values[enough].tolist() for values in means), strict=True))


def learnt_rates(group: SeedGroup) -> Mapping[str, dict[str, list[float]]]:
    """`missing` and `incorrect` rates of each tag, one per run, from the first evaluation that has some."""
    rates: dict[str, dict[str, list[float]]] = {"missing": {}, "incorrect": {}}
    for record in group.records:
        noise = next((metrics["noise"] for metrics in record.metrics.values() if "noise" in metrics), None)
        if noise is not None:
            for kind, of_kind in rates.items():
                for tag, rate in noise[f"{kind}_rate"].items():
                    of_kind.setdefault(tag, []).append(rate)
    return rates


def describe_missing(evaluation: Evaluation, groups: Sequence[SeedGroup]) -> str:
    """Which groups, or runs of them, were not scored; empty where all were."""
    lacking = []
    for group in groups:
        num_scored = len(evaluation.metrics.get(group.name, []))
        if num_scored < len(group.records):
            number = f" ({num_scored} of {counted(len(group.records), 'run')} scored)" if num_scored else ""
            lacking.append(group.name + number)
    return ", ".join(lacking)
