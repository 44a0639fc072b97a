"""Finding wrong and missing tags: `truetag audit` against cleanlab and simpler scores, on injected noise.

    pip install cleanlab==2.9.0
    OMP_NUM_THREADS=1 python benchmarks/audit.py --flickr8k FLICKR8K --work WORK

Two hours on 2 cores, ten minutes on 16 with a GPU; it resumes. Everything is out of sample. Peers rank the same
probabilities: those of heads trained on the tags as they are, plain ones and those that `best` chooses; of each peer
the setting with the highest AP counts, chosen in hindsight. The audit has no setting. Seed 0 was used while
the audit was written. Rows are stored in WORK/audit/rows, one file each. Expected: audit.md, which this script writes.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, roc_auc_score

from truetag.audit.evidence import Evidence, Records
from truetag.audit.judge import judge
from truetag.evaluation.decisions import calibration_error
from truetag.issues import example_quality
from truetag.label_noise.heads import out_of_sample_logits
from truetag.label_noise.rates import calibrate
from truetag.label_noise.selection import candidates, choose
from truetag.label_noise.settings import HeadSettings

COLUMNS = {
    "flickr8k": (
        *("swap 1", "swap 2", "shuffle 0.1", "shuffle 0.2"),
        *("flip 0, 0.4", "flip 0.02, 0.3", "flip 0.1, 0.1", "by label 0.02, 0.1, 0.6"),
    ),
    "scenes": ("shuffle 0.2", "flip 0, 0.4", "flip 0.02, 0.3", "flip 0.1, 0.1", "by label 0.02, 0.1, 0.6"),
}
SEEDS = (1, 2, 3)
REPORT = Path(__file__).with_suffix(".md")
FILTERS = ("prune_by_noise_rate", "both", "confident_learning")
NUM_RESAMPLES = 100


@dataclass(frozen=True)
class Benchmark:
    """Where the photos are, and where to work."""

    flickr8k: Path
    work: Path
    out: Path = REPORT
    processes: int = 2


class Case(NamedTuple):
    """One column of one data set, with one seed."""

    data: str
    column: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}--{self.column}--{self.seed}".replace(" ", "_").replace(",", "")


def cases() -> list[Case]:
    """Seed by seed, so that what is there when it is stopped can be compared."""
    return [Case(data, column, seed) for seed in SEEDS for data in COLUMNS for column in COLUMNS[data]]


def prepare(flickr8k: Path, work: Path) -> None:
    """Write the features, and the labels of each case: all that measuring needs."""
    from columns import Column, Dataset, corrupt, load

    from truetag.data.corruption import flip_labels
    from truetag.data.labels import caption_words
    from truetag.data.manifest import read_manifest
    from truetag.data.vocabulary import read_vocabulary

    def observed_of(data: Dataset, case: Case) -> torch.Tensor:
        generator = torch.Generator().manual_seed(case.seed)
        kind, _, values = case.column.partition(" ")
        if kind == "shuffle":
            rows = torch.randperm(len(data.truth), generator=generator)[: int(float(values) * len(data.truth))]
            observed = data.truth.clone()
            observed[rows] = data.truth[rows.roll(1)]
            return observed
        if kind == "by":
            incorrect, low, high = map(float, values.removeprefix("label ").split(", "))
            missing = low + (high - low) * torch.rand(data.truth.shape[1], generator=generator)
            return flip_labels(data.truth, missing, torch.full_like(missing, incorrect), generator)
        column: Column = corrupt(data, case.column, case.seed)
        return column.observed

    folder = work / "audit" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name in COLUMNS:
        todo = [case for case in cases() if case.data == name and not (folder / f"{case.name}.npz").exists()]
        if not todo:
            continue
        data = load(name, flickr8k, work)
        np.savez(folder / f"{name}.npz", features=data.train.numpy(), truth=data.truth.numpy().astype(bool))
        for case in todo:
            arrays: Any = {"observed": np.packbits(observed_of(data, case).numpy().astype(bool))}
            if case.column.startswith("swap"):
                manifest = data.work / f"swap{case.column.removeprefix('swap ')}-seed{case.seed}.jsonl"
                rows = read_manifest(manifest).in_split("train")
                words, bags = caption_words(rows, read_vocabulary(data.work / "vocabulary.tsv"))
                pairs = zip(rows["captions"][:], rows["true_captions"][:], strict=True)
                is_own = [caption == true for one, other in pairs for caption, true in zip(one, other, strict=True)]
                arrays |= {"rows": words.indptr, "columns": words.indices, "bags": bags, "is_own": np.array(is_own)}
            np.savez_compressed(folder / f"{case.name}.npz", **arrays)


def measure(work: Path, case: Case) -> str:
    """Score the audit and its peers, and store the row."""
    path = work / "audit" / "rows" / f"{case.name}.json"
    if path.exists():
        return f"{case.name}: there already"
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(work / "audit" / "data" / f"{case.data}.npz") as data:
        features, truth = torch.from_numpy(data["features"]).to(device), data["truth"]
    with np.load(work / "audit" / "data" / f"{case.name}.npz") as data:
        arrays = {name: data[name] for name in data.files}
    observed = np.unpackbits(arrays["observed"], count=truth.size).reshape(truth.shape).astype(bool)
    labels = torch.from_numpy(observed).float()
    names = tuple(map(str, range(truth.shape[1])))
    if "bags" in arrays:
        indices = (np.ones(len(arrays["columns"])), arrays["columns"], arrays["rows"])
        words = sparse.csr_array(indices, shape=(len(arrays["bags"]), len(names)))
        bags, is_invalid = arrays["bags"], ~arrays["is_own"]
    else:
        bags = np.flatnonzero(observed.any(1))
        words = sparse.csr_array(observed[bags].astype(np.float64))
        is_invalid = (observed != truth).any(1)[bags] if case.column.startswith("shuffle") else None
    records = Records(words, bags, [""] * len(bags), np.full(len(bags), "bags" in arrays))

    settings = choose(features, labels, candidates(HeadSettings()), seed=case.seed).settings
    heads = {
        name: out_of_sample_logits(features, labels, of_heads, seed=case.seed).cpu()
        for name, of_heads in (("plain", HeadSettings()), ("chosen", settings))
    }
    evidence = Evidence(list(map(str, range(len(truth)))), labels, names, records, features, settings=settings)
    judgement = judge(evidence, case.seed)
    wrong = {"truetag": np.where(observed, 1 - judgement.posterior, judgement.posterior)}
    for name, logits in heads.items():
        by_image = logits.double().sigmoid().numpy()
        calibrated = calibrate(logits, labels).true_logits(logits).double().sigmoid().numpy()
        wrong[f"1 - p(z), {name}"] = np.where(observed, 1 - by_image, by_image)
        wrong[f"calibrated 1 - p(z), {name}"] = np.where(observed, 1 - calibrated, calibrated)
        wrong |= {f"cleanlab {key}, {name}": scores for key, scores in cleanlab_scores(observed, by_image).items()}
    is_wrong = observed != truth
    row: dict[str, Any] = {"data": case.data, "column": case.column, "seed": case.seed}
    row["scores"] = {name: score(values, is_wrong, observed) for name, values in wrong.items()}
    peer = max((name for name in wrong if name != "truetag"), key=lambda name: row["scores"][name]["ap"])
    row["best_peer"] = peer
    row["ap_differences"] = resampled_differences(wrong["truetag"], wrong[peer], is_wrong, case.seed)
    row["expected"] = {
        kind: {"expected": float(wrong["truetag"][part].sum()), "true": int(is_wrong[part].sum())}
        for kind, part in (("missing", ~observed), ("incorrect", observed))
    }
    row["ece"] = calibration_error(
        torch.from_numpy(wrong["truetag"]).reshape(-1, 1), torch.from_numpy(is_wrong).float().reshape(-1, 1)
    )
    if is_invalid is not None and judgement.validity is not None:
        row["records"] = record_scores(judgement, heads, observed, records, is_invalid)
    row["seconds"] = time.monotonic() - started
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps(row))
    path.with_suffix(".new").replace(path)
    ap, of_peer = (100 * row["scores"][name]["ap"] for name in ("truetag", peer))
    return f"{case.name}: AP {ap:.1f}, {peer} {of_peer:.1f} ({row['seconds']:.0f} s)"


def cleanlab_scores(observed: np.ndarray, by_image: np.ndarray) -> dict[str, np.ndarray]:
    """cleanlab's multi-label filter of each label and its rank by self-confidence: flagged cells first."""
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class  # pyright: ignore[reportMissingImports]

    lists = [row.nonzero()[0].tolist() for row in observed]
    self_confidence = np.where(observed, by_image, 1 - by_image)
    found = {}
    for kind in FILTERS:
        flagged: Any = find_multilabel_issues_per_class(lists, by_image, filter_by=kind, n_jobs=1)
        found[kind] = (np.asarray(flagged, dtype=float) + 1 - self_confidence) / 2
    return found


