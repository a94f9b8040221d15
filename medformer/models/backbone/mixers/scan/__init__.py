"""Mixers that carry a state along the positions of an axis."""
