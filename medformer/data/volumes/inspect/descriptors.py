"""What identifies a volume: its voxels, and a small descriptor that survives conversion and resampling.

The volume is turned to RAS and averaged over a grid of `SIDE` boxes along each axis; of this, the local structure is
kept and divided by the local contrast, as for pictures (`medformer.data.frames.descriptors`), so that bias fields,
gamma and the intensity scale drop out. `similar` finds scans that show the same thing by it.

Linear baselines learn from a third description, `volume_features`: a short vector of the shape of the foreground, its
brightness, and the image on a coarse grid. Each volume is described by itself, so nothing is learned from other cases.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, reorient
from medformer.imaging.resample import resample, resampled_affine

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


SHAPE = (
    "log volume",
    "log surface",
    "surface against volume",
    *(f"log radius {number}" for number in (1, 2, 3)),
    "elongation",
    "flatness",
    *(f"log extent {axis}" for axis in "xyz"),
    *(f"center {axis}" for axis in "xyz"),
    *(f"spread {axis}" for axis in "xyz"),
    "mean",
    "deviation",
    "foreground mean",
    "foreground deviation",
)
"""Of the foreground (what is brighter than Otsu's threshold) and of all voxels."""

GRID = (8, 8, 8)

_LARGEST = 64  # voxels per axis that shapes are measured on
_BINS = 64


def volume_features(image: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float64]:
    """Describe one channel: `SHAPE`, then the image standardized and reduced to `GRID`, both with axes turned to RAS.

    Args:
        image: (X, Y, Z).
        geometry: Of it.
    """
    turned, affine = reorient(image, geometry.affine, "RAS")
    size = tuple(min(length, _LARGEST) for length in turned.shape)
    small = resample(turned, size, order=1).astype(np.float32, copy=False)
    spacing = np.linalg.norm(resampled_affine(affine, turned.shape, size)[:3, :3], axis=0)
    deviation = float(small.std(dtype=np.float64))
    standard = (small - small.mean(dtype=np.float64)) / (deviation or 1.0)
    voxels = resample(standard.astype(np.float32), GRID, order=1)
    return np.concatenate([shape_features(small, spacing), voxels.ravel().astype(np.float64)])


def shape_features(image: NDArray[np.float32], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure the foreground of an image (X, Y, Z) with voxels of `spacing` mm; the order is that of `SHAPE`."""
    mask = image > otsu_threshold(image)
    if not mask.any():
        mask[...] = True
    places = np.argwhere(mask) * spacing
    box = np.array(mask.shape) * spacing
    covariance = np.cov(places.T) if len(places) > 1 else np.zeros((3, 3))
    # A voxel is not a point: a single one has the spread of a box of its size.
    radii = np.sqrt(np.clip(np.linalg.eigvalsh(covariance + np.diag(spacing**2) / 12.0), 0.0, None))
    volume = mask.sum() * np.prod(spacing)
    padded = np.pad(mask, 1)
    faces = [np.count_nonzero(np.diff(padded, axis=axis)) for axis in range(3)]
    surface = float(np.dot(faces, np.prod(spacing) / spacing))
    inside = image[mask].astype(np.float64)
    return np.concatenate(
        [
            [np.log(volume), np.log(surface), surface / volume ** (2.0 / 3.0)],
            np.log(radii),
            [np.log(radii[2] / radii[1]), np.log(radii[1] / radii[0])],
            np.log(np.ptp(places, axis=0) + spacing),
            (places.mean(0) + spacing / 2.0) / box,
            places.std(0) / box,
            [image.mean(dtype=np.float64), image.std(dtype=np.float64), inside.mean(), inside.std()],
        ]
    )


def otsu_threshold(image: NDArray[np.float32]) -> float:
    """The threshold that best separates dark from bright voxels (Otsu, IEEE TSMC 1979); of a constant image, its value.

    Raises:
        DataError: A voxel is not finite.
    """
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise DataError("The image holds NaN or infinity; expected finite values. Correct it, or leave the case out.")
    if low == high:
        return low
    counts, edges = np.histogram(image, _BINS, (low, high))
    below, above = np.cumsum(counts)[:-1], counts.sum() - np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * (edges[1:] + edges[:-1]) / 2.0)
    # The first and the last bin are never empty, so there are voxels on both sides of every edge.
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][between.argmax()])
