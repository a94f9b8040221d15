"""Manifests, checks, splits, the leakage audit, datasets, transforms and synthetic data."""
