"""The house: a room imports only rooms above it, files of one room do not import in circles, and the guards hold."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "truetag"

ROOMS = [
    "errors",
    "truth",
    "law",
    "io",
    "evaluation",
    "media",
    "data",
    "label_noise",
    "estimator",
    "runs",
    "models",
    "training",
    "prediction",
    "tagger",
    "audit",
    "captioning",
    "export",
    "evaluate",
    "reports",
    "paper",
    "demo",
    "cli",
]
"""From top to bottom: each imports only what stands above it."""
LAW = {"latent", "likelihood", "pooling", "noise_models", "losses", "optimisation", "em"}
"""The law stays at the root: functions of tensors."""
ROOM_OF_FILE = dict.fromkeys(LAW, "law") | {
    **{
        "crossfit": "estimator",
        "issues": "estimator",
        "criterion": "estimator",
        "compare": "evaluate",
        "scoring": "evaluate",
    },
    **dict.fromkeys(("completion", "doctor", "options", "tag", "__main__"), "cli"),
}
"""Files at the root whose room has another name."""
MAY_NAME_TRUE_LABELS = {
    # the file format, what writes it, and the one reader of labels
    *("data.rows", "data.labels", "data.readers", "data.columns", "data.table_rows", "data.imports", "data.importing"),
    *("data.corruption", "evaluate", "scoring", "compare", "captioning.evaluate"),
    *("reports", "demo"),
}
READERS_OF_TRUE_LABELS = {"data.labels", "data.corruption", "evaluate", "scoring", "compare", "reports", "demo"}
"""Only these may ask `label_matrix` or `caption_counts` for labels other than the observed ones."""


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


def room_of(name: str) -> str:
    first = name.partition(".")[0]
    return ROOM_OF_FILE.get(first, first)


def test_every_module_has_a_room():
    assert {room_of(name) for name in modules()} == set(ROOMS)


def test_a_room_imports_only_rooms_above_it():
    backwards = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        for imported in imports_of(path)
        if ROOMS.index(room_of(imported)) > ROOMS.index(room_of(name))
    ]
    assert backwards == []


def test_files_do_not_import_in_circles():
    graph = {name: imports_of(path) - {name} for name, path in modules().items()}
    done: set[str] = set()
    while free := {name for name in graph if name not in done and graph[name] <= done}:
        done |= free
    assert set(graph) - done == set()


def reachable(start: str) -> set[str]:
    reached, frontier = set(), {start}
    while frontier:
        reached |= frontier
        frontier = set().union(*(imports_of(modules()[name]) for name in frontier)) - reached
    return reached


def test_prediction_reaches_no_noise_model():
    """At test time, here or elsewhere, the noise model is dropped: not even an indirect import leads there."""
    for name in (name for name in modules() if name.startswith(("prediction.", "export."))):
        reached = reachable(name)
        assert not reached & {"noise_models", "em", "latent", "evaluate", "scoring", "runs.noise_model"}, name
        assert not {room_of(other) for other in reached} & {"training"}, name
    assert "models.classifier" in reachable("prediction.tagging")


def code_of(path: Path) -> str:
    """The file without docstrings and comments: names in the code, text in the strings that it uses."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.unparse(tree)


def test_true_labels_are_named_by_scoring_alone():
    """Every file but a few is searched, so one that is written tomorrow is searched too."""
    for name, path in modules().items():
        if {name, name.partition(".")[0]} & MAY_NAME_TRUE_LABELS:
            continue
        code = code_of(path)
        assert "true_tags" not in code, name
        assert "true_captions" not in code, name


def test_only_scoring_asks_for_labels_other_than_the_observed_ones():
    for name, path in modules().items():
        if {name, name.partition(".")[0]} & READERS_OF_TRUE_LABELS:
            continue
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"label_matrix", "caption_counts"}, name


def test_the_estimator_reaches_no_photos():
    """Whoever has embeddings pays for torch and scikit-learn, and needs nothing that reads photos, clips or locks."""
    code = (
        "import sys, truetag; truetag.NoisyLabelClassifier, truetag.cross_val_posterior; "
        "print(sorted({'timm', 'torchvision', 'datasets', 'av', 'accelerate', 'PIL', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_nothing_imports_fcntl():
    """Which Windows lacks. (torch itself imports it where it exists, so `sys.modules` does not show it.)"""
    for name, path in modules().items():
        assert "fcntl" not in code_of(path), name


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
                case "np.load" | "numpy.load":
                    assert "allow_pickle=False" in ast.unparse(call), name
                case "accelerator.load_state":
                    raise AssertionError(name)


def test_modules_are_not_too_long():
    too_long = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name for name, count in too_long.items() if count > 420} == set()


def test_public_functions_with_four_parameters_describe_them():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                described = [parameter for parameter in parameters if parameter.arg not in ("self", "cls", "ctx")]
                if len(described) >= 4:
                    assert "Args:" in (ast.get_docstring(node) or ""), f"{name}.{node.name}"
