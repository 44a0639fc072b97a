"""Where a tag is seen: the probability of each region, drawn over the photo or over a clip's most telling frame."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from truetag.data.bags import MediaBags
from truetag.data.vocabulary import Vocabulary, function_words
from truetag.io.files import readable, replacing
from truetag.io.terminal import Progress
from truetag.media.photos import MediaError
from truetag.media.preprocessing import Preprocessing
from truetag.models.classifier import Classifier

MOST_TAGS = 9
_COLUMNS = 5
_PANEL = 2.2  # inches
_OPACITY = 0.6
_NOT_MIL = (
    "This run learnt from whole photos: nothing taught its regions where a tag is. Train a recipe mil .. for that."
)


def draw_region_maps(
    classifier: Classifier,
    preprocessing: Preprocessing,
    vocabulary: Vocabulary,
    bags: MediaBags,
    rows: Iterable[dict[str, Any]],
    out: Path,
) -> None:
    """Draw a picture for each row of predictions: the photo, then each of its tags over the regions that show it.

    Colours mean the same in all pictures, from 0 to 1. Tags that have no place in a photo, such as articles and
    prepositions, are left out.

    Args:
        classifier: in evaluation mode.
        preprocessing: what the classifier expects of a photo.
        vocabulary: the classifier's labels.
        bags: all bags of the prediction.
        rows: id, path, tags and probabilities of the bags that can be used, in the order of the bags.
        out: the folder of the pictures.
    """
    indices = iter(range(len(bags)))
    placeless = set(function_words(vocabulary))  # "the" is nowhere to be seen
    note = _NOT_MIL if classifier.pooling == "mean" else ""
    with Progress("drawing", len(bags)) as progress, torch.inference_mode():
        for row in rows:
            index = next(i for i in indices if (bags.ids[i], readable(str(bags.paths[i]))) == (row["id"], row["path"]))
            labels = [vocabulary.index[tag] for tag in row["tags"]]
            drawn = [i for i, tag in enumerate(row["tags"]) if tag not in placeless][:MOST_TAGS]
            photos = _read(bags, index)
            pixels = torch.stack([preprocessing(photo) for photo in photos])  # [T, 3, H, W]
            logits = classifier.region_logits(pixels.to(classifier.head.weight.device)).cpu()  # [T, R, K]
            maps = logits[:, :, [labels[i] for i in drawn]].sigmoid()
            titles = [f"{row['tags'][i]} {100 * row['probabilities'][i]:.0f} %" for i in drawn]
            name = quote(row["id"], safe=" .,()[]")[:150]
            _draw(photos, _as_squares(maps), titles, note, out / f"{name}.png")
            progress.advance(1)


def _read(bags: MediaBags, index: int) -> list[Image.Image]:
    photos = []
    for frame in bags.frames_of(index):
        try:
            photos.append(bags.frames.read(frame))
        except MediaError:
            continue  # the prediction has listed it
    return photos


def _as_squares(maps: Float[Tensor, "T R K"]) -> Float[Tensor, "T Y X K"]:
    """Arrange regions in rows and columns: photos are squeezed into squares, so feature maps are squares."""
    side = round(maps.shape[1] ** 0.5)
    return maps.unflatten(1, (side, side))


def _draw(
    photos: list[Image.Image], maps: Float[Tensor, "T Y X K"], titles: Sequence[str], note: str, path: Path
) -> None:
    """Draw one picture.

    Args:
        photos: the frames of the bag.
        maps: the probability of each region, for each drawn tag.
        titles: the titles of the drawn tags.
        note: what to say below the picture.
        path: the picture.
    """
    columns, rows = min(len(titles) + 1, _COLUMNS), -(-(len(titles) + 1) // _COLUMNS)
    figure = Figure(figsize=(_PANEL * columns, _PANEL * 1.15 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    panels[0].imshow(photos[0])
    panels[0].set_title("photo" if len(photos) == 1 else f"clip of {len(photos)} frames", fontsize=9)
    for number, (panel, title) in enumerate(zip(panels[1:], titles, strict=False)):
        frame = int(maps[..., number].flatten(1).amax(1).argmax())
        photo, tag_map = photos[frame], maps[frame, :, :, number]  # [Y, X]
        panel.imshow(photo)
        extent = (-0.5, photo.width - 0.5, photo.height - 0.5, -0.5)
        colours = {"cmap": "inferno", "vmin": 0, "vmax": 1, "alpha": _OPACITY}
        shown = panel.imshow(tag_map.numpy(), **colours, extent=extent, interpolation="bilinear")
        if number == 0:
            bar = figure.colorbar(shown, ax=panels.tolist(), shrink=0.7, aspect=30, pad=0.01)
            bar.ax.tick_params(labelsize=7)
        suffix = f", frame {frame + 1}" if len(photos) > 1 else ""
        panel.set_title(title + suffix, fontsize=9, parse_math=False)
    for panel in panels:
        panel.set_axis_off()
    if note:
        figure.supxlabel(fill(note, 22 * columns), fontsize=7, color="#5d6778")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
