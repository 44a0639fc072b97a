"""Drawn photos of coloured things in places, captioned by simulated annotators: the embedded data of `truetag demo`.

The full truth of a photo is known because the photo is drawn from it. Its annotators see the same truth and mention
part of it: they often mention what is big, and seldom a hypernym ("vehicle") or a relation (missing tags); now and then
they use a close word instead, and some captions describe another picture (incorrect tags). Words for colours and sizes
describe things, never the place. Lengths are fractions of the photo's side; y grows downwards.
"""

import colorsys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageOps

from truetag.data.manifest import Row, write_manifest
from truetag.errors import InputError

# word -> part of speech, in the columns of the paper
WORDS: dict[str, str] = {
    word: part
    for part, words in {
        "NN": "grass beach desert snow room street water sand sky night sun moon ball kite balloon car boat plane "
        "house tree flower fish bird cat dog man woman cup toy vehicle plant animal person",
        "JJ": "red orange yellow green blue purple pink white black big small striped spotted",
        "VB": "flying floating swimming standing parked raining",
        "IN": "on in above beside behind",
        "PRP": "his her",
        "DT": "another",
        "Others": "alone",
    }.items()
    for word in words.split()
}
# what an annotator says instead, by mistake
CLOSE: dict[str, str] = {"red": "orange", "orange": "red", "yellow": "orange", "green": "blue", "blue": "purple"}
CLOSE |= {"purple": "blue", "pink": "red", "white": "yellow", "black": "blue", "man": "woman", "woman": "man"}
CLOSE |= {"cat": "dog", "dog": "cat", "balloon": "ball", "ball": "balloon", "kite": "bird", "bird": "plane"}
CLOSE |= {"plane": "bird", "flower": "tree", "tree": "flower", "sun": "moon", "moon": "sun"}
_WRONG_WORD_RATE = 0.03


@dataclass(frozen=True)
class _Place:
    """The words that hold there, the phrases that name it (the most frequent first), and its two colours."""

    weight: float
    words: str
    phrases: str
    far: str
    near: str


