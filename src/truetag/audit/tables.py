"""From judged labels to the tables and the summary of an audit, and to disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from truetag import __version__
from truetag.audit.evidence import Evidence
from truetag.audit.found import RECORD, Audit
from truetag.audit.judge import Judgement
from truetag.audit.photos import find_photo_issues
from truetag.io.files import replacing, write_json
from truetag.issues import count_label_issues, example_quality, find_label_issues, interval_of
from truetag.label_noise.settings import MIN_PROBABILITY

FEW_GIVEN = 20
"""With fewer given tags, what is estimated of a label comes from the other labels."""


def find(evidence: Evidence, judgement: Judgement, min_probability: float = MIN_PROBABILITY) -> Audit:
    """The tables and the summary of an audit.

    Args:
        evidence: what was looked at.
        judgement: what was made of it.
        min_probability: list what is wrong with at least this probability.
    """
    columns = np.ones(len(evidence.vocabulary), dtype=bool) if evidence.is_listed is None else evidence.is_listed
    labels, posterior = evidence.labels.numpy()[:, columns], judgement.posterior[:, columns]
    names = [name for name, is_listed in zip(evidence.vocabulary, columns, strict=True) if is_listed]
    issues = _with_records(
        find_label_issues(
            posterior,
            labels,
            example_ids=evidence.ids,
            label_names=names,
            min_probability=min_probability,
        ),
        evidence,
        judgement,
        min_probability,
    )
    issues = _with_photos(_with_sources(issues, evidence), evidence, columns, names)
    counts = count_label_issues(posterior, labels, label_names=names)
    per_label = _describe_labels(counts, issues, judgement, columns)
    quality = example_quality(posterior, labels)
    wrong = np.where(labels == 1, 1 - posterior, np.where(labels == 0, posterior, 0))
    examples = pd.DataFrame({"id": evidence.ids, "quality": quality, "expected_issues": wrong.sum(1)})
    examples["file"] = [None] * len(examples) if evidence.files is None else evidence.files
    examples["given"] = [
        [evidence.vocabulary[column] for column in (row == 1).nonzero().flatten().tolist()] for row in evidence.labels
    ]
    expected = {kind: _total(per_label, kind) for kind in ("missing", "incorrect")}
    summary: dict[str, Any] = {
        "truetag": __version__,
        "num_examples": len(labels),
        "num_labels": labels.shape[1],
        "num_given": int((labels == 1).sum()),
        "num_decided": 0 if evidence.decided is None else int(evidence.decided.sum()),
        "method": judgement.method,
        "min_probability": min_probability,
        "listed": {kind: int(count) for kind, count in issues["kind"].value_counts().items()},
        "expected": expected,
    }
    if judgement.validity is not None:
        invalid = 1 - judgement.validity
        low, high = interval_of(float(invalid.sum()), float(np.sqrt((invalid * (1 - invalid)).sum())))
        expected["record"] = {"number": float(invalid.sum()), "low": low, "high": high}
        summary["num_records"] = len(invalid)
    return Audit(issues, per_label, examples, summary)


def write_audit(found: Audit, out: Path) -> None:
    """Write the tables and the summary, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("issues", "examples"):
        with replacing(out / f"{name}.parquet") as temporary:
            getattr(found, name).to_parquet(temporary, index=False)
    tables = {"issues": found.issues, "labels": found.labels, "examples": found.examples.drop(columns="given")}
    for name, table in tables.items():
        with replacing(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    write_json(out / "summary.json", found.summary)


def _with_records(
    issues: pd.DataFrame, evidence: Evidence, judgement: Judgement, min_probability: float
) -> pd.DataFrame:
    """The list with the records that probably belong to other examples, ranked together."""
    issues = issues.rename(columns={"example": "id"}).assign(record=None)
    if judgement.validity is not None:
        invalid = 1 - judgement.validity
        # a list of one tag is listed as that tag
        is_list = evidence.records.is_caption | (evidence.records.words.sum(1) > 1)
        chosen = np.flatnonzero((invalid >= min_probability) & is_list).tolist()
        records = pd.DataFrame(
            {
                "id": [evidence.ids[evidence.records.bags[index]] for index in chosen],
                "label": None,
                "kind": RECORD,
                "probability": invalid[chosen],
                "given": 1,
                "posterior": judgement.validity[chosen],
                "suggestion": "remove",
                "record": [evidence.records.texts[index] for index in chosen],
            }
        )
        if len(records):
            issues = pd.concat([issues, records], ignore_index=True) if len(issues) else records
    issues = issues.sort_values("probability", ascending=False, kind="stable", ignore_index=True)
    issues["rank"] = np.arange(1, len(issues) + 1)
    issues["rank_in_example"] = issues.groupby("id").cumcount() + 1
    order = ["rank", "id", "label", "kind", "probability", "given", "posterior", "suggestion", "rank_in_example"]
    return pd.DataFrame(issues, columns=[*order, "record"])


def _with_sources(issues: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """The list with the source of each given tag and of each record; None where nothing is known of it."""
    if evidence.sources is None:
        return issues.assign(source=None)
    row_of = {name: row for row, name in enumerate(evidence.ids)}
    label_of = {name: index for index, name in enumerate(evidence.vocabulary)}
    captions = {
        (int(evidence.records.bags[index]), evidence.records.texts[index])
        for index in np.flatnonzero(evidence.records.is_caption).tolist()
    }
    found = []
    for name, kind, label, record in zip(
        *(issues[column] for column in ("id", "kind", "label", "record")), strict=True
    ):
        row = row_of[name]
        of_row = evidence.sources[row]
        if kind == RECORD:
            others = sorted({source for source in of_row.values() if source != "caption"})
            found.append("caption" if (row, record) in captions else ", ".join(others) or None)
        else:
            found.append(of_row.get(label_of[label]) if kind == "incorrect" else None)
    return issues.assign(source=pd.Series(found, dtype=object, index=issues.index))


def _with_photos(
    issues: pd.DataFrame, evidence: Evidence, columns: Bool[np.ndarray, "K"], names: list[str]
) -> pd.DataFrame:
    """The list with the issues of whole photos at its end."""
    issues = issues.assign(other=None)
    if evidence.features is None:
        return issues
    labels = evidence.labels[:, np.flatnonzero(columns).tolist()]
    found = find_photo_issues(evidence.features, labels, names, evidence.ids)
    if not found:
        return issues
    photos = pd.DataFrame(
        {
            "rank": np.arange(len(issues) + 1, len(issues) + len(found) + 1),
            "id": [evidence.ids[issue.row] for issue in found],
            "label": None,
            "kind": [issue.kind for issue in found],
            "probability": np.nan,
            "given": 1,
            "posterior": np.nan,
            "suggestion": "look",
            "rank_in_example": 0,
            "record": [issue.text for issue in found],
            "source": None,
            "other": [None if issue.other is None else evidence.ids[issue.other] for issue in found],
        }
    )
    return pd.DataFrame(pd.concat([issues, photos], ignore_index=True) if len(issues) else photos[issues.columns])


def _describe_labels(
    counts: pd.DataFrame, issues: pd.DataFrame, judgement: Judgement, columns: Bool[np.ndarray, "K"]
) -> pd.DataFrame:
    """Numbers and rates of each label, with 95 % intervals.

    The number of missing tags is (right given tags) q01 / (1 - q01), that of incorrect ones (absent) q10: so the
    deviations of the rates carry over, beside the chance in each single tag.
    """
    rates = judgement.calibration
    missing, incorrect = (rate.double().numpy()[columns] for rate in (rates.missing, rates.incorrect))
    of_missing, of_incorrect = (
        deviation.double().numpy()[columns] for deviation in (rates.missing_deviation, rates.incorrect_deviation)
    )
    by_rates = {
        "missing": (counts["given"] - counts["incorrect"]) * of_missing / (1 - missing) ** 2,
        "incorrect": (counts["known"] - counts["true"]).clip(lower=0) * of_incorrect,
    }
    table: Any = counts[["label", "given", "known", "true"]].copy()
    for kind, deviations in by_rates.items():
        table[kind] = counts[kind]
        total = np.hypot(counts[f"{kind}_std"], deviations)
        ends = [interval_of(number, deviation) for number, deviation in zip(counts[kind], total, strict=True)]
        table[f"{kind}_low"], table[f"{kind}_high"] = (np.array(ends)[:, end] for end in (0, 1))
        table[f"{kind}_std"], table[f"{kind}_rates_std"] = counts[f"{kind}_std"], deviations
    table["missing_rate"], table["missing_rate_std"] = missing, of_missing
    table["incorrect_rate"], table["incorrect_rate_std"] = incorrect, of_incorrect
    of_labels: Any = issues[issues["label"].notna()].groupby(["label", "suggestion"]).size()
    for suggestion in ("add", "remove"):
        table[suggestion] = [int(of_labels.get((label, suggestion), 0)) for label in table["label"]]
    table["warning"] = np.where(counts["given"] < FEW_GIVEN, f"fewer than {FEW_GIVEN} given: too few to tell", "")
    return table


def _total(per_label: Any, kind: str) -> dict[str, float]:
    """The expected number over all labels; their rates may all be off in the same direction."""
    number = float(per_label[kind].sum())
    deviation = float(np.hypot(np.sqrt((per_label[f"{kind}_std"] ** 2).sum()), per_label[f"{kind}_rates_std"].sum()))
    low, high = interval_of(number, deviation)
    return {"number": number, "low": low, "high": high}
