"""A run: its folder, its record, its folds and where they are computed."""