_DAY = "#b0c8de"
_PLACES = {
    "grass": _Place(0.3, "grass sky in", "in the grass", _DAY, "#609446"),
    "street": _Place(0.2, "street sky on", "on the street", _DAY, "#7a7876"),
    "beach": _Place(0.16, "beach sand water sky on", "on the beach|by the water|on the sand", _DAY, "#deca96"),
    "room": _Place(0.14, "room in", "in the room", "#cec0ae", "#8e6648"),
    "water": _Place(0.1, "water sky on", "on the water", _DAY, "#4074a0"),
    "snow": _Place(0.06, "snow sky in", "in the snow", _DAY, "#e6eaf0"),
    "desert": _Place(0.04, "desert sand sky in", "in the desert|in the sand", _DAY, "#d6b276"),
}
# the kinds of things there, the most frequent first
_FOUND = {
    "grass": "tree man ball dog house flower woman bird kite car cat balloon plane",
    "street": "car man house woman tree dog bird cat ball plane balloon",
    "beach": "ball woman man boat dog kite bird balloon cup plane house",
    "room": "cup cat flower woman ball man dog",
    "water": "boat fish bird ball plane kite",
    "snow": "man tree house dog woman car bird",
    "desert": "car plane house man bird flower balloon",
}
_HYPERNYMS = {"ball": "toy", "kite": "toy", "balloon": "toy", "car": "vehicle", "boat": "vehicle", "plane": "vehicle"}
_HYPERNYMS |= {"tree": "plant", "flower": "plant", "fish": "animal", "bird": "animal", "cat": "animal", "dog": "animal"}
_HYPERNYMS |= {"man": "person", "woman": "person"}
_PRONOUNS = {"man": "his", "woman": "her"}
_ACTIVITIES = {"kite": "flying", "balloon": "flying", "plane": "flying", "bird": "flying", "boat": "floating"}
_ACTIVITIES |= {"fish": "swimming", "car": "parked", "man": "standing", "woman": "standing"}
_ACTIVITIES |= {"cat": "standing", "dog": "standing"}
# hue (degrees), saturation, brightness; the most frequent first
_COLOURS = {"red": (0, 0.85, 0.82), "blue": (222, 0.75, 0.78), "green": (125, 0.65, 0.6), "white": (40, 0.04, 0.96)}
_COLOURS |= {"yellow": (52, 0.85, 0.92), "black": (240, 0.2, 0.14), "orange": (24, 0.88, 0.9)}
_COLOURS |= {"pink": (342, 0.48, 0.93), "purple": (280, 0.6, 0.62)}
# a kind's favourite colour, and the probability of it before any other is considered
_TYPICAL = {"tree": ("green", 0.7), "plane": ("white", 0.5), "boat": ("white", 0.3), "bird": ("black", 0.4)}
_TYPICAL |= {"cat": ("black", 0.4), "dog": ("orange", 0.3), "cup": ("white", 0.4), "house": ("white", 0.3)}
_SIZES = {"small": (0.15, 0.2), "": (0.24, 0.38), "big": (0.44, 0.6)}
# the probability that a thing of this size is mentioned, and the factor by which some kinds are mentioned less
_SALIENCE = {"small": 0.4, "": 0.75, "big": 0.95}
_NOTICE = {"tree": 0.6, "flower": 0.6, "bird": 0.7, "house": 0.8, "cup": 0.8}
# ellipse, rectangle, polygon or line, corners in 99ths of the side; without a paint it has the thing's colour
_PAINTS = {"dark": "#282828", "pale": "#dce6eb", "skin": "#d8aa88", "wood": "#785032", "stem": "#3c823c"}
_SHAPES = {
    "ball": "e 8 16 92 99",
    "kite": "p 50 0 86 36 50 84 14 36; dark l 50 84 58 92 50 99",
    "balloon": "e 20 0 80 70; dark l 50 70 47 85 52 99",
    "car": "r 0 55 99 85; p 15 56 30 28 70 28 85 56; pale r 32 36 68 53; dark e 12 74 36 99; dark e 64 74 88 99",
    "boat": "p 0 66 99 66 80 99 20 99; wood l 45 66 45 0; pale p 50 2 50 58 90 58",
    "plane": "e 0 40 99 62; p 40 50 62 50 42 95 30 95; p 0 14 14 14 24 50 5 50; dark l 40 48 85 48",
    "house": "r 10 42 90 99; wood p 0 44 50 4 99 44; dark r 42 68 58 99; pale r 20 54 34 68; pale r 66 54 80 68",
    "tree": "e 10 0 90 50; e 16 20 84 72; wood r 43 70 57 99",
    "flower": "e 36 0 64 30; e 36 34 64 64; e 17 18 47 46; e 53 18 83 46; stem l 50 62 50 99; wood e 40 22 60 42",
    "fish": "e 0 28 74 76; p 64 52 99 28 99 76; dark e 14 42 22 50",
    "bird": "e 16 44 76 72; p 32 52 36 6 60 52; e 66 34 90 58; wood p 88 42 99 47 88 52",
    "cat": "e 16 44 74 84; e 58 22 94 58; p 60 32 62 8 76 26; p 78 26 90 8 92 34; r 24 74 34 99; r 58 74 68 99",
    "dog": "e 14 42 74 78; e 58 18 86 56; r 76 34 99 50; r 20 66 32 99; r 56 66 68 99; dark e 58 22 70 54",
    "man": "r 30 26 70 66; skin e 38 0 62 26; dark r 33 66 47 99; dark r 53 66 67 99",
    "woman": "p 40 26 60 26 76 80 24 80; wood e 34 0 66 34; skin e 40 4 60 26; skin r 38 80 46 99; skin r 54 80 62 99",
    "cup": "p 12 30 74 30 68 99 18 99; l 70 44 94 48 90 72 68 78; dark e 14 26 72 36",
}


@dataclass(frozen=True)
class _Thing:
    """A kind with a colour, a size and a texture; (x, y) is the middle of its lower edge, `extent` its side."""

    kind: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    extent: float

    @property
    def activity(self) -> str:
        return _ACTIVITIES.get(self.kind, "")


@dataclass(frozen=True)
class _Scene:
    """Everything that a caption can mention; things are in drawing order, from far to near."""

    place: str
    night: bool
    raining: bool
    light: str
    horizon: float
    things: tuple[_Thing, ...]


