"""Metrics: arrays in, numbers out. Usable alone."""
