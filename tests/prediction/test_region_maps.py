"""Region maps: one picture a photo or clip, over the regions that the classifier itself scores."""

import numpy as np
import pytest
import torch
from made_clips import make_clip
from matplotlib.figure import Figure
from PIL import Image

from truetag.data.bags import bags_of_files, join_bags
from truetag.data.vocabulary import Vocabulary
from truetag.media.files import Reading
from truetag.media.preprocessing import Preprocessing
from truetag.models.classifier import Classifier
from truetag.prediction.region_maps import draw_region_maps
from truetag.prediction.tagging import predict


class Redness(torch.nn.Module):
    """A backbone whose regions are 4 x 4 averages of red and blue."""

    def forward_features(self, photos):
        return torch.nn.functional.adaptive_avg_pool2d(photos[:, [0, 2]], 4)


@pytest.fixture
def classifier():
    network = Classifier(Redness(), 2, 3, "noisy-or").eval()
    torch.nn.init.eye_(network.head.weight)
    with torch.no_grad():
        network.head.weight *= 5
    return network


def test_a_tag_is_bright_where_it_is_seen(classifier, tmp_path):
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:32, :32, 0] = pixels[32:, 32:, 2] = 255  # red above left, blue below right
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    bags = bags_of_files(["deep/a.png"], [path])
    rows = [{"id": "deep/a.png", "path": str(path), "tags": ["the", "red", "blue"], "probabilities": [1.0, 0.9, 0.8]}]
    preprocessing = Preprocessing(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    vocabulary = Vocabulary(("red", "blue", "the"), ("JJ", "JJ", "DT"), (1, 1, 1))
    draw_region_maps(classifier, preprocessing, vocabulary, bags, rows, tmp_path / "maps")
    (picture,) = (tmp_path / "maps").iterdir()
    assert picture.name == "deep%2Fa.png.png"
    drawn = np.asarray(Image.open(picture).convert("RGB")).astype(float).sum(2)
    height, width = drawn.shape
    for panel, bright, dark in ((1, (0.35, 0.3), (0.8, 0.7)), (2, (0.8, 0.7), (0.35, 0.3))):
        values = [drawn[int(y * height), int((panel + x) * width / 3)] for y, x in (bright, dark)]
        assert values[0] > values[1] + 100


def test_predict_draws_photos_and_passes_over_broken_ones(tiny, tiny_run, tmp_path):
    photos = sorted((tiny / "photos").glob("test-*.jpg"))[:3]
    (tmp_path / "broken.jpg").write_bytes(b"x")
    inputs = [photos[0], tmp_path / "broken.jpg", *photos[1:]]
    predict(tiny_run.folder, inputs, tmp_path / "p.csv", top_k=2, heatmaps=tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [f"{path.name}.png" for path in photos]


def test_bags_of_several_inputs_are_joined(tiny):
    photos = sorted((tiny / "photos").glob("test-*.jpg"))[:3]
    first = bags_of_files(["a"], photos[:1])
    rest = bags_of_files(["b", "c"], photos[1:])
    bags = join_bags([first, rest])
    assert bags.ids == ["a", "b", "c"]
    assert bags.frames.paths == photos
    assert bags.starts.tolist() == [0, 1, 2, 3]
    assert len(join_bags([])) == 0


def draw(classifier, photo, folder):
    photo.save(folder / "a.png")
    rows = [{"id": "a", "path": str(folder / "a.png"), "tags": ["red"], "probabilities": [0.9]}]
    vocabulary = Vocabulary(("red", "blue", "the"), ("JJ", "JJ", "DT"), (1, 1, 1))
    preprocessing = Preprocessing(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    draw_region_maps(
        classifier, preprocessing, vocabulary, bags_of_files(["a"], [folder / "a.png"]), rows, folder / "maps"
    )
    return np.asarray(Image.open(folder / "maps" / "a.png").convert("RGB")).astype(float)


def test_colours_mean_the_same_in_all_pictures_and_the_photo_stays_in_colour(classifier, tmp_path):
    photo = Image.new("RGB", (64, 64), (0, 255, 0))
    with torch.no_grad():
        sure = classifier.head.bias.fill_(4.0) is not None and draw(classifier, photo, tmp_path)
        classifier.head.bias.fill_(-4.0)
    unsure = draw(classifier, photo, tmp_path)
    height, width = sure.shape[:2]
    place = (height // 2, int(0.65 * width))  # in the panel of the tag
    assert sure[place].sum() > unsure[place].sum() + 150  # both maps are flat: only a fixed scale tells them apart
    red, green, blue = unsure[place]
    assert green > red + 40
    assert green > blue + 40


def test_the_likeliest_region_is_framed_and_a_clip_names_the_second(classifier, tmp_path, monkeypatch):
    dark, red = np.zeros((64, 64, 3), dtype=np.uint8), np.zeros((64, 64, 3), dtype=np.uint8)
    red[32:, 32:, 0] = 255
    path = make_clip(tmp_path / "a.mp4", [Image.fromarray(photo) for photo in [dark] * 20 + [red] * 10], rate=10)
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: (drawn.append(figure), path.touch()))
    rows = [{"id": "a", "path": str(path), "tags": ["red"], "probabilities": [0.9]}]
    vocabulary = Vocabulary(("red", "blue", "the"), ("JJ", "JJ", "DT"), (1, 1, 1))
    preprocessing = Preprocessing(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    reading = Reading(tmp_path / "cache")
    bags = bags_of_files(["a"], [path], reading, num_frames=3)
    draw_region_maps(classifier, preprocessing, vocabulary, bags, rows, tmp_path / "maps", num_frames=3)
    _, panel, bar = drawn[0].axes
    assert panel.get_title() == "red 90 %, at 2.5 s"
    framed = panel.patches[0]
    assert framed.get_x() >= 31
    assert framed.get_y() >= 31
    assert bar.get_ylim() == (0, 1)


def test_a_run_that_did_not_learn_regions_says_so(classifier, tmp_path):
    photo = Image.new("RGB", (64, 64), (0, 255, 0))
    with_regions = draw(classifier, photo, tmp_path)
    classifier.pooling = "mean"
    without = draw(classifier, photo, tmp_path)
    bottom = slice(int(0.9 * len(with_regions)), None)
    assert (with_regions[bottom] == 255).all()
    assert (without[bottom] < 200).any()
