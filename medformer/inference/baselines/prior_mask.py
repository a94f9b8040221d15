"""The average training mask, predicted for every image; it does not look at the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case
from medformer.errors import DataError
from medformer.imaging.images import read_mask

_GRID = (96, 96)


class PriorMask:
    """Averages the training masks on a common grid and stretches the average to each image.

    Attributes:
        mean_: Share of the training masks that cover a place, float32 (96, 96).
    """

    mean_: NDArray[np.float32]

    def __init__(self, *, image_size: tuple[int, int], seed: int) -> None:
        """Take what every baseline is given; neither matters here."""

    def fit(self, cases: Sequence[Case]) -> Self:
        """Average the masks of the training cases; the images are not read.

        Raises:
            DataError: No cases, or a case without a readable mask.
        """
        total = np.zeros(_GRID)
        for case in cases:
            total += on_grid(read_mask(case.required_mask()).astype(np.float32), _GRID)
        if not cases:
            raise DataError("There are no training cases to average; expected at least one.")
        self.mean_ = (total / len(cases)).astype(np.float32)
        return self

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the average at the size of an image (H, W, 3): float32 (H, W) in [0, 1]."""
        return at_size(self.mean_, image.shape[:2])


def on_grid(array: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Average (H, W) or (H, W, C) over the cells of a grid of rows and columns."""
    return np.asarray(cv2.resize(array, grid[::-1], interpolation=cv2.INTER_AREA), np.float32)


def at_size(probability: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Stretch a map to `size` (rows, columns), linearly; it stays in [0, 1]."""
    stretched = cv2.resize(probability, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(stretched, 0.0, 1.0), np.float32)
