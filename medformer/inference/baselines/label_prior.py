"""The most frequent label of the training cases at each place, predicted for every volume without looking at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.resample import resample

GRID = (48, 48, 48)


class LabelPrior:
    """Averages the classes of the training cases in their boxes and gives each place the most frequent one.

    Maps must share an orientation; a box is cut into `GRID` cells whatever its size in mm.

    Args:
        classes: Number of classes, the background among them.

    Attributes:
        shares_: Share of the training cases that have a class at a place, float32 (classes, *GRID).
    """

    shares_: NDArray[np.float32]

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def fit(self, maps: Iterable[NDArray[Any]]) -> Self:
        """Average the classes of the training cases, (X, Y, Z) each, read one at a time.

        Raises:
            DataError: There is no training case.
        """
        total = np.zeros((self.classes, *GRID))
        count = 0
        for classes in maps:
            count += 1
            for number in range(self.classes):
                total[number] += resample(classes == number, GRID, order=1)
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