def score(wrong: np.ndarray, is_wrong: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """How well a score ranks the wrong cells, in 0..1."""
    found = {"ap": average_precision_score(is_wrong.ravel(), wrong.ravel())}
    found["auroc"] = roc_auc_score(is_wrong.ravel(), wrong.ravel())
    for kind, part in (("missing", ~observed), ("incorrect", observed)):
        if is_wrong[part].any():
            found[kind] = average_precision_score(is_wrong[part], wrong[part])
    of_labels = [
        average_precision_score(is_wrong[:, k], wrong[:, k]) for k in range(wrong.shape[1]) if is_wrong[:, k].any()
    ]
    found["macro"] = fmean(of_labels)
    order = np.argsort(-wrong, axis=None, kind="stable")
    ranked = is_wrong.ravel()[order]
    found |= {"at_true_number": ranked[: ranked.sum()].mean(), "at_100": ranked[:100].mean()}
    return {name: float(value) for name, value in found.items()}


def resampled_differences(ours: np.ndarray, peer: np.ndarray, is_wrong: np.ndarray, seed: int) -> list[float]:
    """AP of ours less that of the peer, on examples that are drawn again (paired bootstrap)."""
    rng = np.random.default_rng(seed)
    num_examples, num_labels = ours.shape
    ranked = []
    for scores in (ours, peer):
        order = np.argsort(-scores, axis=None, kind="stable")
        ranked.append((order // num_labels, is_wrong.ravel()[order]))
    found = []
    for _ in range(NUM_RESAMPLES):
        weights = np.bincount(rng.integers(num_examples, size=num_examples), minlength=num_examples).astype(np.float32)
        aps = []
        for examples, hits in ranked:
            each = weights[examples]
            right = each * hits
            precision = np.cumsum(right, dtype=np.float64) / np.maximum(np.cumsum(each, dtype=np.float64), 1e-9)
            aps.append(float((precision * right).sum() / right.sum()))
        found.append(aps[0] - aps[1])
    return found


def record_scores(
    judgement: Any, heads: dict[str, torch.Tensor], observed: np.ndarray, records: Records, is_invalid: np.ndarray
) -> dict[str, Any]:
    """How well records of other examples are found: by their validity, and by what peers have of whole records."""
    from cleanlab.multilabel_classification.rank import get_label_quality_scores  # pyright: ignore[reportMissingImports]

    invalid = {"truetag": 1 - judgement.validity}
    invalid["mean posterior of wrong"] = 1 - example_quality(judgement.posterior, observed)[records.bags]
    for name, logits in heads.items():
        by_image = logits.double().sigmoid().numpy()
        of_words = (records.words * by_image[records.bags]).sum(1) / np.maximum(records.words.sum(1), 1)
        invalid[f"mean 1 - p(word), {name}"] = 1 - of_words
        if not records.is_caption.any():
            lists = [row.nonzero()[0].tolist() for row in observed]
            invalid[f"cleanlab, {name}"] = 1 - get_label_quality_scores(lists, by_image)[records.bags]
            invalid[f"FiftyOne, {name}"] = mistakenness(observed, logits.double().numpy())[records.bags]
    scores = {
        name: {"auroc": roc_auc_score(is_invalid, values), "ap": average_precision_score(is_invalid, values)}
        for name, values in invalid.items()
    }
    return {"scores": scores, "expected": float(invalid["truetag"].sum()), "true": int(is_invalid.sum())}


def mistakenness(observed: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """FiftyOne's mistakenness of whole samples: (1 + m c) / 2.

    m is 1 where any label disagrees with the prediction, else -1. c = exp(-entropy(softmax(logits))), which is what it
    uses of several labels: they have no confidence in common.
    """
    disagrees = ((logits > 0) != observed).any(1)
    certainty = np.exp(-entropy(softmax(logits, axis=1), axis=1))
    return (1 + np.where(disagrees, certainty, -certainty)) / 2


def run_all(work: Path, processes: int, threads: int = 1) -> None:
    """Measure all cases; a case that fails is reported and does not end the others."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for future in [pool.submit(measure, work, case) for case in cases()]:
            error = future.exception()
            print(f"failed: {error!r}" if error else future.result(), flush=True)


def write_report(work: Path, out: Path) -> None:
    """The tables of audit.md, between its markers: what stands around them is written by people."""
    rows = [json.loads(path.read_text()) for path in sorted((work / "audit" / "rows").glob("*.json"))]
    groups = {
        (data, column): [row for row in rows if (row["data"], row["column"]) == (data, column)]
        for data, columns in COLUMNS.items()
        for column in columns
    }
    groups = {key: of_case for key, of_case in groups.items() if of_case}

    def family(row: dict[str, Any], prefix: str, metric: str) -> float:
        """The best setting of a peer, by AP."""
        names = [name for name in row["scores"] if name.startswith(prefix)]
        best = max(names, key=lambda name: row["scores"][name]["ap"])
        return row["scores"][best].get(metric, float("nan"))

    peers = ("truetag", "calibrated 1 - p(z)", "1 - p(z)", "cleanlab")
    lines = [
        "| photos, noise | seeds | " + " | ".join(peers) + " | ahead of the best peer by (95 %) |",
        "|---" * 7 + "|",
    ]
    for (data, column), of_case in groups.items():
        aps = [100 * fmean(family(row, peer, "ap") for row in of_case) for peer in peers]
        cells = [f"**{ap:.1f}**" if ap == max(aps) else f"{ap:.1f}" for ap in aps]
        ahead = f"{aps[0] - max(aps[1:]):+.1f}"
        if resampled := [row["ap_differences"] for row in of_case if "ap_differences" in row]:
            spread = np.array(resampled).mean(0)
            low, high = aps[0] - max(aps[1:]) + 100 * np.quantile(spread - spread.mean(), [0.025, 0.975])
            ahead += f" ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {data}, {column} | {len(of_case)} | {' | '.join(cells)} | {ahead} |")
    tables = {"ap": lines}

    metrics = ("missing", "incorrect", "macro", "auroc", "at_true_number", "at_100")
    lines = ["| photos, noise | of | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
    for (data, column), of_case in groups.items():
        for peer in peers:
            cells = [100 * fmean(family(row, peer, metric) for row in of_case) for metric in metrics]
            lines.append(f"| {data}, {column} | {peer} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    tables["more"] = lines

    lines = ["| photos, noise | missing | incorrect | all | calibration error |", "|---" * 5 + "|"]
    for (data, column), of_case in groups.items():
        cells = []
        for kinds in (("missing",), ("incorrect",), ("missing", "incorrect")):
            ratios = [
                sum(row["expected"][kind]["expected"] for kind in kinds)
                / max(sum(row["expected"][kind]["true"] for kind in kinds), 1)
                for row in of_case
            ]
            has_any = any(row["expected"][kind]["true"] for row in of_case for kind in kinds)
            cells.append(f"{fmean(ratios):.2f}" if has_any else "-")
        lines.append(f"| {data}, {column} | {' | '.join(cells)} | {fmean(row['ece'] for row in of_case):.4f} |")
    tables["counts"] = lines

    kinds = ("truetag", "mean posterior of wrong", "mean 1 - p(word)", "cleanlab", "FiftyOne")
    lines = ["| photos, noise | " + " | ".join(kinds) + " | expected / true |", "|---" * (len(kinds) + 2) + "|"]
    for (data, column), of_case in groups.items():
        of_records = [row["records"] for row in of_case if "records" in row]
        if of_records:
            cells = []
            for kind in kinds:
                best = [
                    max((v for name, v in found["scores"].items() if name.startswith(kind)), key=lambda v: v["ap"])
                    for found in of_records
                    if any(name.startswith(kind) for name in found["scores"])
                ]
                means = [100 * fmean(value[metric] for value in best) for metric in ("auroc", "ap")] if best else []
                cells.append(" / ".join(f"{mean:.1f}" for mean in means) or "-")
            ratio = fmean(found["expected"] / found["true"] for found in of_records)
            lines.append(f"| {data}, {column} | {' | '.join(cells)} | {ratio:.2f} |")
    tables["records"] = lines

    text = out.read_text() if out.exists() else "".join(f"<!-- {name} -->\n<!-- end -->\n\n" for name in tables)
    for name, table in tables.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n" + "\n".join(table) + "\n<!-- end -->" + rest.partition("<!-- end -->")[2]
    out.write_text(text)


def main(benchmark: Benchmark) -> None:
    os.environ.setdefault("TRUETAG_CACHE", str(benchmark.work / "cache"))
    prepare(benchmark.flickr8k, benchmark.work)
    run_all(benchmark.work, benchmark.processes)
    write_report(benchmark.work, benchmark.out)


if __name__ == "__main__":
    import tyro

    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
