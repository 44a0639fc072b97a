"""`NoisyLabelClassifier()` on small tables of other origin, beside a logistic regression whose strength is tuned.

    OMP_NUM_THREADS=1 python benchmarks/small_tables.py

Minutes on one core; nothing is downloaded. Half of each table trains, with flipped labels, the other half tests against
the true ones. The strength of the logistic regression is chosen for each label by cross-validated average precision on
the observed labels, the criterion of "auto". Expected: small_tables.md, which this script writes.
"""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from truetag import NoisyLabelClassifier
from truetag.data.corruption import flip_labels
from truetag.evaluation.ranking import average_precision, mean_over_labels

FLIPS = ((0.0, 0.0), (0.1, 0.1), (0.02, 0.4))
STRENGTHS = (1e-3, 1e-2, 0.1, 1, 10)
REPORT = Path(__file__).with_suffix(".md")


class Table(NamedTuple):
    """Features and true labels."""

    name: str
    features: np.ndarray
    labels: np.ndarray


def tables() -> Iterator[Table]:
    """Pixels, measurements in their own units, counts of words, and Gaussians with more features than examples."""
    pixels, digits = load_digits(return_X_y=True)
    yield Table("digits, 898 x 64, 10 labels", np.asarray(pixels), np.eye(10)[digits])
    measurements, is_benign = load_breast_cancer(return_X_y=True)
    yield Table("breast cancer, 285 x 30, 2", np.asarray(measurements), np.stack([is_benign, 1 - is_benign], 1))
    counts = make_multilabel_classification(600, n_features=40, n_classes=12, n_labels=3, random_state=0)
    yield Table("drawn counts, 300 x 40, 12", counts[0], counts[1])
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 300))
    logits = features @ rng.normal(size=(300, 20)) / 8 + rng.normal(size=(400, 20))
    yield Table("drawn Gaussians, 200 x 300, 20", features, (logits > 0.8).astype(int))


def mean_ap(scores: np.ndarray, truth: np.ndarray) -> float:
    """In percent."""
    return 100 * mean_over_labels(average_precision(torch.tensor(scores), torch.tensor(truth)))


def tuned_logistic(train: np.ndarray, observed: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Scores of one logistic regression per label."""
    scaler = StandardScaler().fit(train)
    columns = []
    for labels in observed.T:
        search = GridSearchCV(LogisticRegression(max_iter=300), {"C": STRENGTHS}, scoring="average_precision", cv=3)
        columns.append(search.fit(scaler.transform(train), labels).decision_function(scaler.transform(test)))
    return np.stack(columns, 1)


def main() -> None:
    """Write the report."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    lines = [
        "# Small tables",
        "",
        "`OMP_NUM_THREADS=1 python benchmarks/small_tables.py`: mean AP in percent against true labels, one seed.",
        "",
        "| table | incorrect, missing | tuned logistic regression | `NoisyLabelClassifier()` | seconds | it chose |",
        "|---|---|---|---|---|---|",
    ]
    for table in tables():
        order = np.random.default_rng(1).permutation(len(table.labels))
        train, test = np.array_split(order, 2)
        for incorrect, missing in FLIPS:
            truth = torch.from_numpy(table.labels[train]).float()
            observed = flip_labels(truth, missing, incorrect, torch.Generator().manual_seed(0)).numpy()
            logistic = mean_ap(
                tuned_logistic(table.features[train], observed, table.features[test]), table.labels[test]
            )
            started = time.monotonic()
            tagger = NoisyLabelClassifier().fit(table.features[train], observed)
            seconds = time.monotonic() - started
            ours = mean_ap(tagger.predict_proba(table.features[test]), table.labels[test])
            assert tagger.choice_ is not None
            reason = tagger.choice_.reason.partition(":")[0]
            row = f"{table.name} | {incorrect:g}, {missing:g} | {logistic:.2f} | {ours:.2f} | {seconds:.0f} | {reason}"
            print(row)
            lines.append(f"| {row} |")
    REPORT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
