"""Figures of the reports, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from PIL import Image, ImageOps

from truetag.io.files import replacing
from truetag.latent import negative_log_likelihood, observe
from truetag.noise_models import transition
from truetag.reports.tagged_photos import TaggedPhoto

_MARKS = {"right": "", "incorrect": "× ", "missing": "+ "}
_COLOURS = {"right": "#1c2330", "incorrect": "#b3261e", "missing": "#1d7a3d"}


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure as the PNG file `path`, and as PDF beside it."""
    for suffix in (".png", ".pdf"):
        with replacing(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=150, **options)


def plot_gradients(missing_rate: float = 0.05, incorrect_rate: float = 0.05) -> Figure:
    """dL/do of the true logit against p(y=1|I), for a tag that is there and one that is not [Fig. 3].

    Without a noise model it is p - z; with one it is p - rho, which spares what is probably wrong.
    """
    logits = torch.linspace(-9, 9, 721, dtype=torch.float64).unsqueeze(1)
    probabilities = logits.sigmoid().flatten().tolist()
    log_q = transition(1, missing_rate, incorrect_rate).double()
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    panel = figure.subplots()
    for value, colour in ((0, "#b3261e"), (1, "#3566a8")):
        labels = torch.full_like(logits, value)
        for style, name, used in ((":", "no noise model", False), ("-", "noise model", True)):
            o = logits.clone().requires_grad_()
            loss = negative_log_likelihood(observe(o, log_q) if used else o, labels, "sum")
            (gradient,) = torch.autograd.grad(loss, o)
            panel.plot(probabilities, gradient.flatten().tolist(), style, color=colour, label=f"z = {value}, {name}")
    panel.axhline(0, color="#999", linewidth=0.8, zorder=0)
    panel.set(xlim=(0, 1), ylim=(-1.05, 1.05), xlabel="p(y=1 | I)", ylabel="dL / do")
    panel.set_title(f"missing rate {missing_rate:g}, incorrect rate {incorrect_rate:g}", fontsize=11)
    panel.legend(frameon=False, fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def plot_tagged_photos(photos: Sequence[TaggedPhoto], columns: int = 4) -> Figure:
    """Photos in a grid, each above its true words and the words of each run: incorrect in red, missing in green.

    A sign before the word says the same as the colour: × incorrect, + missing.
    """
    lines = -(-len(photos) // columns)
    figure = Figure(figsize=(3.3 * columns, 5.2 * lines))
    panels = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[3, 2.6] * lines)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.01, wspace=0.08, hspace=0.03)
    for panel in panels.flat:
        panel.axis("off")
    key = f"{_MARKS['incorrect']}incorrect    {_MARKS['missing']}missing"
    figure.text(0.01, 0.0, key, fontsize=9, color="#5d6778", verticalalignment="top")
    for number, photo in enumerate(photos):
        above, below = (panels[2 * (number // columns) + part, number % columns] for part in (0, 1))
        with Image.open(photo.path) as opened:
            above.imshow(ImageOps.exif_transpose(opened).convert("RGB"))
        answers = {"true": [(word, "right") for word in photo.truth]} | photo.answers
        blocks: list[Artist] = [_wrapped(name, words) for name, words in answers.items()]
        text = VPacker(children=blocks, align="left", pad=0, sep=5)
        below.add_artist(AnchoredOffsetbox("upper left", child=text, frameon=False, pad=0, borderpad=0))
    return figure


def _wrapped(title: str, words: Sequence[tuple[str, str]], width: int = 46) -> VPacker:
    """A title and below it words with their marks and colours, as many in a line as fit."""
    lines: list[list[tuple[str, str]]] = [[]]
    for word, kind in ((_MARKS[kind] + word, kind) for word, kind in words):
        if lines[-1] and sum(len(other) + 2 for other, _ in lines[-1]) + len(word) > width:
            lines.append([])
        lines[-1].append((word, kind))
    title_line = TextArea(title, textprops={"fontsize": 9, "color": "#5d6778"})
    rows = [
        HPacker(
            children=[TextArea(word, textprops={"fontsize": 9, "color": _COLOURS[kind]}) for word, kind in line],
            align="baseline",
            pad=0,
            sep=5,
        )
        for line in lines
    ]
    return VPacker(children=[title_line, *rows], align="left", pad=0, sep=2)
