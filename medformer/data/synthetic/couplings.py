"""Couplings between latent networks, as the generators of connectomes shift and use them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mirrored(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The strict upper triangle of a square matrix mirrored, with ones on the diagonal."""
    upper = np.triu(matrix, 1)
    return np.asarray(upper + upper.T + np.eye(len(matrix)))


def shift(coupling: NDArray[np.float64], pair: tuple[int, int], by: float) -> None:
    """Change the coupling of two different networks in place, in both directions."""
    first, second = pair
    coupling[first, second] += by
    coupling[second, first] += by


def root(coupling: NDArray[np.float64]) -> NDArray[np.float64]:
    """A symmetric square root of the nearest covariance: shifted couplings need not be one any more."""
    values, vectors = np.linalg.eigh(coupling)
    return np.asarray(vectors * np.sqrt(np.clip(values, 0.02, None)) @ vectors.T)
