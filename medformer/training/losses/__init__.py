"""Losses, and what a training step computes."""
