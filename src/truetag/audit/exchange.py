"""`truetag export-issues`: what an audit found, in formats that other programs open.

Everything comes from the folder of the audit, so it can be written at any time. `audit.annotations` reads back what a
person decided in Label Studio or FiftyOne.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np

from truetag import __version__
from truetag.audit.annotations import CONTROL, TASK, media_key
from truetag.audit.decisions import OPPOSITE, read_issue_table
from truetag.errors import InputError
from truetag.io.files import refuse_existing, replacing, write_text
from truetag.io.paths import takes_paths
from truetag.io.text import counted, one_line, require_file, shown
from truetag.media.clips import CLIP_SUFFIXES

Format = Literal["coco", "fiftyone", "label-studio", "cleanlab"]
FILES: dict[Format, tuple[str, ...]] = {
    "coco": ("coco.json",),
    "fiftyone": ("fiftyone-given.json", "fiftyone-suggested.json"),
    "label-studio": ("label-studio.json", "label-studio.xml"),
    "cleanlab": ("cleanlab.npz",),
}
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of the machine it runs on."""
_MOST_BUTTONS = 30
"""More choices become a list to choose from."""


class Exported(NamedTuple):
    """What was written, and how much of the audit is not in it."""

    files: list[Path]
    num_issues: int
    num_left: int
    """Issues that are not about a tag: records, near-duplicates and outliers."""

    def describe(self) -> str:
        """The files, in lines."""
        lines = [f"{counted(self.num_issues, 'issue')} in {', '.join(map(str, self.files))}"]
        if self.num_left:
            lines.append(
                f"{counted(self.num_left, 'issue')} not about a tag left out: these formats have no place for them"
            )
        return "\n".join(lines)


class Issue(NamedTuple):
    """A suspected tag."""

    row: int
    label: int
    kind: str
    probability: float
    posterior: float


@dataclass(frozen=True)
class Found:
    """The tags of N examples and what an audit suspects of them, the surest first."""

    ids: Sequence[str]
    files: Sequence[str]
    labels: Sequence[str]
    given: Sequence[frozenset[int]]
    issues: Sequence[Issue]
    num_left: int

    def by_example(self) -> Mapping[int, list[Issue]]:
        """The issues of each example that has any."""
        by_row: defaultdict[int, list[Issue]] = defaultdict(list)
        for issue in self.issues:
            by_row[issue.row].append(issue)
        return by_row


