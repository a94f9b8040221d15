"""Metrics of classes and probabilities."""
