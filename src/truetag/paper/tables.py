"""The rows of the paper's tables: the recipe of each, and the published numbers.

All numbers are the AP of Fang et al. (2015) in percent, which counts how many captions name a word: `count_mean_ap`.
"""

from dataclasses import dataclass

from truetag.runs.config import Level
from truetag.training.recipes import RecipeName

COLUMNS = ("VB", "NN", "JJ", "DT", "PRP", "IN", "Others", "All")


@dataclass(frozen=True)
class Row:
    """One row of a table: how it is trained, and the published numbers in percent and in the order of `COLUMNS`."""

    label: str
    recipe: RecipeName | None
    """None: the paper copied the row from another paper."""
    published: tuple[float | None, ...]
    """In the order of `COLUMNS`, or in Table 4 of `CAPTION_COLUMNS`."""
    num_swapped: int = 0
    """How many of each photo's five captions are swapped with other photos'."""
    level: Level = "bag"
    observed: bool = False
    """Whether p(z|I) is scored instead of p(y|I)."""


def _with_mil(
    label: str, recipe: RecipeName, values: tuple[float, ...], with_mil: float, num_swapped: int
) -> tuple[Row, Row]:
    """A row of Table 2, whose last column is another run: the same with MIL, for which only `All` was published.

    Args:
        label: the name of the method in the paper.
        recipe: of the run without MIL.
        values: the published numbers of the run without MIL.
        with_mil: the published `All` of the run with MIL.
        num_swapped: how many of five captions are swapped.

    Returns:
        The row without MIL, and the row with it.
    """
    plain = Row(label, recipe, values, num_swapped)
    mil: RecipeName = {"mlcn": "mil", "mlcn-star": "mil-star", "nmn-fi": "mil-nmn-fi", "nmn-fd": "mil-nmn-fd"}[recipe]  # type: ignore[assignment]
    return plain, Row(f"{label} + MIL", mil, (*[None] * 7, with_mil), num_swapped)


TABLE1 = (
    Row("VGG16", "mlcn", (18.01, 34.94, 20.33, 32.8, 19.2, 21.83, 16.16, 28.97)),
    Row("VGG16*", "mlcn-star", (18.1, 35.14, 20.45, 32.86, 19.32, 21.93, 16.31, 29.13)),
    Row("NMN-FI", "nmn-fi", (18.56, 35.91, 20.65, 32.88, 19.85, 21.94, 16.49, 29.72)),
    Row("NMN-FD", "nmn-fd", (18.78, 36.43, 21.14, 32.82, 19.62, 22.13, 16.45, 30.14)),
    Row("MIL", "mil", (20.73, 41.49, 23.93, 33.44, 20.5, 22.57, 16.28, 33.96)),
    Row("MIL*", "mil-star", (20.87, 41.78, 24.08, 33.57, 20.65, 22.77, 16.47, 34.2)),
    Row("MIL-NMN-FI", "mil-nmn-fi", (21.1, 42.17, 24.09, 33.36, 20.98, 22.52, 16.2, 34.47)),
    Row("MIL-NMN-FD", "mil-nmn-fd", (21.59, 42.78, 24.71, 33.74, 21.35, 23.12, 16.62, 35.04)),
    Row("MIL of Fang et al.", None, (20.7, 41.4, 24.9, 32.4, 19.1, 22.8, 16.3, 34.0)),
)
"""COCO 2014, 1,000 words."""

