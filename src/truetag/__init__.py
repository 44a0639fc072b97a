"""truetag: taggers trained from noisy tags, and the tags that are probably wrong or missing."""

__version__ = "0.1.0"