def draw_scenes(
    folder: Path,
    num_train: int,
    num_validation: int,
    num_test: int,
    *,
    size: int = 64,
    seed: int = 0,
    captions_per_scene: int = 5,
    wrong_picture_rate: float = 0.05,
) -> Path:
    """Draw the photos into `folder`/photos and write `folder`/scenes.jsonl, the manifest whose path is returned.

    A scene depends on the seed, its split and its number alone: a longer split starts with the shorter one. Neither the
    captions' settings nor another split's length change a photo.

    Args:
        folder: Made if it is missing.
        num_train: Scenes of the split `train`.
        num_validation: Scenes of the split `validation`.
        num_test: Scenes of the split `test`.
        size: Side of a photo, pixels.
        seed: Names the whole data set.
        captions_per_scene: Annotators of each photo.
        wrong_picture_rate: Probability that a caption describes another picture.

    Raises:
        InputError: a number of scenes is negative or all are zero, there are no captions, a photo is smaller than
            16 pixels, the seed is negative, or the rate is no probability.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = draw_scenes(Path(folder), 2, 1, 1)
    ...     path.name, len(path.read_text().splitlines())
    ('scenes.jsonl', 4)
    """
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    if min(counts.values()) < 0 or not any(counts.values()):
        raise InputError(f"expected numbers of scenes >= 0, not all 0, got {counts}")
    if size < 16 or captions_per_scene < 1 or seed < 0:
        got = f"{size}, {captions_per_scene} and {seed}"
        raise InputError(f"expected size >= 16, captions_per_scene >= 1 and seed >= 0, got {got}")
    if not 0 <= wrong_picture_rate <= 1:
        raise InputError(f"expected wrong_picture_rate in 0..1, got {wrong_picture_rate}")

    def rows() -> Iterator[Row]:
        for number, (split, count) in enumerate(counts.items()):
            for i in range(count):
                scene_rng, paint_rng, caption_rng = np.random.default_rng((seed, number, i)).spawn(3)
                scene, name = _imagine(scene_rng), f"{split}-{i:05d}"
                _paint(paint_rng, scene, size).save(folder / "photos" / f"{name}.jpg", quality=85)
                # a wrong picture is any other scene: it need not be in the data
                captions = []
                for _ in range(captions_per_scene):
                    described = _imagine(caption_rng) if caption_rng.random() < wrong_picture_rate else scene
                    captions.append(_Annotator(caption_rng, caption_rng.uniform(0.6, 1.1)).caption(described))
                row: Row = {"id": name, "image": f"photos/{name}.jpg", "captions": captions, "split": split}
                yield row | {"true_tags": _true_tags(scene)}

    (folder / "photos").mkdir(parents=True, exist_ok=True)
    path = folder / "scenes.jsonl"
    write_manifest(path, rows())
    return path


def _pick(rng: np.random.Generator, names: Iterable[str], weights: Iterable[float] | None = None) -> str:
    """One of the names; without weights each is less likely than the one before it."""
    names = tuple(names)
    cumulative = np.cumsum(tuple(weights) if weights else 1 / np.arange(1.5, len(names) + 1))
    return names[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]


def _imagine(rng: np.random.Generator) -> _Scene:
    place = _pick(rng, _PLACES, (place.weight for place in _PLACES.values()))
    outside = place != "room"
    night, raining = bool(outside and rng.random() < 0.12), bool(outside and rng.random() < 0.05)
    lit = outside and not raining and rng.random() < (0.4 if night else 0.15)
    horizon, things = rng.uniform(0.36, 0.56), list[_Thing]()
    for _ in range(int(_pick(rng, "1234", (0.32, 0.36, 0.2, 0.12)))):
        kind = _pick(rng, _FOUND[place].split())
        typical, rate = _TYPICAL.get(kind, ("", 0.0))
        colour = typical if rng.random() < rate else _pick(rng, _COLOURS)
        size = _pick(rng, ("", "small", "big"), (0.62, 0.2, 0.18))
        texture = _pick(rng, ("", "striped", "spotted"), (0.91, 0.06, 0.03))
        for _ in range(8):
            extent, x = rng.uniform(*_SIZES[size]), rng.uniform(0.12, 0.88)
            match _ACTIVITIES.get(kind):
                case "flying":
                    low, high = extent + 0.02, max(extent, horizon) + 0.02
                case "swimming":
                    low, high = min(horizon + extent, 0.98), 0.98
                case "floating" if place == "beach":
                    low, high = horizon + 0.06, horizon + 0.12
                case _:
                    low, high = horizon + 0.12, 0.98
            thing = _Thing(kind, colour, size, texture, x, rng.uniform(low, high), extent)
            if all(_overlap(thing, other) < 0.45 for other in things):
                things.append(thing)
                break
    light = ("moon" if night else "sun") if lit else ""
    return _Scene(place, night, raining, light, horizon, tuple(sorted(things, key=lambda thing: thing.y)))


def _overlap(a: _Thing, b: _Thing) -> float:
    """The area that the two boxes share, as a fraction of the smaller one."""
    width = min(a.x + a.extent / 2, b.x + b.extent / 2) - max(a.x - a.extent / 2, b.x - b.extent / 2)
    height = min(a.y, b.y) - max(a.y - a.extent, b.y - b.extent)
    return max(width, 0) * max(height, 0) / min(a.extent, b.extent) ** 2


