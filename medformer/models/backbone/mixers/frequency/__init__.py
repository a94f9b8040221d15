"""Mixers that work on the frequencies of a map."""
