"""Decisions of `NoisyLabelClassifier` at its own thresholds, at one half, and at one chosen on noisy labels.

    OMP_NUM_THREADS=1 python benchmarks/thresholds.py

Labels are drawn from a linear model and flipped; decisions are scored against the labels before. Writes
benchmarks/thresholds.md.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score

from truetag import NoisyLabelClassifier, cross_val_posterior
from truetag.evaluation.decisions import best_threshold

NUM_TRAIN, NUM_TEST, NUM_FEATURES, NUM_LABELS, SEEDS = 1500, 1500, 48, 15, 3
RATES = ((0.3, 0.02), (0.6, 0.0), (0.1, 0.1), (0.0, 0.0))


def main() -> None:
    lines = [
        "| missing, incorrect | seed | at 0.5 | at one with the best noisy F1 | at `thresholds_` |",
        "|---" * 5 + "|",
    ]
    for missing, incorrect in RATES:
        for seed in range(SEEDS):
            cells = [
                " / ".join(f"{100 * score:.1f}" for score in scores) for scores in compare(missing, incorrect, seed)
            ]
            lines.append(f"| {missing:g}, {incorrect:g} | {seed} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    about = (
        "# Thresholds\n\n`OMP_NUM_THREADS=1 python benchmarks/thresholds.py`. Overall F1 / mean F1 over labels, in"
        f"\npercent, against the true labels; {NUM_TRAIN} examples with {NUM_FEATURES} features, {NUM_LABELS} labels, "
        '`noise_model="auto"`.\n\n'
    )
    (Path(__file__).parent / "thresholds.md").write_text(about + "\n".join(lines) + "\n")


def compare(missing: float, incorrect: float, seed: int) -> list[tuple[float, float]]:
    """The scores at each of the three thresholds."""
    generator = np.random.default_rng(seed)
    num_examples = NUM_TRAIN + NUM_TEST
    X = generator.normal(size=(num_examples, NUM_FEATURES)).astype(np.float32)
    slopes = generator.normal(size=(NUM_FEATURES, NUM_LABELS))
    offsets = -generator.uniform(3, 12, size=NUM_LABELS)
    y = X @ slopes + offsets + 2 * generator.logistic(size=(num_examples, NUM_LABELS)) > 0
    draws = generator.random((2, num_examples, NUM_LABELS))
    z = np.where(y, draws[0] > missing, draws[1] < incorrect).astype(int)
    tagger = NoisyLabelClassifier(noise_model="auto", random_state=seed).fit(X[:NUM_TRAIN], z[:NUM_TRAIN])
    unseen = cross_val_posterior(tagger, X[:NUM_TRAIN], z[:NUM_TRAIN], cv=3, method="predict_proba")
    noisy = best_threshold(torch.from_numpy(unseen), z[:NUM_TRAIN])
    p, truth = tagger.predict_proba(X[NUM_TRAIN:]), y[NUM_TRAIN:]
    return [
        (
            float(f1_score(truth, p >= threshold, average="micro")),
            float(f1_score(truth, p >= threshold, average="macro")),
        )
        for threshold in (0.5, noisy, tagger.thresholds_)
    ]


if __name__ == "__main__":
    main()
