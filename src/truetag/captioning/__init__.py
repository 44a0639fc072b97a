"""Sentences for clips and photos: the captioner's training, its sentences on disk, and their scores."""