def _relation(a: _Thing, b: _Thing) -> str:
    """The relation of a to b: above, behind, beside, or an empty string."""
    if "flying" in (a.activity, b.activity):
        over = b.activity != "flying" and abs(a.x - b.x) < 0.2 and a.y < b.y - b.extent / 2
        return "above" if over else ""
    if _overlap(a, b) > 0.08:
        return "behind" if a.y < b.y else ""
    return "beside" if abs(a.x - b.x) < (a.extent + b.extent) / 2 + 0.12 and abs(a.y - b.y) < 0.12 else ""


def _true_tags(scene: _Scene) -> list[str]:
    """Every word that holds, mentioned or not, in the order of WORDS."""
    things = scene.things
    true = {scene.light, "night" * scene.night, "raining" * scene.raining, *_PLACES[scene.place].words.split()}
    for thing in things:
        true |= {thing.kind, _HYPERNYMS.get(thing.kind, ""), thing.colour, thing.size, thing.texture, thing.activity}
        # in the sky, in the water, in a coat
        true |= {"in"} if thing.activity in ("flying", "swimming") or thing.kind in _PRONOUNS else set()
    if any(thing.kind not in _PRONOUNS for thing in things):
        true |= {_PRONOUNS.get(thing.kind, "") for thing in things}
    true |= {_relation(a, b) for a in things for b in things if a is not b}
    true |= {"alone"} if len(things) == 1 else set()
    true |= {"another"} if len({thing.kind for thing in things}) < len(things) else set()
    return [word for word in WORDS if word in true]


@dataclass(frozen=True)
class _Annotator:
    """The writer of one caption, with a degree of care (1 is usual)."""

    rng: np.random.Generator
    care: float

    def chance(self, rate: float) -> bool:
        return bool(self.rng.random() < self.care * rate)

    def word(self, right: str) -> str:
        return CLOSE.get(right, right) if self.rng.random() < _WRONG_WORD_RATE else right

    def phrase(self, thing: _Thing, article: str = "a") -> str:
        hypernym = _HYPERNYMS.get(thing.kind)
        noun = hypernym if hypernym and self.chance(0.2) else self.word(thing.kind)
        size = thing.size if self.chance(0.4) else ""
        look = f"{thing.texture if self.chance(0.4) else ''} {self.word(thing.colour) if self.chance(0.5) else ''}"
        if thing.kind in _PRONOUNS and look.strip():
            return f"{_articled(article, size, noun)} in {_articled('a', look, 'coat')}"
        return _articled(article, size, look, noun)

    def doing(self, thing: _Thing) -> list[str]:
        activity = [thing.activity] if thing.activity and self.chance(0.35) else []
        where = {"flying": "in the sky", "swimming": "in the water"}.get(thing.activity)
        return [*activity, where] if where and self.chance(0.3) else activity

    def caption(self, scene: _Scene) -> str:
        by_size = sorted(scene.things, key=lambda thing: -thing.extent)
        rates = [_SALIENCE[thing.size] * _NOTICE.get(thing.kind, 1.0) for thing in by_size]
        mentioned = [thing for thing, rate in zip(by_size, rates, strict=True) if self.chance(rate)] or by_size[:1]
        if len(mentioned) > 1 and _relation(mentioned[1], mentioned[0]) in ("above", "behind"):
            mentioned[:2] = mentioned[1::-1]
        parts = [self.phrase(mentioned[0])]
        if len(scene.things) == 1 and self.chance(0.2):
            parts.append("alone")
        parts += self.doing(mentioned[0])
        for before, thing in pairwise(mentioned):
            relation = _relation(before, thing)
            article = "another" if before.kind == thing.kind else _PRONOUNS.get(before.kind, "a")
            if (article != "another" and thing.kind in _PRONOUNS) or not self.chance(0.75):
                article = "a"
            if relation and self.chance(0.8):
                parts += [relation, self.phrase(thing, article)]
            else:
                parts += ["and", self.phrase(thing, article), *self.doing(thing)]
        if parts[-1] != "in the water" and self.chance(0.65):
            parts.append(_pick(self.rng, _PLACES[scene.place].phrases.split("|")))
        if scene.light and self.chance(0.4):
            parts.append(f"with the {self.word(scene.light)}")
        elif scene.place != "room" and self.chance(0.15):
            parts.append("under the sky")
        if scene.night and self.chance(0.5):
            parts.append("at night")
        if scene.raining and self.chance(0.5):
            parts.append("while it is raining")
        return " ".join(parts)


def _articled(article: str, *words: str) -> str:
    text = " ".join(" ".join(words).split())
    return f"{'an' if article == 'a' and text[0] in 'aeiou' else article} {text}"


