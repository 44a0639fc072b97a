"""Where a tag is seen: the probability of each region over the photo (of a clip: over the frame that shows it most)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from truetag.data.bags import MediaBags
from truetag.data.vocabulary import Vocabulary
from truetag.io.files import replacing
from truetag.io.terminal import Progress
from truetag.media.photos import MediaError, Preprocessing
from truetag.models.classifier import Classifier

MOST_TAGS = 9
_COLUMNS = 5
_PANEL = 2.2  # inches
_PLACELESS = {"DT", "PRP", "IN", "Others"}  # "the" is nowhere
_OPACITY = 0.6


def draw_region_maps(
    classifier: Classifier,
    preprocessing: Preprocessing,
    vocabulary: Vocabulary,
    bags: MediaBags,
    rows: Iterable[dict[str, Any]],
    out: Path,
) -> None:
    """One picture for each row of predictions: the photo, then each of its tags with the regions that speak for it.

    Tags that are articles, prepositions and the like are left out.

    Args:
        classifier: in evaluation mode.
        preprocessing: what it expects of a photo.
        vocabulary: its labels.
        bags: what was predicted.
        rows: id, path, tags and probabilities of those bags that could be used, in their order.
        out: the folder of the pictures.
    """
    positions = iter(range(len(bags)))
    with Progress("drawing", len(bags)) as progress, torch.inference_mode():
        for row in rows:
            position = next(i for i in positions if (bags.ids[i], str(bags.sources[i])) == (row["id"], row["path"]))
            places = [vocabulary.index[tag] for tag in row["tags"]]
            shown = [i for i, place in enumerate(places) if vocabulary.parts_of_speech[place] not in _PLACELESS]
            shown = shown[:MOST_TAGS]
            photos = _read(bags, position)
            pixels = torch.stack([preprocessing(photo) for photo in photos])
            logits = classifier.region_logits(pixels.to(classifier.head.weight.device)).cpu()
            maps = logits[:, :, [places[i] for i in shown]].sigmoid()
            titles = [f"{row['tags'][i]} {100 * row['probabilities'][i]:.0f} %" for i in shown]
            name = quote(row["id"], safe=" .,()[]")[:150]
            _draw(photos, _as_squares(maps), titles, out / f"{name}.png")
            progress.advance(1)


def _read(bags: MediaBags, position: int) -> list[Image.Image]:
    photos = []
    for frame in range(bags.starts[position], bags.starts[position + 1]):
        try:
            photos.append(bags.frames.read(frame))
        except MediaError:
            continue  # it is on the list already
    return photos


def _as_squares(maps: Float[Tensor, "T R K"]) -> Float[Tensor, "T Y X K"]:
    """Regions in rows and columns: photos are squeezed into squares, and so are their feature maps."""
    side = round(maps.shape[1] ** 0.5)
    return maps.unflatten(1, (side, side))


def _draw(
    photos: list[Image.Image],
    maps: Float[Tensor, "T Y X K"],
    titles: Sequence[str],
    path: Path,
) -> None:
    columns, rows = min(len(titles) + 1, _COLUMNS), -(-(len(titles) + 1) // _COLUMNS)
    figure = Figure(figsize=(_PANEL * columns, _PANEL * 1.15 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    panels[0].imshow(photos[0])
    panels[0].set_title("photo" if len(photos) == 1 else f"clip of {len(photos)} frames", fontsize=9)
    for number, (panel, title) in enumerate(zip(panels[1:], titles, strict=False)):
        frame = int(maps[..., number].flatten(1).amax(1).argmax())
        photo, seen = photos[frame], maps[frame, :, :, number]
        panel.imshow(photo.convert("L"), cmap="gray")
        extent = (-0.5, photo.width - 0.5, photo.height - 0.5, -0.5)
        # each map from its own least to its own largest: what is compared is regions, not tags
        panel.imshow(seen.numpy(), cmap="inferno", alpha=_OPACITY, extent=extent, interpolation="bilinear")
        where = f", frame {frame + 1}" if len(photos) > 1 else ""
        panel.set_title(title + where, fontsize=9, parse_math=False)
    for panel in panels:
        panel.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
