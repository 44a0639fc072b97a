"""`truetag audit`: one ranked list of tags that are probably wrong or missing, with a page to review them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from truetag import __version__
from truetag.audit.decisions import PHOTO_KINDS
from truetag.audit.evidence import Evidence
from truetag.audit.judge import Judgement, judge
from truetag.audit.photos import find_photo_issues
from truetag.audit.reading import read_arrays, read_run
from truetag.audit.review import write_page
from truetag.errors import InputError
from truetag.io.files import replacing, write_json
from truetag.io.paths import takes_paths
from truetag.io.text import counted
from truetag.issues import MIN_PROBABILITY, count_label_issues, example_quality, find_label_issues, interval_of
from truetag.media.files import Reading, SkipList

RECORD = "record"
MIN_COUNT = 5
FEW_GIVEN = 20
"""With fewer given tags, what is estimated of a label comes from the other labels."""
_NUM_SHOWN = 5
FILES = (
    *("issues.parquet", "issues.csv", "labels.csv", "examples.parquet", "examples.csv"),
    *("summary.json", "index.html"),
)


@dataclass(frozen=True)
class Audit:
    """What an audit found: tables, as `write_audit` writes them, and a summary."""

    issues: pd.DataFrame
    """The ranked list: rank, id, label, kind, probability, given, posterior, suggestion, rank_in_example, record,
    source, other. Issues of whole photos, which have no probability, stand at its end."""
    labels: pd.DataFrame
    """One label a row: given, expected numbers with intervals, rates with deviations, how many to add and remove."""
    examples: pd.DataFrame
    """One example a row: its quality in 0..1, the expected number of its wrong tags, its file, and its given tags."""
    summary: dict[str, Any]
    folder: Path = Path()


@takes_paths
def audit(
    run: Path | None = None,
    manifest: Path | None = None,
    *,
    out: Path,
    features: Path | None = None,
    probabilities: Path | None = None,
    tags: Path | None = None,
    split: str | None = None,
    min_probability: float = MIN_PROBABILITY,
    min_count: int = MIN_COUNT,
    function_words: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    reading: Reading = Reading(),
) -> Audit:
    """Find the tags that are probably wrong or missing, the surest first.

    Give a run and a manifest; or `--features` or `--probabilities` with `--tags`.

    Args:
        run: a finished run; its backbone gives the features, and models that did not see a photo judge its tags.
        manifest: the manifest to audit.
        out: a folder for issues.parquet and issues.csv (the list), labels.csv, examples.parquet and examples.csv,
            summary.json and index.html, the page to review them on.
        features: embeddings instead, [examples, features], in a numpy file (.npy, .npz).
        probabilities: p(y=1|x) instead, [examples, tags], of models that did not see the example.
        tags: the tags of these examples, in the same order: a table, a manifest, or a numpy file of 1, 0 and -1 for
            unknown.
        split: audit the rows of one split alone.
        min_probability: list what is wrong with at least this probability.
        min_count: with `--features`: leave out tags of fewer rows.
        function_words: list words such as `a` and `there`, too.
        seed: of the folds and the training.
        overwrite: replace the files of an earlier audit.
        reading: how photos and clips are read.

    Raises:
        InputError: the arguments do not go together, or a file is not what it should be.
    """
    if not 0 <= min_probability <= 1:
        raise InputError(f"min_probability: expected a number from 0 to 1, got {min_probability}")
    if not overwrite and (there := [name for name in FILES if (out / name).exists()]):
        raise InputError(f"out: {out} holds {there[0]} of an earlier audit; add --overwrite to replace it")
    if split is not None and manifest is None:
        raise InputError(f"split: expected with RUN MANIFEST, got {split!r} with a numpy file")
    skips = SkipList(reading.max_skipped)
    if run is not None and manifest is not None and features is probabilities is tags is None:
        evidence, media = read_run(run, manifest, split, function_words, reading, skips)
    elif run is manifest is None and tags is not None and (features is None) != (probabilities is None):
        array = features if features is not None else probabilities
        assert array is not None
        evidence, media = read_arrays(array, tags, probabilities is not None, min_count), None
    else:
        raise InputError("audit: expected RUN MANIFEST, or --features F --tags T, or --probabilities P --tags T")
    found = find(evidence, judge(evidence, seed), min_probability)
    found.summary["skipped"] = len(skips)
    write_audit(found, out)
    skips.write(out / "skipped.jsonl")
    given = dict(zip(found.examples["id"], found.examples["given"], strict=True))
    source = manifest or tags
    assert source is not None
    write_page(out / "index.html", found.issues, media, source.name, given)
    return replace(found, folder=out)


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


def format_audit(found: Audit) -> str:
    """What `truetag audit` prints."""
    summary, listed = found.summary, found.summary["listed"]
    lines = [
        f"{counted(summary['num_examples'], 'example')}, {counted(summary['num_labels'], 'tag')}, "
        f"{summary['num_given']} given; judged by {summary['method']}"
    ]
    words = {"missing": "missing tags", "incorrect": "incorrect tags", "record": "records of other examples"}
    for kind, numbers in summary["expected"].items():
        lines.append(
            f"  {words[kind]}: about {numbers['number']:.0f} expected ({numbers['low']:.0f} to {numbers['high']:.0f}), "
            f"{listed.get(kind, 0)} listed"
        )
    near_duplicates, outliers = (listed.get(kind, 0) for kind in PHOTO_KINDS)
    if near_duplicates or outliers:
        lines.append(
            f"  to look at: {counted(near_duplicates, 'near-duplicate photo')} with different tags, "
            f"{counted(outliers, 'photo')} that {'looks' if outliers == 1 else 'look'} like no other"
        )
    of_tags: Any = found.issues[~found.issues["kind"].isin(PHOTO_KINDS)]
    for issue in of_tags.head(_NUM_SHOWN).to_dict("records"):
        what = issue["record"] if issue["kind"] == RECORD else issue["label"]
        lines.append(f"  {issue['probability']:.3f}  {issue['kind']:9}  {issue['id']}  {what}")
    lines.append(
        f"review them: {found.folder / 'index.html'}; apply them: truetag clean --issues {found.folder}/issues.csv"
    )
    return "\n".join(lines)


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
