"""Moving clips: drawn scenes one after another, in each of which the camera moves in, with the captions of all scenes.

A word therefore holds in only some of the frames, as in Section 2.4 of the paper.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image

from truetag.data.manifest import Row, iterate_rows, write_manifest
from truetag.demo.scenes import WORDS, draw_scenes
from truetag.errors import InputError
from truetag.io.files import replacing

FRAMES_PER_SECOND = 12


def draw_clips(
    folder: Path,
    num_train: int,
    num_validation: int,
    num_test: int,
    *,
    size: int = 64,
    seed: int = 0,
    scenes_per_clip: int = 2,
    frames_per_scene: int = 13,
) -> Path:
    """Draw scenes, film them into `folder`/clips, write the manifest `folder`/clips.jsonl and return its path.

    Args:
        folder: made if it is missing; it also holds the scenes, with a manifest of their own.
        num_train: clips of the split `train`.
        num_validation: clips of the split `validation`.
        num_test: clips of the split `test`.
        size: side of a frame, pixels.
        seed: names the whole data set.
        scenes_per_clip: the number of scenes, one after another.
        frames_per_scene: the number of frames of each scene; the first frame shows all of it.

    Raises:
        InputError: `draw_scenes` raises it, the size is odd, or a clip has no scenes or no frames.
    """
    if size % 2 or scenes_per_clip < 1 or frames_per_scene < 1:
        got = f"{size}, {scenes_per_clip} and {frames_per_scene}"
        raise InputError(f"expected an even size, scenes_per_clip >= 1 and frames_per_scene >= 1, got {got}")
    counts = [scenes_per_clip * count for count in (num_train, num_validation, num_test)]
    scenes = draw_scenes(folder, *counts, size=size, seed=seed)

    def rows() -> Iterator[Row]:
        drawn = list(iterate_rows(scenes))
        for first in range(0, len(drawn), scenes_per_clip):
            parts = drawn[
                first : first + scenes_per_clip
            ]  # all of one split, since a split has a whole number of clips
            name = parts[0]["id"].replace("-", "-clip-")
            rng = np.random.default_rng([seed, *name.encode()])
            photos = [Image.open(folder / part["image"]) for part in parts]
            shown = (approach(photo, rng, frames_per_scene, size) for photo in photos)
            write_clip(folder / "clips" / f"{name}.mp4", chain.from_iterable(shown))
            true = {word for part in parts for word in part["true_tags"]}
            row: Row = {"id": name, "video": f"clips/{name}.mp4", "split": parts[0]["split"]}
            row["captions"] = [caption for part in parts for caption in part["captions"]]
            yield row | {"true_tags": [word for word in WORDS if word in true]}

    path = folder / "clips.jsonl"
    write_manifest(path, rows())
    return path


def approach(photo: Image.Image, rng: np.random.Generator, num_frames: int, size: int) -> Iterator[Image.Image]:
    """The whole photo, then less and less of it, down to a random window of 60 to 90 % of each side.

    Args:
        photo: to approach.
        rng: draws the window.
        num_frames: how many frames.
        size: side of each frame in pixels.
    """
    side, (x, y) = rng.uniform(0.6, 0.9), rng.random(2)
    for time in np.linspace(0, 1, num_frames).tolist():
        width, height = (length * (1 + time * (side - 1)) for length in photo.size)
        left, top = x * (photo.width - width), y * (photo.height - height)
        box = (left, top, left + width, top + height)
        yield photo.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box)


def write_clip(path: Path, frames: Iterable[Image.Image], rate: int = FRAMES_PER_SECOND) -> None:
    """Write frames of one size as an MP4, all of it or nothing; the same frames give the same bytes."""
    # macroblock-tree rate control reads memory that it never set: its bytes differ from call to call
    codec, options = ("libx264", {"x264-params": "mbtree=0"}) if "libx264" in av.codecs_available else ("mpeg4", {})
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.codec_context.thread_count = 1  # on which the bytes depend
        for number, photo in enumerate(frames):
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = photo.width, photo.height, "yuv420p"
            frame = av.VideoFrame.from_image(photo)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
