"""Figures of the reports, drawn without a display."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def plot_rates(
    injected: Mapping[str, Sequence[float]], learnt: Mapping[str, Sequence[float]], counts: Sequence[float]
) -> Figure:
    """Learnt against realised rates, one panel a kind, one dot a word, its area growing with the word's frequency."""
    figure = Figure(figsize=(4.2 * len(injected), 4.0), layout="constrained")
    panels = figure.subplots(1, len(injected), squeeze=False)[0]
    for panel, (kind, realised) in zip(panels, injected.items(), strict=True):
        areas = [8 + 120 * count / max(counts) for count in counts]
        panel.scatter(realised, learnt[kind], s=areas, color="#3566a8", alpha=0.55, linewidths=0)
        top = 1.05 * max([value for value in (*realised, *learnt[kind]) if value == value], default=1.0)
        panel.plot([0, top], [0, top], color="#999", linewidth=1, zorder=0)
        panel.set(xlim=(0, top), ylim=(0, top), xlabel="realised in the training tags", ylabel="learnt", aspect="equal")
        panel.set_title(f"{kind} rate", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    return figure
