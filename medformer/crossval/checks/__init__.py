"""Checks beside a run: permuted labels and the site probe."""
