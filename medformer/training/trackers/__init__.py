"""Learning curves for other programs to show, beside the files that are always written."""
