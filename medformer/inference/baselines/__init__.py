"""Segmentation without a network: what a model must beat on the same folds."""
