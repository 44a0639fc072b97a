"""`truetag report`: one page about one run or several, made of what they have left behind and of nothing else."""

from collections.abc import Sequence
from pathlib import Path

from truetag.errors import InputError
from truetag.io.files import refuse_existing
from truetag.io.paths import takes_paths
from truetag.io.text import counted, require_file
from truetag.media.files import Reading
from truetag.runs.paths import distinct_names, runs_in

_NUM_LISTED = 10  # of the best and of the worst tags


@takes_paths
def report(
    runs: Sequence[Path],
    out: Path = Path("report"),
    issues: Path | None = None,
    data: Path | None = None,
    num_photos: int = 12,
    overwrite: bool = False,
    reading: Reading = Reading(),
) -> Path:
    """Write a page that compares runs: scores, curves, learnt rates, best and worst tags, and mistakes that were found.

    Runs that differ in their seed alone count as one, with the spread over them. What a run has not left behind is
    named as missing; `truetag evaluate` and `truetag audit` add to it.

    Args:
        runs: run folders, finished or not, or folders of runs (`seed-0`, `seed-1`, ..) of one recipe.
        out: a folder for index.html and its figures (figures/*.svg), or the name of one HTML file.
        issues: the issues of an audit to show; by default those of an audit in RUN/audit or beside RUN.
        data: the manifest that has their photos; by default the one that was audited.
        num_photos: show so many photos of each audit.
        overwrite: replace an earlier page.
        reading: how photos and clips are read.

    Returns:
        The page.

    Raises:
        InputError: a folder holds no run, a run is named twice, or a file of it is broken.
    """
    if not runs:
        raise InputError("runs: expected a run folder, got none")
    if num_photos < 0:
        raise InputError(f"num_photos: expected 0 or more, got {num_photos}")
    distinct_names([path for folder in runs for path in runs_in(folder)])
    if issues is not None:
        require_file(issues, "list of issues")
    if data is not None:
        require_file(data, "manifest file")
    is_page = out.suffix.lower() in (".html", ".htm")
    if not is_page and out.exists() and not out.is_dir():
        raise InputError(f"out: expected a folder, or a name that ends in .html, got the file {out}")
    page = out if is_page else out / "index.html"
    refuse_existing(page, overwrite)
    # here: what they import takes seconds, and mistakes are told at once
    from truetag import __version__
    from truetag.evaluate import PARTS_IN_WORDS
    from truetag.io.pages import write_page
    from truetag.reports.found_mistakes import find_audits, suspect_photos
    from truetag.reports.scores import FEW_POSITIVES, describe_missing, evaluations, rated_tags
    from truetag.reports.sections import FEWEST_IN_BIN, draw_curves, draw_rates, draw_training, settings_in_words
    from truetag.reports.seed_groups import describe_state, group_runs

    groups = group_runs(runs)
    scored = evaluations(groups)
    audits = find_audits(groups, issues, data)
    figures = None if is_page else out / "figures"
    tags = rated_tags(scored[0], groups) if scored else []
    write_page(
        page,
        "truetag.reports",
        "report.html",
        groups=groups,
        key_of_groups=list(enumerate(group.name for group in groups)),
        num_runs=counted(sum(len(group.records) for group in groups), "run"),
        states={group.name: [describe_state(record) for record in group.records] for group in groups},
        settings=settings_in_words(groups),
        evaluations=scored,
        parts_in_words=PARTS_IN_WORDS,
        missing={one.name: describe_missing(one, groups) for one in scored},
        training=draw_training(groups, figures),
        rates=draw_rates(groups, audits, figures),
        tags=tags,
        num_listed=_NUM_LISTED,
        few_positives=FEW_POSITIVES,
        key_of_curves=[(n, g.name) for n, g in enumerate(groups) if scored and g.name in scored[0].metrics],
        curves=draw_curves(scored[0], groups, tags, figures) if scored else [],
        fewest_in_bin=FEWEST_IN_BIN,
        audits=[(audit, suspect_photos(audit, num_photos, reading)) for audit in audits if num_photos],
        without_photos=num_photos == 0,
        version=__version__,
    )
    return page
