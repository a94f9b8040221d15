"""Baselines for volumes without a network: the most frequent label at each place, and linear classifiers.

The classifiers learn from the vectors of `medformer.data.volumes.inspect.descriptors.volume_features`, in a fold (see
`medformer.crossval.run.estimator`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from medformer.data.volumes.inspect.descriptors import GRID, SHAPE
from medformer.errors import DataError
from medformer.imaging.resample import resample
from medformer.registry import Entry, Registry

PRIOR_GRID = (48, 48, 48)


class LabelPrior:
    """Averages the classes of the training cases in their boxes and gives each place the most frequent one.

    Maps must share an orientation; a box is cut into `PRIOR_GRID` cells whatever its size in mm.

    Args:
        classes: Number of classes, the background among them.

    Attributes:
        shares_: Share of the training cases that have a class at a place, float32 (classes, *PRIOR_GRID).
    """

    shares_: NDArray[np.float32]

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def fit(self, maps: Iterable[NDArray[Any]]) -> Self:
        """Average the classes of the training cases, (X, Y, Z) each, read one at a time.

        Raises:
            DataError: There is no training case.
        """
        total = np.zeros((self.classes, *PRIOR_GRID))
        count = 0
        for classes in maps:
            count += 1
            for number in range(self.classes):
                total[number] += resample(classes == number, PRIOR_GRID, order=1)
        if not count:
            raise DataError("There are no training cases to average; expected at least one.")
        self.shares_ = (total / count).astype(np.float32)
        return self

    def predict(self, shape: Sequence[int]) -> NDArray[np.uint16]:
        """Return the most frequent class of each place for a volume of `shape`: uint16; of equals, the lower class."""
        best = np.zeros(tuple(shape), np.float32)
        winner = np.zeros(tuple(shape), np.uint16)
        # One class at a time, so that memory does not grow with their number.
        for number, share in enumerate(self.shares_):
            stretched = resample(share, shape, order=1)
            more = stretched > best
            winner[more] = number
            best[more] = stretched[more]
        return winner


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