@takes_paths
def export_issues(
    audit: Path,
    *,
    formats: tuple[Format, ...],
    out: Path,
    prefix: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write what an audit found for other programs, in one or more formats.

    coco: coco.json, an annotation with score and suggestion for each suspected tag. fiftyone: the given and the
    suggested tags, as FiftyOneImageClassificationDataset. label-studio: tasks with predictions, and the labelling
    configuration. cleanlab: cleanlab.npz, the rows of the issues as `find_label_issues` of cleanlab returns them.

    Args:
        audit: the folder that `truetag audit` wrote.
        formats: some of coco, fiftyone, label-studio, cleanlab.
        out: the folder for the files.
        prefix: what stands before the names of photos in coco.json and in tasks: a folder, or an address. By default
            nothing, and for Label Studio the address at which it serves local files.
        overwrite: replace the files if they exist.

    Raises:
        InputError: `audit` holds no audit, or a file exists.
    """
    if not formats:
        raise InputError(f"formats: expected some of {', '.join(FILES)}, got none")
    found = read_audit(audit)
    names = [name for kind in FILES if kind in formats for name in FILES[kind]]
    for name in names:
        refuse_existing(out / name, overwrite)
    for kind in FILES:
        if kind not in formats:
            continue
        match kind:
            case "coco":
                contents = [_json(coco(found, prefix or ""))]
            case "fiftyone":
                contents = [_json(content) for content in fiftyone(found)]
            case "label-studio":
                contents = [_json(tasks(found, LOCAL_FILES if prefix is None else prefix)), label_config(found)]
            case "cleanlab":
                with replacing(out / FILES[kind][0]) as temporary:
                    temporary.write_bytes(_npz(cleanlab(found)))
                continue
        for name, content in zip(FILES[kind], contents, strict=True):
            write_text(out / name, content)
    return Exported([out / name for name in names], len(found.issues), found.num_left)


def read_audit(folder: Path) -> Found:
    """The tables of an audit.

    Raises:
        InputError: the folder holds no audit, or one of an earlier version.
    """
    import pandas as pd

    for name in ("issues.parquet", "examples.parquet", "labels.csv"):
        require_file(folder / name, "file of `truetag audit` (an older audit has to be run again)")
    table = read_issue_table(folder / "issues.parquet")
    try:
        examples = pd.read_parquet(folder / "examples.parquet", columns=["id", "file", "given"])
        labels = pd.read_csv(folder / "labels.csv", dtype={"label": str}, keep_default_na=False)["label"].tolist()
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder}: not a readable audit ({one_line(error)})") from None
    row_of = {name: row for row, name in enumerate(examples["id"])}
    label_of = {name: index for index, name in enumerate(labels)}
    issues = []
    of_tags = table[table["kind"].isin(list(OPPOSITE))]
    for issue in of_tags.to_dict("records"):
        row, label = row_of.get(issue["id"]), label_of.get(str(issue["label"]))
        if row is None or label is None:
            raise InputError(
                f"{folder}: expected tables of one audit, got an issue that the others lack: {shown(issue)}"
            )
        issues.append(Issue(row, label, issue["kind"], float(issue["probability"]), float(issue["posterior"])))
    return Found(
        ids=examples["id"].tolist(),
        files=[name or file for file, name in zip(examples["id"], examples["file"], strict=True)],
        labels=labels,
        given=[frozenset(label_of[tag] for tag in tags if tag in label_of) for tags in examples["given"]],
        issues=issues,
        num_left=len(table) - len(of_tags),
    )


def coco(found: Found, prefix: str) -> dict[str, Any]:
    """COCO's images, categories and annotations: one annotation, without a box, for each suspected tag."""
    return {
        "info": {"description": "suspected tags", "contributor": f"truetag {__version__}"},
        "images": [
            {"id": row, "file_name": prefix + file, "truetag_id": name}
            for row, (name, file) in enumerate(zip(found.ids, found.files, strict=True), start=1)
        ],
        "categories": [{"id": index, "name": label} for index, label in enumerate(found.labels, start=1)],
        "annotations": [
            {
                "id": number,
                "image_id": issue.row + 1,
                "category_id": issue.label + 1,
                "score": round(issue.probability, 6),
                "kind": issue.kind,
                "suggestion": _suggestion(issue),
            }
            for number, issue in enumerate(found.issues, start=1)
        ],
    }


def fiftyone(found: Found) -> tuple[dict[str, Any], dict[str, Any]]:
    """The given and the suggested tags, each as labels.json of a FiftyOneImageClassificationDataset.

    The confidence is the probability that the tag is true, of the tags that the audit suspects.

    Raises:
        InputError: two photos have the same name but for the ending, which FiftyOne leaves out.
    """
    keys = [media_key(file) for file in found.files]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(
            f"fiftyone: expected photos whose names differ without their endings, got {shown(twice)} twice"
        )
    by_row = found.by_example()
    given: dict[str, list[Any]] = {}
    suggested: dict[str, list[Any]] = {}
    for row, key in enumerate(keys):
        of_label = {issue.label: issue for issue in by_row.get(row, ())}
        given[key], suggested[key] = [], []
        for label in sorted(found.given[row] | of_label.keys()):
            entry: dict[str, Any] = {"label": found.labels[label]}
            if (issue := of_label.get(label)) is not None:
                attributes = {"kind": issue.kind, "suggestion": _suggestion(issue)}
                entry |= {"confidence": round(issue.posterior, 6), "attributes": attributes}
            if issue is None or issue.kind == "incorrect":
                given[key].append(entry)
            if issue is None or issue.kind == "missing":
                suggested[key].append(entry)
    classes = list(found.labels)
    return {"classes": classes, "labels": given}, {"classes": classes, "labels": suggested}


def tasks(found: Found, prefix: str) -> list[dict[str, Any]]:
    """Label Studio's tasks: each photo with issues, with the tags as suggested for a prediction, the surest first."""
    made = []
    for row, issues in found.by_example().items():
        kinds = {kind: sorted(issue.label for issue in issues if issue.kind == kind) for kind in OPPOSITE}
        chosen = sorted(found.given[row] - set(kinds["incorrect"]) | set(kinds["missing"]))
        choices = [found.labels[label] for label in chosen]
        result = {
            "id": CONTROL,
            "type": "choices",
            "from_name": CONTROL,
            "to_name": "photo",
            "value": {"choices": choices},
        }
        about = {kind: [found.labels[label] for label in labels] for kind, labels in kinds.items()}
        given = [found.labels[label] for label in sorted(found.given[row])]
        made.append(
            {
                "data": {"photo": prefix + found.files[row], TASK: {"id": found.ids[row], "given": given, **about}},
                "predictions": [
                    {
                        "model_version": f"truetag {__version__}",
                        "score": round(max(issue.probability for issue in issues), 6),
                        "result": [result] if choices else [],
                    }
                ],
            }
        )
    return made


def label_config(found: Found) -> str:
    """Label Studio's labelling configuration for these tasks: a photo or clip, and all tags as choices."""
    are_clips = all(Path(found.files[row]).suffix.lower() in CLIP_SUFFIXES for row in found.by_example())
    medium = "Video" if found.issues and are_clips else "Image"
    layout = "select" if len(found.labels) > _MOST_BUTTONS else "inline"
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in found.labels)
    opening = f'<Choices name="{CONTROL}" toName="photo" choice="multiple" layout="{layout}">'
    return f'<View>\n  <{medium} name="photo" value="$photo"/>\n  {opening}\n{choices}  </Choices>\n</View>\n'


def cleanlab(found: Found) -> dict[str, np.ndarray]:
    """Arrays as of cleanlab's `multilabel_classification.filter`.

    Returns:
        `label_issues`: a mask of the N examples with an issue; `ranked_indices`: these examples, the surest first;
        `class_0`, `class_1` ..: the same of each label; `classes` and `ids`: what these numbers stand for.
    """
    rows = np.array(list(found.by_example()), dtype=np.int64)
    mask = np.zeros(len(found.ids), dtype=bool)
    mask[rows] = True
    of_label: defaultdict[int, list[int]] = defaultdict(list)
    for issue in found.issues:
        of_label[issue.label].append(issue.row)
    arrays = {f"class_{index}": np.array(of_label[index], dtype=np.int64) for index in range(len(found.labels))}
    names = {"classes": np.array(found.labels, dtype=np.str_), "ids": np.array(found.ids, dtype=np.str_)}
    return {"label_issues": mask, "ranked_indices": rows} | arrays | names


def _suggestion(issue: Issue) -> str:
    return "add" if issue.kind == "missing" else "remove"


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    content = BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType]
    return content.getvalue()
