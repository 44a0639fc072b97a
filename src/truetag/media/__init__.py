"""Pixels from files: photos, clips and the caches of what was decoded; knows no tag."""
