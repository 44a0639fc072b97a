"""Embedded data: drawn photos and clips, and the command that shows everything on them."""
