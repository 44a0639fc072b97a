"""The sections of a report: settings in words, and charts of training, of rates and of a few tags."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from truetag.reports.charts import Interval, plot_epochs, plot_intervals, plot_precision, plot_reliability, publish
from truetag.reports.found_mistakes import FoundAudit, audited_rates
from truetag.reports.scores import (
    Evaluation,
    TagScores,
    curves_of,
    learnt_rates,
    mean_precision,
    pooled_reliability,
)
from truetag.reports.seed_groups import SeedGroup, spread
from truetag.runs.config import MACHINE_SETTINGS

NUM_CURVES = 2
"""So many of the best, of the worst and of the most frequent tags have curves."""
NUM_RATES = 15
"""So many of the most frequent tags have their rates drawn."""
FEWEST_IN_BIN = 5
"""A bin of reliability with fewer examples per run is left out."""


def settings_in_words(groups: Sequence[SeedGroup]) -> dict[str, list[str]]:
    """The settings that differ between the groups, each with one text per group; of one group the main ones."""
    per_group = [[asdict(record.run.config) for record in group.records] for group in groups]
    names = [name for name in per_group[0][0] if name not in ("seed", *MACHINE_SETTINGS)]
    values = {
        name: [", ".join(dict.fromkeys(_in_words(name, of_run[name]) for of_run in of_group)) for of_group in per_group]
        for name in names
    }
    if len(groups) == 1:
        main = (
            "backbone",
            "weights",
            "freeze_backbone",
            "pooling",
            "noise_model",
            "q",
            "stage1_epochs",
            "stage2_epochs",
        )
        return {name: values[name] for name in main}
    return {name: of_groups for name, of_groups in values.items() if len(set(of_groups)) > 1}


def _in_words(name: str, value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "by default"
        case float():
            return f"{value:g}"
    return Path(value).name if name == "weights" else str(value)


def draw_training(groups: Sequence[SeedGroup], folder: Path | None) -> list[Markup]:
    """Loss and AP over epochs; empty where no run has come to the end of an epoch."""

    titles = {"loss": ("training loss", 1), "validation_ap": ("AP on the noisy validation tags, %", 100)}
    charts = []
    for key, (title, factor) in titles.items():
        series = {
            group.name: [[factor * row[key] for row in record.history] for record in group.records if record.history]
            for group in groups
        }
        if any(series.values()):
            name = key.replace("_", "-")
            charts.append(
                publish(
                    plot_epochs(series, [group.name for group in groups], title), name, f"{title}, over epochs", folder
                )
            )
    return charts


def draw_rates(groups: Sequence[SeedGroup], audits: Sequence[FoundAudit], folder: Path | None) -> dict[str, Any]:
    """Mean rates of each group and audit, and charts of the rates of the most frequent tags.

    Args:
        groups: the runs.
        audits: of them.
        folder: of the figures.
    """

    means: dict[str, dict[str, Any]] = {}
    series: dict[str, dict[str, dict[str, Interval]]] = {"missing": {}, "incorrect": {}}
    for group in groups:
        learnt = learnt_rates(group)
        if not learnt["missing"]:
            continue
        means[group.name] = {
            kind: spread(sum(of_run) / len(of_run) for of_run in zip(*of_kind.values(), strict=True))
            for kind, of_kind in learnt.items()
        }
        for kind, of_kind in learnt.items():
            series[kind][group.name] = {
                tag: Interval(sum(values) / len(values), min(values), max(values)) for tag, values in of_kind.items()
            }
    for audit in audits:
        for kind, of_kind in audited_rates(audit).items():
            if of_kind:
                name = f"audit of {audit.name}"
                series[kind][name] = of_kind
                means.setdefault(name, {})[kind] = spread([sum(r.value for r in of_kind.values()) / len(of_kind)])
    names = list(dict.fromkeys([*(group.name for group in groups), *means]))
    counts = next((group.records[0].label_counts for group in groups if group.records[0].label_counts), {})
    there = {tag for of_kind in series["missing"].values() for tag in of_kind}
    tags = sorted(there, key=lambda tag: -counts.get(tag, (0, 0, 0))[0])[:NUM_RATES]
    charts = [
        publish(
            plot_intervals(tags, _percent(of_kind), names, f"{title}, %"),
            f"rates-{kind}",
            f"{title}, of the {len(tags)} most frequent tags",
            folder,
        )
        for kind, title in (("missing", "true tags that are missing"), ("incorrect", "absent tags that are given"))
        if (of_kind := series[kind])
    ]
    without = [group.name for group in groups if group.name not in means]
    return {
        "means": means,
        "charts": charts,
        "key": [(names.index(name), name) for name in series["missing"]],
        "num_tags": len(tags),
        "without": without,
    }


def _percent(series: dict[str, dict[str, Interval]]) -> dict[str, dict[str, Interval]]:
    return {
        name: {tag: type(value)(*(100 * number for number in value)) for tag, value in of_name.items()}
        for name, of_name in series.items()
    }


def draw_curves(
    evaluation: Evaluation, groups: Sequence[SeedGroup], tags: Sequence[TagScores], folder: Path | None
) -> list[dict[str, Any]]:
    """Precision-recall and reliability of a few tags; empty where no curves are stored.

    Args:
        evaluation: what the tags were scored in.
        groups: the runs.
        tags: from the best down.
        folder: of the figures.
    """

    names = [group.name for group in groups]
    stored = {group.name: (group.run.vocabulary.index, curves_of(evaluation, group)) for group in groups}
    stored = {name: (index, curves) for name, (index, curves) in stored.items() if curves}
    if not stored:
        return []
    frequent = sorted(tags, key=lambda one: -(one.num_positives or 0))
    reasons: dict[str, list[str]] = {}
    chosen = {}
    for reason, some in (
        ("best", tags[:NUM_CURVES]),
        ("worst", list(tags[::-1])[:NUM_CURVES]),
        ("most frequent", frequent[:NUM_CURVES]),
    ):
        for one in some:
            chosen[one.tag] = one
            reasons.setdefault(one.tag, []).append(reason)
    found = []
    for number, one in enumerate(chosen.values(), start=1):
        precision = {name: mean_precision(curves, index[one.tag]) for name, (index, curves) in stored.items()}
        bins = {
            name: pooled_reliability(curves, index[one.tag], FEWEST_IN_BIN) for name, (index, curves) in stored.items()
        }
        charts = [
            publish(
                plot_precision(precision, names, one.share or 0.0),
                f"precision-{number}",
                f"Precision by recall of {one.tag}",
                folder,
            ),
            publish(
                plot_reliability(bins, names), f"reliability-{number}", f"Share with {one.tag}, by probability", folder
            ),
        ]
        found.append({"scores": one, "reason": " and ".join(reasons[one.tag]), "charts": charts})
    return found
