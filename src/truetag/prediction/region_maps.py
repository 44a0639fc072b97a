"""Where a tag is seen: the photo, or a clip's most telling frame, lit where the tag is probable."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from truetag.data.bags import MediaBags
from truetag.data.vocabulary import Vocabulary, function_words
from truetag.io.files import readable, replacing
from truetag.io.terminal import Progress
from truetag.media.clips import CLIP_SUFFIXES, NUM_FRAMES, frame_times
from truetag.media.photos import MediaError
from truetag.media.preprocessing import Preprocessing
from truetag.models.classifier import Classifier

MOST_TAGS = 9
_COLUMNS = 5
_PANEL = 2.2  # inches
_DIM = 0.3  # the brightness of a place without the tag
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
    num_frames: int = NUM_FRAMES,
) -> None:
    """Draw a picture for each row of predictions: the photo, then each of its tags over the regions that show it.

    The photo keeps its colours; its brightness is the probability, from 0 to 1 in all pictures. A frame marks the
    likeliest region, and the title of a clip's tag says when it is seen. Tags that have no place in a photo, such as
    articles and prepositions, are left out.

    Args:
        classifier: in evaluation mode.
        preprocessing: what the classifier expects of a photo.
        vocabulary: the classifier's labels.
        bags: all bags of the prediction.
        rows: id, path, tags and probabilities of the bags that can be used, in the order of the bags.
        out: the folder of the pictures.
        num_frames: how many frames each clip was cut into.
    """
    indices = iter(range(len(bags)))
    placeless = set(function_words(vocabulary))  # "the" is nowhere to be seen
    note = _NOT_MIL if classifier.pooling == "mean" else ""
    with Progress("drawing", len(bags)) as progress, torch.inference_mode():
        for row in rows:
            index = next(i for i in indices if (bags.ids[i], readable(str(bags.paths[i]))) == (row["id"], row["path"]))
            labels = [vocabulary.index[tag] for tag in row["tags"]]
            drawn = [i for i, tag in enumerate(row["tags"]) if tag not in placeless][:MOST_TAGS]
            frames = _read(bags, index)
            pixels = torch.stack([preprocessing(frame.photo) for frame in frames])  # [T, 3, H, W]
            logits = classifier.region_logits(pixels.to(classifier.head.weight.device)).cpu()  # [T, R, K]
            maps = logits[:, :, [labels[i] for i in drawn]].sigmoid()
            titles = [f"{row['tags'][i]} {100 * row['probabilities'][i]:.0f} %" for i in drawn]
            name = quote(row["id"], safe=" .,()[]")[:150]
            moments = _moments(bags, index, num_frames)
            _draw(frames, _as_squares(maps), titles, moments, note, out / f"{name}.png")
            progress.advance(1)


class _Frame(NamedTuple):
    """A frame that could be read, and its number among the frames of its bag."""

    photo: Image.Image
    number: int


def _read(bags: MediaBags, index: int) -> list[_Frame]:
    frames = []
    for number, frame in enumerate(bags.frames_of(index)):
        with suppress(MediaError):  # the prediction has listed it
            frames.append(_Frame(bags.frames.read(frame), number))
    return frames


def _moments(bags: MediaBags, index: int, num_frames: int) -> list[str]:
    """What to call each frame of a bag: its time in a clip (without it, its number), nothing for a single photo."""
    count = len(bags.frames_of(index))
    path = bags.paths[index]
    if path.suffix.lower() in CLIP_SUFFIXES:
        with suppress(MediaError):
            times = frame_times(path, num_frames)
            if len(times) == count:  # fewer were kept if some are broken
                return [f", at {seconds:.1f} s" for seconds in times]
    return [f", frame {number + 1}" for number in range(count)] if count > 1 else [""] * count


def _as_squares(maps: Float[Tensor, "T R K"]) -> Float[Tensor, "T Y X K"]:
    """Arrange regions in rows and columns: photos are squeezed into squares, so feature maps are squares."""
    side = round(maps.shape[1] ** 0.5)
    return maps.unflatten(1, (side, side))


def _lit(photo: Image.Image, tag_map: Float[np.ndarray, "Y X"]) -> Float[np.ndarray, "H W 3"]:
    """The photo in its own colours, as bright in each place as the tag is probable there: `_DIM` at 0, whole at 1."""
    smooth = Image.fromarray(tag_map.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    light = _DIM + (1 - _DIM) * np.asarray(smooth).clip(0, 1)
    return np.asarray(photo.convert("RGB")) / 255 * light[..., None]


def _draw(
    frames: Sequence[_Frame],
    maps: Float[Tensor, "T Y X K"],
    titles: Sequence[str],
    moments: Sequence[str],
    note: str,
    path: Path,
) -> None:
    """Draw one picture.

    Args:
        frames: those of the bag that could be read.
        maps: the probability of each region, for each drawn tag.
        titles: the titles of the drawn tags.
        moments: what to call each frame of the bag.
        note: what to say below the picture.
        path: the picture.
    """
    columns, rows = min(len(titles) + 1, _COLUMNS), -(-(len(titles) + 1) // _COLUMNS)
    figure = Figure(figsize=(_PANEL * columns, _PANEL * 1.15 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    panels[0].imshow(frames[0].photo)
    panels[0].set_title("photo" if len(moments) == 1 else f"clip of {len(moments)} frames", fontsize=9)
    for number, (panel, title) in enumerate(zip(panels[1:], titles, strict=False)):
        most = int(maps[..., number].flatten(1).amax(1).argmax())
        photo, tag_map = frames[most].photo, maps[most, :, :, number].numpy()  # [Y, X]
        panel.imshow(_lit(photo, tag_map))
        height, width = photo.height / tag_map.shape[0], photo.width / tag_map.shape[1]
        y, x = np.unravel_index(tag_map.argmax(), tag_map.shape)
        for line, colour in ((2.5, "black"), (1.2, "white")):  # to be seen on any photo
            corner = (x * width - 0.5, y * height - 0.5)
            panel.add_patch(Rectangle(corner, width, height, fill=False, linewidth=line, edgecolor=colour))
        panel.set_title(title + moments[frames[most].number], fontsize=9, parse_math=False)
    if titles:
        scale = ScalarMappable(Normalize(0, 1), LinearSegmentedColormap.from_list("light", [(_DIM,) * 3, (1, 1, 1)]))
        bar = figure.colorbar(scale, ax=panels.tolist(), shrink=0.7, aspect=30, pad=0.01)
        bar.set_label("probability; framed: the likeliest region", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    for panel in panels:
        panel.set_axis_off()
    if note:
        figure.supxlabel(fill(note, 22 * columns), fontsize=7, color="#5d6778")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
