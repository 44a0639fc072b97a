"""Tiny clips whose frames are flat greys, so that the brightness of a frame shows its index."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

MILLISECOND = Fraction(1, 1000)


def flat(level, size=(32, 32)):
    return Image.new("RGB", size, (level, level, level))


def make_clip(
    path: Path,
    photos,
    *,
    times=None,
    codec="libx264",
    kind=None,
    pixels="yuv420p",
    options=None,
    rate=10,
    sound=0.0,
) -> Path:
    """A clip of photos (or grey levels), `rate` a second or at `times` in milliseconds, with seconds of silence."""
    photos = [photo if isinstance(photo, Image.Image) else flat(photo) for photo in photos]
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *photos[0].size, pixels
        if times is not None:
            stream.codec_context.time_base = MILLISECOND
        silence = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, photo in enumerate(photos):
            frame = av.VideoFrame.from_ndarray(np.asarray(photo), "rgba" if photo.mode == "RGBA" else "rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate) if times is None else MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if silence is not None:
            for start in range(0, int(sound * 8000), 1024):
                heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                heard.sample_rate, heard.pts = 8000, start
                container.mux(silence.encode(heard))
            container.mux(silence.encode(None))
    return path


def levels(photos):
    """The brightness of each."""
    return [round(float(np.asarray(photo).mean())) for photo in photos]
