"""Modules import only groups above their own; within a group, only what the whitelist says."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "truetag"

GROUPS = [
    # foundations, which know nothing of labels
    {"errors", "files", "progress", "signals", "tensors", "text"},
    # the law: pure functions of tensors
    {
        "latent",
        "pooling",
        "objectives",
        "peers",
        "evaluation",
        "evaluation.ranking",
        "evaluation.separation",
        "evaluation.decisions",
        "evaluation.significance",
    },
    # things learnt about tags, and things read from disk
    {
        "noise_models",
        "rates",
        "relations",
        "em",
        "data",
        "data.manifest",
        "data.readers",
        "data.vocabulary",
        "data.labels",
        "data.corruption",
        "data.splits",
        "data.media",
        "data.photos",
        "data.media_bags",
        "data.imports",
        "data.bags",
        "data.scenes",
        "data.moving_scenes",
        "data.clips",
        "data.frame_cache",
        "digests",
    },
    # networks and their settings
    {"config", "backbones", "vgg", "classifier", "checkpoints", "features", "runs"},
    # procedures
    {
        "heads",
        "selection",
        "sources",
        "targets",
        "crossfit",
        "relabelling",
        "training",
        "preparation",
        "optimisers",
        "continuation",
        "fitting",
        "observed_tagger",
        "journal",
        "prediction",
        "prediction_files",
        "region_maps",
        "scoring",
    },
    # faces
    {
        "estimator",
        "recipes",
        "paper",
        "demo",
        "doctor",
        "reports",
        "reports.page",
        "reports.figures",
        "reports.tagged_photos",
        "reproduce",
        "corpora",
        "reproduction_plan",
        "cli",
    },
]

WITHIN = {
    ("files", "errors"),
    ("progress", "errors"),
    ("tensors", "errors"),
    ("tensors", "files"),
    ("text", "errors"),
    ("objectives", "latent"),
    ("peers", "latent"),
    ("evaluation.separation", "evaluation.ranking"),
    ("evaluation.decisions", "evaluation.ranking"),
    ("evaluation.significance", "evaluation.ranking"),
    ("data.readers", "data.manifest"),
    ("data.vocabulary", "data.manifest"),
    ("data.labels", "data.manifest"),
    ("data.labels", "data.vocabulary"),
    ("data.corruption", "data.labels"),
    ("data.corruption", "data.manifest"),
    ("data.corruption", "data.vocabulary"),
    ("data.splits", "data.labels"),
    ("data.splits", "data.manifest"),
    ("data.splits", "data.vocabulary"),
    ("data.photos", "data.media"),
    ("data.media_bags", "data.clips"),
    ("data.media_bags", "data.frame_cache"),
    ("data.media_bags", "data.manifest"),
    ("data.media_bags", "data.photos"),
    ("data.bags", "data.media"),
    ("data.bags", "data.media_bags"),
    ("data.bags", "data.photos"),
    ("data.clips", "data.media"),
    ("data.frame_cache", "data.clips"),
    ("data.frame_cache", "data.media"),
    ("data.frame_cache", "data.photos"),
    ("data.frame_cache", "digests"),
    ("digests", "data.media"),
    ("digests", "data.photos"),
    ("data.imports", "data.clips"),
    ("data.imports", "data.manifest"),
    ("data.imports", "data.media"),
    ("data.imports", "data.photos"),
    ("data.imports", "data.readers"),
    ("data.moving_scenes", "data.manifest"),
    ("data.moving_scenes", "data.scenes"),
    ("data.scenes", "data.manifest"),
    ("backbones", "vgg"),
    ("classifier", "backbones"),
    ("classifier", "config"),
    ("features", "classifier"),
    ("runs", "config"),
    ("selection", "heads"),
    ("relabelling", "heads"),
    ("selection", "relabelling"),
    ("targets", "heads"),
    ("targets", "preparation"),
    ("targets", "relabelling"),
    ("targets", "selection"),
    ("targets", "sources"),
    ("training", "targets"),
    ("training", "preparation"),
    ("training", "fitting"),
    ("training", "observed_tagger"),
    ("fitting", "journal"),
    ("fitting", "observed_tagger"),
    ("fitting", "optimisers"),
    ("fitting", "preparation"),
    ("training", "continuation"),
    ("training", "journal"),
    ("prediction", "prediction_files"),
    ("prediction", "region_maps"),
    ("scoring", "prediction"),
    ("demo", "recipes"),
    ("demo", "reports.figures"),
    ("demo", "reports.page"),
    ("demo", "reports.tagged_photos"),
    ("recipes", "paper"),
    ("reports.figures", "reports.tagged_photos"),
    ("heads", "observed_tagger"),
    ("reproduce", "corpora"),
    ("reproduce", "paper"),
    ("reproduce", "reproduction_plan"),
    ("reproduce", "reports.figures"),
    ("reproduce", "reports.page"),
    ("reproduce", "reports.tagged_photos"),
}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = path
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports anywhere in it, also inside functions."""
    found = set()
    known = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "truetag":
            module = (node.module or "").removeprefix("truetag").removeprefix(".")
            for alias in node.names:
                full = f"{module}.{alias.name}".strip(".")
                found.add(full if full in known else module)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("truetag.") for alias in node.names if alias.name.startswith("truetag.")}
    return found - {""}


def group_of(name: str) -> int:
    return next(number for number, group in enumerate(GROUPS) if name in group)


def test_every_module_has_a_group():
    assert set(modules()) == set().union(*GROUPS)


def test_imports_point_upwards_or_are_whitelisted():
    within = set()
    for name, path in modules().items():
        for imported in imports_of(path):
            assert group_of(imported) <= group_of(name), f"{name} must not import {imported}, which is below it"
            if group_of(imported) == group_of(name):
                within.add((name, imported))
    assert within == WITHIN


def test_prediction_cannot_reach_a_noise_model():
    """At test time the noise model is dropped: not even an indirect import leads there."""
    reached, frontier = set(), {"prediction"}
    while frontier:
        reached |= frontier
        frontier = set().union(*(imports_of(modules()[name]) for name in frontier)) - reached
    assert "classifier" in reached
    assert not reached & {"noise_models", "em", "training", "scoring", "latent"}


def test_true_labels_are_read_for_scoring_alone():
    """Training asks for observed labels by name; only scoring, the demo's report and corruption may ask for truth."""
    for name in ("training", "preparation", "features", "prediction", "classifier", "data.bags", "runs"):
        text = modules()[name].read_text()
        assert "true_tags" not in text, name
        assert "true_captions" not in text, name
        assert "label_matrix" not in text, name


def test_nothing_is_unpickled():
    """What can unpickle is not called, or told not to."""
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        assert not {"pickle", "dill", "joblib", "shelve"} & {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }, name
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            match ast.unparse(call.func):
                case "torch.load":
                    assert "weights_only=True" in ast.unparse(call), name
                case "np.load" | "numpy.load" | "accelerator.load_state":
                    raise AssertionError(name)


def test_modules_are_not_too_long():
    too_long = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name for name, count in too_long.items() if count > 420} == set()
