"""Overlays: thin contours of a prediction and of the truth on the picture at its own resolution."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.errors import DataError
from medformer.imaging.images import write_image

PREDICTION_COLOR = (240, 228, 66)
"""Yellow of the Okabe-Ito palette (Okabe and Ito 2008): distinguishable from the blue with any color vision."""

TRUTH_COLOR = (86, 180, 233)
"""Sky blue of the Okabe-Ito palette."""

_DARK = (0, 0, 0)


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Draw contours with a dark rim, so that they show on mucosa as well as on highlights.

    The prediction's line runs just outside its mask and the truth's line just inside, so that both stay visible
    where they agree. Along the edge of the picture there is no outside: the prediction's line is the outermost there,
    and the truth's line follows.

    Args:
        image: uint8 (H, W, 3).
        mask: bool (H, W), the prediction.
        truth: bool (H, W), drawn when given.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        DataError: The sizes differ.
    """
    for name, area in (("prediction", mask), ("truth", truth)):
        if area is not None and area.shape != image.shape[:2]:
            raise DataError(f"The {name} is {area.shape} px; expected the picture's size {image.shape[:2]}.")
    # At least two pixels where there is room: between its dark rims the color of a thinner line is hard to see.
    width = max(1, min(2, min(image.shape[:2]) // 120), round(min(image.shape[:2]) / 350))
    along_edge = mask & ~_shrink(np.ones_like(mask), width)
    outside = (_grow(mask, width) & ~mask) | along_edge
    seen = np.zeros_like(mask) if truth is None else truth & ~along_edge
    inside = seen & ~_shrink(seen, width)
    drawn = image.copy()
    drawn[_grow(outside | inside, width)] = _DARK
    drawn[inside] = TRUTH_COLOR
    drawn[outside] = PREDICTION_COLOR
    return drawn


def write_overlay(
    path: str | os.PathLike[str],
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None = None,
) -> None:
    """Write the overlay as PNG of the picture's own size, so that one can flip between the two.

    Raises:
        DataError: The sizes differ.
        ResourceError: The folder is not writable or the disk is full.
    """
    write_image(Path(path), draw_overlay(image, mask, truth))


def _grow(area: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return ndimage.binary_dilation(area, ndimage.generate_binary_structure(2, 2), iterations=pixels)


def _shrink(area: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return ndimage.binary_erosion(area, ndimage.generate_binary_structure(2, 2), iterations=pixels)
