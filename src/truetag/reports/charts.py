"""Charts of a report, each for a few series by name: small, in few colours, and the same in a page and as files.

In a page they are SVG whose colours are those of the page, so that they are dark where it is dark. Names and tags are
data: they are drawn as they are, on one line.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from truetag.io.files import write_text
from truetag.io.text import one_line

SERIES = ("#2c5fa5", "#b4560b", "#17745a", "#8a3b8f", "#6b6f1d", "#566072")
"""As in colours.css on light paper."""
DASHES = ("-", "--", ":")
_LINE, _SOFT = "#d8dfe9", "#566073"
_VARIABLES = {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)} | {
    _LINE: "var(--line)",
    _SOFT: "var(--soft)",
}
_SIZE = (3.3, 2.5)  # inches: as wide as a column of a page
_STYLE: Any = {
    "font.size": 8,
    "text.parse_math": False,
    "text.color": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
_NAME_LENGTH = 28


class Interval(NamedTuple):
    """A value and what it may lie between."""

    value: float
    low: float
    high: float


@rc_context(_STYLE)
def plot_epochs(series: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str], title: str) -> Figure:
    """One value over epochs, for each name the mean over its runs, within the least and the most of them.

    Args:
        series: for each name one row of values per run; runs may have come to different epochs.
        names: of all series of the page, which decide the colours.
        title: of the values.
    """
    figure, panel = _new(title)
    for name, runs in series.items():
        number = names.index(name)
        epochs = range(1, max(map(len, runs), default=0) + 1)
        values = [[run[epoch - 1] for run in runs if len(run) >= epoch] for epoch in epochs]
        marker = "o" if len(values) == 1 else ""
        panel.plot(epochs, [fmean(part) for part in values], marker=marker, ms=3, **_drawn_as(number, name))
        if len(runs) > 1:
            lows, highs = [min(part) for part in values], [max(part) for part in values]
            panel.fill_between(epochs, lows, highs, color=_colour(number), alpha=0.18, lw=0)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


@rc_context(_STYLE)
def plot_precision(series: Mapping[str, Sequence[float]], names: Sequence[str], share: float) -> Figure:
    """Precision at each recall, at evenly spaced recalls from 0 to 1.

    Args:
        series: for each name its precisions.
        names: of all series of the page, which decide the colours.
        share: of the examples that have the tag: the precision of chance, as a dashed line.
    """
    figure, panel = _new("precision by recall")
    panel.axhline(share, color=_SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    for name, values in series.items():
        recalls = [point / (len(values) - 1) for point in range(len(values))]
        panel.plot(recalls, values, drawstyle="steps-pre", **_drawn_as(names.index(name), name))
    panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall")
    return figure


@rc_context(_STYLE)
def plot_reliability(series: Mapping[str, Sequence[tuple[float, float]]], names: Sequence[str]) -> Figure:
    """How often a tag holds by its predicted probability; on the dashed line probabilities come true.

    Args:
        series: for each name the bins, each with its mean probability and the share of examples with the tag.
        names: of all series of the page, which decide the colours.
    """
    figure, panel = _new("share with the tag, by probability")
    panel.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    for name, bins in series.items():
        panel.plot(
            *zip(*bins, strict=True) if bins else ([], []), marker="o", ms=3, **_drawn_as(names.index(name), name)
        )
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability")
    return figure


@rc_context(_STYLE)
def plot_intervals(
    tags: Sequence[str], series: Mapping[str, Mapping[str, Interval]], names: Sequence[str], title: str
) -> Figure:
    """A value of each tag with its interval, tags from top to bottom.

    Args:
        tags: in the order of the rows.
        series: for each name its values by tag; a tag without one has no mark.
        names: of all series of the page, which decide the colours.
        title: of the values.
    """
    rows = len(tags) * (1 + 0.25 * len(series))
    figure, panel = _new(title, height=0.8 + 0.16 * rows)
    for row, (name, values) in enumerate(series.items()):
        there = [(index, values[tag]) for index, tag in enumerate(tags) if tag in values]
        offset = (row - (len(series) - 1) / 2) * min(0.22, 0.7 / len(series))
        errors = [[v.value - v.low for _, v in there], [v.high - v.value for _, v in there]]
        panel.errorbar(
            [value.value for _, value in there],
            [index + offset for index, _ in there],
            xerr=errors,
            fmt="o",
            ms=3.5,
            elinewidth=1,
            color=_colour(names.index(name)),
            label=_short(name),
        )
    panel.set_yticks(range(len(tags)), [_short(tag, 18) for tag in tags])
    panel.set_ylim(len(tags) - 0.5, -0.5)
    panel.margins(x=0.04)
    panel.grid(visible=False, axis="y")
    return figure


def publish(figure: Figure, name: str, label: str, folder: Path | None) -> Markup:
    """The figure for a page, and as the file FOLDER/NAME.svg, which has a legend where there are several series.

    Args:
        figure: one of the above.
        name: of letters, digits and hyphens; no other figure of the page has it.
        label: what it shows, in words, for those who cannot see it.
        folder: of the file; None for no file.
    """
    inline = _inline(_as_svg(figure), name, label)
    if folder is not None:
        if len(figure.axes[0].get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside lower center", ncols=2, fontsize=7)
        write_text(folder / f"{name}.svg", _as_svg(figure))
    return inline


def _new(title: str, height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    panel = figure.subplots()
    panel.set_title(title, fontsize=8, loc="left")
    return figure, panel


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _drawn_as(number: int, name: str) -> dict[str, Any]:
    dash = DASHES[number // len(SERIES) % len(DASHES)]
    return {"color": _colour(number), "linestyle": dash, "label": _short(name)}


def _short(text: str, most: int = _NAME_LENGTH) -> str:
    """On one line; a name that begins with an underscore would be left out of a legend."""
    text = one_line(text, most)
    return f"\u200b{text}" if text.startswith("_") else text


def _as_svg(figure: Figure) -> str:
    content = io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": "truetag"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # measured in our font, drawn in the reader's
        figure.savefig(content, format="svg", metadata={"Date": None}, transparent=True)
    return content.getvalue()


def _inline(svg: str, name: str, label: str) -> Markup:
    """SVG as part of a page: no style that its policy forbids, the colours of the page, and ids of its own."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        for declaration in attributes.pop("style", "").split(";"):
            key, _, value = (part.strip() for part in declaration.partition(":"))
            if key and key != "font" and not key.startswith("font-"):
                attributes[key] = _VARIABLES.get(value, value)
        if "id" in attributes:
            attributes["id"] = f"{name}-{attributes['id']}"
        for key, value in attributes.items():
            if key == "href" or value.startswith("url("):
                attributes[key] = value.replace("#", f"#{name}-")
        element.attrib.clear()
        element.attrib.update(attributes)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "class": "drawn", "role": "img", "aria-label": label})
    return Markup(ElementTree.tostring(root, encoding="unicode"))
