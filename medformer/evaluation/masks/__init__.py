"""Metrics of masks and label maps."""
