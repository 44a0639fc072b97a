"""The classifier alone, from files to tables of tags."""
