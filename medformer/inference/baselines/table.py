"""The baselines by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case
from medformer.inference.baselines.pixel_color import PixelColor
from medformer.inference.baselines.prior_mask import PriorMask
from medformer.registry import Entry, Registry


class MaskBaseline(Protocol):
    """What a baseline is: fitted on training cases, it maps an image to probabilities."""

    def __init__(self, *, image_size: tuple[int, int], seed: int) -> None:
        """Store the network's input size (rows, columns) and a seed."""

    def fit(self, cases: Sequence[Case]) -> Self:
        """Learn from training cases; it reads what it needs of them."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map an RGB image (H, W, 3) to probabilities, float32 (H, W) in [0, 1]."""


BASELINES: Registry[type[MaskBaseline]] = Registry(
    "baseline",
    [
        Entry("prior_mask", PriorMask, "the average training mask for every image; it does not look at the image"),
        Entry("pixel_color", PixelColor, "gradient boosting over pixels by color, neighborhood and position"),
    ],
)