def _paint(rng: np.random.Generator, scene: _Scene, size: int) -> Image.Image:
    """The photo: drawn at twice its size, then reduced, blurred, lit and grained."""
    side, place = 2 * size, _PLACES[scene.place]
    halves = np.array([ImageColor.getrgb(colour) for colour in (place.far, place.near)])
    far, near = halves + rng.normal(0, 16, (2, 1)) + rng.normal(0, 9, (2, 3))
    height = np.linspace(0, 1, side)[:, None, None]
    pixels = np.where(height < scene.horizon, far + 30 * height, near + 40 * (height - 0.8))
    if scene.place == "beach":
        pixels = np.where(abs(height - scene.horizon - 0.06) < 0.06, (70, 128, 166), pixels)
    patches = Image.fromarray(rng.normal(0, rng.uniform(4, 16), (9, 9)).astype(np.float32))
    clouds = np.asarray(patches.resize((side, side), Image.Resampling.BICUBIC))[..., None]
    photo = Image.fromarray((pixels.astype(np.float32) + clouds).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(photo)
    if scene.place == "street":
        draw.line((0, 0.75 * side, side, (0.7 + 0.1 * rng.random()) * side), "#c8c8be", max(side // 40, 1))
    if scene.light:
        x, y, radius = side * rng.uniform(0.1, 0.9), side * rng.uniform(0.08, 0.22), side * rng.uniform(0.04, 0.08)
        draw.circle((x, y), radius, "#fff6c8" if scene.light == "sun" else "#f4f6ff")
    for thing in scene.things:
        _paint_thing(rng, photo, thing)
    if scene.raining:
        slant = rng.uniform(-0.04, 0.04) * side
        for x, y in (rng.random((55, 2)) * side).tolist():
            draw.line((x, y, x + slant, y + 0.1 * side), "#dce4ec", max(side // 64, 1))
    photo = photo.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6) * size / 64))
    light = rng.uniform(0.35, 0.55) * np.array((0.85, 0.9, 1.2), np.float32) if scene.night else rng.uniform(0.75, 1.15)
    grain = rng.standard_normal((size, size, 3), dtype=np.float32) * rng.uniform(2, 10)
    seen = (np.asarray(photo, np.float32) * light - 118) * rng.uniform(0.7, 1.15) + 118 + grain
    return Image.fromarray(seen.clip(0, 255).astype(np.uint8))


def _paint_thing(rng: np.random.Generator, photo: Image.Image, thing: _Thing) -> None:
    side = max(int(thing.extent * photo.width), 4)
    hue, saturation, brightness = np.array(_COLOURS[thing.colour]) + rng.normal(0, (8, 0.06, 0.06))
    shades = colorsys.hsv_to_rgb(hue / 360 % 1, min(max(saturation, 0), 1), min(max(brightness, 0), 1))
    colour = tuple(int(255 * shade) for shade in shades)
    fill, mask = Image.new("RGB", (side, side), colour), Image.new("L", (side, side))
    on_fill, on_mask = ImageDraw.Draw(fill), ImageDraw.Draw(mask)
    ink, step = _PAINTS["dark" if sum(colour) > 330 else "pale"], max(side / rng.uniform(4, 6), 3)
    for a in np.arange(0, side, step).tolist() if thing.texture else ():
        if thing.texture == "striped":
            on_fill.rectangle((a, 0, a + 0.4 * step, side), ink)
        else:
            for b in np.arange(0, side, step).tolist():
                on_fill.circle((a, b), 0.3 * step, ink)
    for form in _SHAPES[thing.kind].split("; "):
        *paint, outline = (word for word in form.split() if word.isalpha())
        corners = [side * int(number) / 99 for number in form.split() if number.isdigit()]
        for layer, value in ((on_mask, 255), *((on_fill, _PAINTS[name]) for name in paint)):
            match outline:
                case "e":
                    layer.ellipse(corners, value)
                case "r":
                    layer.rectangle(corners, value)
                case "p":
                    layer.polygon(corners, value)
                case _:
                    layer.line(corners, value, max(side // 14, 1))
    tilt = rng.uniform(-30, 30) if thing.activity == "flying" else rng.normal(0, 6)
    mirrored, wide = rng.random() < 0.5, max(int(side * rng.uniform(0.8, 1.2)), 4)
    tiles = [ImageOps.mirror(tile) if mirrored else tile for tile in (fill, mask)]
    fill, mask = (tile.rotate(tilt, Image.Resampling.BILINEAR).resize((wide, side)) for tile in tiles)
    photo.paste(fill, (int(thing.x * photo.width - wide / 2), int(thing.y * photo.height) - side), mask)
