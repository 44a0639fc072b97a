"""From files on disk to bags and label matrices."""
