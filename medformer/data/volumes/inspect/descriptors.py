"""What identifies a volume beside its file: its voxels, and a small descriptor that survives conversion and resampling.

The descriptor is what the leakage audit compares. The volume is turned to RAS and averaged over a grid of `SIDE` boxes
along each axis; of this, the local structure is kept and divided by the local contrast, as
`medformer.data.frames.fingerprints` does for pictures, so that bias fields, gamma and the intensity scale drop out.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SIDE = 24
"""Boxes along each axis."""

_FINE, _CONTRAST = 1.5, 3.0
"""Gaussian scales, in boxes, of the structure that is kept and of the contrast it is divided by."""

_FLAT = 1e-3
"""Share of the largest contrast below which a region counts as flat, so that noise is not blown up to structure."""


def voxel_hash(array: NDArray[np.float32]) -> str:
    """Hash voxels (X, Y, Z) together with their shape."""
    content = hashlib.sha256(repr(array.shape).encode())
    # Arrays lie in Fortran order as read, so that the transpose is what can be hashed without a copy.
    content.update(np.ascontiguousarray(array.T).data)
    return content.hexdigest()


def descriptor(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce a volume to its locally normalized structure.

    Args:
        array: float32 (X, Y, Z), finite.

    Returns:
        float32 (SIDE, SIDE, SIDE), mean 0, norm 1; zeros where nothing varies.
    """
    # Arrays lie in Fortran order as read: contracting the last axis of the transpose makes no large copy.
    small = array.T
    for size in array.shape:
        small = np.moveaxis(small @ _boxes(size).T, 2, 0)
    small = small.T
    low, high = np.percentile(small, (1, 99))
    small = np.clip(small, low, high)
    structure = small - _blur(small, _FINE)
    contrast = np.sqrt(_blur(structure * structure, _CONTRAST))
    largest = float(contrast.max())
    if largest <= 1e-6 * float(np.abs(small).max()):
        return np.zeros(small.shape, np.float32)
    normal = structure / (contrast + _FLAT * largest)
    normal -= normal.mean()
    return (normal / np.linalg.norm(normal)).astype(np.float32)


def _boxes(size: int) -> NDArray[np.float32]:
    """Weights (SIDE, size) of the mean over SIDE equal boxes of an axis."""
    edges = np.linspace(0.0, size, SIDE + 1)
    voxel = np.arange(size)
    shared = np.minimum(edges[1:, None], voxel + 1) - np.maximum(edges[:-1, None], voxel)
    weights = np.maximum(shared, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest"))
