"""What can be read in a figure."""

from matplotlib.text import Text
from PIL import Image

from truetag.reports.figures import plot_tagged_photos
from truetag.reports.tagged_photos import Kind, TaggedPhoto


def test_incorrect_and_missing_words_have_a_sign_beside_their_colour(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(path)
    answers: list[tuple[str, Kind]] = [("dog", "right"), ("cat", "incorrect"), ("sky", "missing")]
    figure = plot_tagged_photos([TaggedPhoto(path, ["dog", "sky"], {"mlcn": answers})])
    texts = {text.get_text(): text.get_color() for text in figure.findobj(Text)}
    assert {"dog", "× cat", "+ sky"} <= texts.keys()
    assert len({texts[text] for text in ("dog", "× cat", "+ sky")}) == 3
    assert any("× incorrect" in text and "+ missing" in text for text in texts)
