"""Linear classifiers of volumes by shape and by coarse voxels: what a network must beat on the same folds.

They learn from the vectors of `medformer.data.volumes.inspect.descriptors.volume_features`, in a fold (see
`medformer.crossval.run.estimator`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from medformer.data.volumes.inspect.descriptors import GRID, SHAPE
from medformer.registry import Entry, Registry

_WIDTH = len(SHAPE) + int(np.prod(GRID))


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
