"""Issues of whole photos: near-duplicates whose tags differ, and photos that look like no other.

Both come from distances between features of length 1, which rank as cosines do, and from the modified z-score of their
logarithms (Iglewicz and Hoaglin, 1993), 0.6745 (x - median) / (median absolute deviation): the scale comes from the
photos themselves. Unusually far is a score above 3.5. Unusually near is a score that less than one photo is expected to
have by chance: where photos lie evenly, x is the logarithm of an exponential variable, scaled and shifted, whose lower
tail is long. The scores say how unusual a distance is, and nothing of how probable a mistake is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from truetag.audit.decisions import PHOTO_KINDS
from truetag.io.terminal import Progress

NUM_NEIGHBOURS = 10
"""An outlier is far from the tenth nearest photo: a few others of its kind do not hide it."""
FEWEST_PHOTOS = 100
"""With fewer, distances have no scale: exact copies alone are found."""
CUT = 3.5
_SCORE_OF_UNIT = 0.88
"""The modified z-score of 1 in the logarithm of an exponential variable, whose median absolute deviation is 0.767."""
NEAR_DUPLICATE, OUTLIER = PHOTO_KINDS
_ROWS_AT_A_TIME, _COLUMNS_AT_A_TIME = 1024, 16384


@dataclass(frozen=True)
class PhotoIssue:
    """A photo to look at."""

    kind: str
    row: int
    other: int | None
    """The near-duplicate; None for an outlier."""
    text: str


def find_photo_issues(
    features: Float[Tensor, "N D"], labels: Float[Tensor, "N K"], names: Sequence[str], ids: Sequence[str]
) -> list[PhotoIssue]:
    """Near-duplicates whose tags differ, the nearest first, both of a pair together; then outliers, the farthest first.

    Args:
        features: of the photos.
        labels: 1, 0, and -1 for unknown, which differs from nothing.
        names: of the K labels.
        ids: of the N photos.
    """
    num_photos = len(features)
    if num_photos < 2:
        return []
    distances, nearest = nearest_neighbours(features, min(NUM_NEIGHBOURS, num_photos - 1))
    first, last = distances[:, 0], distances[:, -1]
    found: list[PhotoIssue] = []
    listed: set[int] = set()
    # the lower tail of such a logarithm, t below its median, has the probability ln 2 exp(-t)
    by_chance = max(CUT, _SCORE_OF_UNIT * math.log(math.log(2) * num_photos))
    closest = np.flatnonzero((first == 0) | (_deviations(first) < -by_chance))
    for row in closest[np.argsort(first[closest], kind="stable")].tolist():
        other = int(nearest[row, 0])
        if (labels[row] * labels[other] >= 0).logical_and(labels[row] != labels[other]).any():
            for one, two in ((row, other), (other, row)):
                if one not in listed:
                    listed.add(one)
                    likeness = "copy of" if first[row] == 0 else "nearly the same as"
                    text = f"{likeness} {ids[two]}; {_difference(labels[one], labels[two], names)}"
                    found.append(PhotoIssue(NEAR_DUPLICATE, one, two, text))
    deviations = _deviations(last)
    for row in np.argsort(-deviations, kind="stable")[: int((deviations > CUT).sum())].tolist():
        found.append(PhotoIssue(OUTLIER, row, None, "looks like no other photo"))
    return found


def nearest_neighbours(
    features: Float[Tensor, "N D"], count: int
) -> tuple[Float64[np.ndarray, "N A"], Int64[np.ndarray, "N A"]]:
    """The distances to the nearest other rows of features, all scaled to length 1, and which rows these are.

    Memory grows with N, not with N^2: a block of rows meets a block of others at a time.

    >>> nearest_neighbours(torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 5.0]]), 1)[1].ravel().tolist()
    [1, 0, 1]
    """
    directions = functional.normalize(features.float(), dim=1)  # N D
    squares = directions.square().sum(1)  # N: 1, but 0 where all features are 0
    num_rows = len(directions)
    distances = np.empty((num_rows, count))
    nearest = np.empty((num_rows, count), dtype=np.int64)
    with Progress("comparing photos", num_rows) as progress:
        for start in range(0, num_rows, _ROWS_AT_A_TIME):
            rows = torch.arange(start, min(start + _ROWS_AT_A_TIME, num_rows), device=directions.device)
            block = directions[rows]  # A D
            values = torch.full((len(rows), 0), math.inf, device=directions.device)
            indices = torch.zeros(len(rows), 0, dtype=torch.int64, device=directions.device)
            for other in range(0, num_rows, _COLUMNS_AT_A_TIME):
                columns = torch.arange(other, min(other + _COLUMNS_AT_A_TIME, num_rows), device=directions.device)
                # the square of a row's own length is the same for all others
                gap = torch.addmm(squares[columns], block, directions[columns].T, alpha=-2)  # A C
                gap.masked_fill_(rows.unsqueeze(1) == columns, math.inf)
                best = gap.topk(min(count, len(columns)), largest=False)
                values = torch.cat([values, best.values], 1)
                indices = torch.cat([indices, columns[best.indices]], 1)
                chosen = values.topk(min(count, values.shape[1]), largest=False).indices
                values, indices = values.gather(1, chosen), indices.gather(1, chosen)
            # again from the differences, in which nothing cancels: copies are at 0
            exact = (block.unsqueeze(1) - directions[indices]).norm(dim=2)
            order = exact.argsort(dim=1, stable=True)
            distances[start : start + len(rows)] = exact.gather(1, order).cpu().numpy()
            nearest[start : start + len(rows)] = indices.gather(1, order).cpu().numpy()
            progress.advance(len(rows))
    return distances, nearest


def _deviations(distances: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """The modified z-score of each logarithm, among those of distances above 0; 0 where there is no scale."""
    positive = distances > 0
    deviations = np.zeros(len(distances))
    if positive.sum() >= FEWEST_PHOTOS:
        logs = np.log(distances[positive])
        centre = np.median(logs)
        spread = np.median(np.abs(logs - centre))
        if spread > 0:
            deviations[positive] = 0.6745 * (logs - centre) / spread
    return deviations


def _difference(here: Float[Tensor, "K"], there: Float[Tensor, "K"], names: Sequence[str]) -> str:
    """The tags that one of two photos has alone."""
    parts = []
    for place, one, two in (("here", here, there), ("there", there, here)):
        columns: list[int] = ((one == 1) & (two == 0)).nonzero().flatten().tolist()
        if columns:
            parts.append(f"only {place}: {', '.join(names[column] for column in columns)}")
    return "; ".join(parts)
