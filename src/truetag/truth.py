"""What counts as true, by name and in words, and what a metrics file holds; nothing here imports torch."""

from typing import Any, Literal

Truth = Literal["observed", "captions", "tags", "true"]
Metrics = dict[str, Any]
TRUTH_IN_WORDS: dict[Truth, str] = {
    "observed": "words of the captions, and tags",
    "captions": "words of the captions",
    "tags": "the tags as given, noise included",
    "true": "true tags or captions, which training never sees",
}
"""What a score says of the labels that it was measured against."""
