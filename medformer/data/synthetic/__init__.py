"""Frames, volumes and connectomes with a known truth, made from a seed, for the demonstration and tests."""
