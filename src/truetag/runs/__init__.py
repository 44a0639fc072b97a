"""A run on disk: its settings, folder, checkpoints and journal."""