TABLE2 = (
    *_with_mil("VGG16", "mlcn", (17.21, 33.49, 19.47, 32.21, 18.78, 21.47, 15.67, 27.79), 33.19, 1),
    *_with_mil("VGG16*", "mlcn-star", (17.29, 33.63, 19.58, 32.27, 18.94, 21.56, 15.78, 27.92), 33.41, 1),
    *_with_mil("FI", "nmn-fi", (17.76, 34.57, 19.88, 32.49, 19.33, 21.55, 15.89, 28.62), 33.68, 1),
    *_with_mil("FD", "nmn-fd", (18.14, 35.26, 20.48, 32.34, 19.13, 21.82, 15.82, 29.19), 34.41, 1),
    *_with_mil("VGG16", "mlcn", (16.33, 31.88, 18.36, 31.7, 18.02, 20.81, 15.16, 26.46), 32.21, 2),
    *_with_mil("VGG16*", "mlcn-star", (16.44, 32.08, 18.48, 31.75, 18.19, 20.90, 15.21, 26.62), 32.38, 2),
    *_with_mil("FI", "nmn-fi", (16.63, 32.88, 18.78, 32.09, 18.37, 20.85, 15.38, 27.19), 32.58, 2),
    *_with_mil("FD", "nmn-fd", (17.31, 33.94, 19.48, 31.96, 18.46, 21.2, 15.3, 28.06), 33.56, 2),
    *_with_mil("VGG16", "mlcn", (15.05, 29.56, 16.97, 30.81, 17.32, 19.73, 14.06, 24.54), 30.33, 3),
    *_with_mil("VGG16*", "mlcn-star", (15.12, 29.73, 17.07, 30.91, 17.34, 19.82, 14.16, 24.68), 30.5, 3),
    *_with_mil("FI", "nmn-fi", (15.05, 29.91, 16.98, 31.29, 16.97, 19.74, 14.46, 24.78), 30.6, 3),
    *_with_mil("FD", "nmn-fd", (15.96, 31.66, 17.97, 31.19, 17.86, 20.23, 14.67, 26.17), 31.85, 3),
    *_with_mil("VGG16", "mlcn", (12.58, 25.18, 13.61, 29.19, 14.29, 18.11, 12.40, 20.86), 26.95, 4),
    *_with_mil("VGG16*", "mlcn-star", (12.65, 25.3, 13.72, 29.30, 14.40, 18.22, 12.45, 20.96), 27.1, 4),
    *_with_mil("FI", "nmn-fi", (11.1, 23.39, 12.79, 29.61, 13.61, 17.59, 12.26, 19.37), 26.1, 4),
    *_with_mil("FD", "nmn-fd", (13.48, 27.19, 14.71, 29.44, 15.27, 18.62, 12.32, 22.41), 28.5, 4),
    Row("FD, observed", "nmn-fd", (*[None] * 7, 21.98), 4, observed=True),
    Row("FD + MIL, observed", "mil-nmn-fd", (*[None] * 7, 28.22), 4, observed=True),
)
"""COCO 2014 with k of 5 captions swapped."""

TABLE3 = (
    Row("VGG16", "mlcn", (28.82, 37.21, 25.79, 45.3, 31.87, 42.49, 28.63, 33.9), level="frame"),
    Row("VGG16*", "mlcn-star", (28.87, 37.48, 25.88, 45.24, 31.92, 42.52, 28.6, 34.08), level="frame"),
    Row("FI", "nmn-fi", (29.81, 38.34, 26.19, 45.32, 31.49, 43.04, 27.7, 34.8), level="frame"),
    Row("FD", "nmn-fd", (29.52, 37.87, 27.21, 43.51, 31.0, 41.7, 27.32, 34.49), level="frame"),
    Row("MIL", "mil", (26.99, 33.48, 21.87, 41.68, 31.72, 41.23, 26.15, 30.79)),
    Row("MIL*", "mil-star", (26.97, 33.48, 21.9, 41.7, 31.68, 41.25, 26.21, 30.8)),
    Row("MIL-FI", "mil-nmn-fi", (28.0, 35.12, 22.59, 43.01, 31.68, 41.82, 26.6, 32.09)),
    Row("MIL-FD", "mil-nmn-fd", (28.15, 36.36, 24.9, 42.83, 32.94, 41.44, 27.08, 33.08)),
)
"""MSR-VTT 2016, 1,087 words, scored on its 497 validation clips."""

CAPTION_COLUMNS = ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR")

TABLE4 = (
    Row("MIL*", "mil-star", (34.8, 33.9, 56.8, 25.6)),
    Row("MIL-FI", "mil-nmn-fi", (36.5, 36.2, 58.3, 26.4)),
    Row("MIL-FD", "mil-nmn-fd", (34.9, 35.7, 58.2, 26.4)),
    Row("ResNet features", None, (40.0, 38.9, 60.5, 26.9)),
    Row("MIMLL", None, (32.6, 33.7, 56.9, 25.9)),
    Row("Mean-Pooling", None, (35.0, 30.4, 52.0, 23.7)),
    Row("Soft-Attention", None, (37.1, 28.5, 53.3, 25.0)),
    Row("S2VT", None, (35.2, 31.4, 55.9, 25.7)),
    Row("C3D", None, (38.9, 37.4, 59.4, 26.4)),
    Row("not in the paper: VGG19 + S2VT, a public run", None, (38.2, 35.1, 57.1, 25.5)),
    Row("not in the paper: ResNet-152 + mean-pooled LSTM, a public run", None, (41.1, 38.6, 58.3, 26.0)),
)
"""MSR-VTT 2016: sentences of S2VT on concepts, times 100 and in the order of `CAPTION_COLUMNS`, on validation clips.

The paper copied five rows from others. The two public runs bound what to expect: both are above the paper's own best
concepts (MIL-FI) in CIDEr, one of them in BLEU-4, too.
"""

TABLES = {"table1": TABLE1, "table2": TABLE2, "table3": TABLE3, "table4": TABLE4}
