"""Linear classifiers of volumes by shape and by coarse voxels: what a network must beat on the same folds.

`VolumeFeatures` describes each volume by itself, so nothing is learned from other cases; `VOLUME_CLASSIFIERS` holds the
scikit-learn estimators that learn from these features in a fold (see `medformer.crossval.run.estimator_fold`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from medformer.data.manifest import Case
from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, reorient
from medformer.imaging.resample import resample, resampled_affine
from medformer.imaging.volumes import read_volume
from medformer.registry import Entry, Registry

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

_WIDTH = len(SHAPE) + int(np.prod(GRID))
_LARGEST = 64  # voxels per axis that shapes are measured on
_BINS = 64


class VolumeFeatures(Mapping[str, NDArray[np.float64]]):
    """A vector (channels * (len(SHAPE) + 512),) for each case, read when asked for and then remembered.

    Args:
        cases: By id.
    """

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self.cases = dict(cases)
        self._known: dict[str, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[str]:
        return iter(self.cases)

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Describe a case.

        Raises:
            DataError: A file of it cannot be read.
        """
        if name not in self._known:
            channels = [read_volume(path) for path in self.cases[name].images]
            self._known[name] = np.concatenate([describe(one.array, one.geometry) for one in channels])
        return self._known[name]


def describe(image: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float64]:
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
    """The threshold of `_BINS` that best parts dark from bright voxels (Otsu, IEEE TSMC 1979); the value of a constant.

    Raises:
        DataError: A voxel is not finite.
    """
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise DataError("The image holds NaN or infinity; expected finite values. Mend it, or leave the case out.")
    if low == high:
        return low
    counts, edges = np.histogram(image, _BINS, (low, high))
    below, above = np.cumsum(counts)[:-1], counts.sum() - np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * (edges[1:] + edges[:-1]) / 2.0)
    # The first and the last bin are never empty, so there are voxels on both sides of every edge.
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][between.argmax()])


def _shape_columns(matrix: NDArray[np.float64]) -> list[int]:
    return [column for column in range(matrix.shape[1]) if column % _WIDTH < len(SHAPE)]


def _voxel_columns(matrix: NDArray[np.float64]) -> list[int]:
    return [column for column in range(matrix.shape[1]) if column % _WIDTH >= len(SHAPE)]


def _logistic(columns: Callable[[NDArray[np.float64]], list[int]], strength: float) -> Pipeline:
    return Pipeline(
        [
            ("features", ColumnTransformer([("scale", StandardScaler(), columns)])),
            ("classifier", LogisticRegression(C=strength, max_iter=1000)),
        ]
    )


def _shape() -> Pipeline:
    return _logistic(_shape_columns, 1.0)


def _voxels() -> Pipeline:
    return _logistic(_voxel_columns, 0.01)


VOLUME_CLASSIFIERS: Registry[Callable[[], Pipeline]] = Registry(
    "baseline",
    [
        Entry("linear_shape", _shape, "logistic regression of size, shape, position and brightness of the foreground"),
        Entry("linear_voxels", _voxels, "logistic regression of the image reduced to 8 x 8 x 8 voxels"),
    ],
)
