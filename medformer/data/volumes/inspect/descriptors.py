"""What identifies a volume: its file, its voxels, and a small descriptor that survives conversion and resampling.

The descriptor is what the leakage audit compares. The volume is turned to RAS and averaged over a grid of `SIDE` boxes
along each axis; of this, the local structure is kept and divided by the local contrast, as
`medformer.data.frames.fingerprints` does for pictures, so that bias fields, gamma and the intensity scale drop out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.data.manifest import Case, image_hash
from medformer.imaging.geometry import reorient
from medformer.imaging.volumes import read_volume
from medformer.progress import Reporter, SilentReporter

SIDE = 24
"""Boxes along each axis."""

_FINE, _CONTRAST = 1.5, 3.0
"""Gaussian scales, in boxes, of the structure that is kept and of the contrast it is divided by."""

_FLAT = 1e-3
"""Share of the largest contrast below which a region counts as flat, so that noise is not blown up to structure."""


@dataclass(frozen=True, eq=False)
class VolumePrint:
    """What identifies one volume.

    Attributes:
        id: The case.
        sha256: Hash of the image files.
        voxels: Hash of the voxels of every channel and of their shape.
        descriptor: float32 (SIDE, SIDE, SIDE) of the first channel, mean 0, norm 1; zeros where nothing varies.
    """

    id: str
    sha256: str
    voxels: str
    descriptor: NDArray[np.float32]


def volume_prints(cases: Sequence[Case], reporter: Reporter | None = None) -> list[VolumePrint]:
    """Read every volume once and fingerprint it, in the order of `cases`.

    Raises:
        DataError: A volume cannot be read or holds NaN.
        ResourceError: There is not enough memory for one volume.
    """
    reporter = reporter or SilentReporter()
    reporter.start("fingerprints", len(cases))
    found = []
    try:
        for case in cases:
            found.append(_print(case))
            reporter.advance()
    finally:
        reporter.finish()
    return found


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


def _print(case: Case) -> VolumePrint:
    hashes = []
    first: NDArray[np.float32] | None = None
    for path in case.images:
        volume = read_volume(path)
        hashes.append(voxel_hash(volume.array))
        if first is None:
            first = descriptor(reorient(volume.array, volume.geometry.affine, "RAS")[0])
    assert first is not None
    voxels = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return VolumePrint(case.id, image_hash(case.images), voxels, first)


def _boxes(size: int) -> NDArray[np.float32]:
    """Weights (SIDE, size) of the mean over SIDE equal boxes of an axis."""
    edges = np.linspace(0.0, size, SIDE + 1)
    voxel = np.arange(size)
    shared = np.minimum(edges[1:, None], voxel + 1) - np.maximum(edges[:-1, None], voxel)
    weights = np.maximum(shared, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest"))
