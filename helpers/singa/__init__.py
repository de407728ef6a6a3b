"""SINGA: its wheel, loaded and fenced, and workers that pass arrays to each other."""
