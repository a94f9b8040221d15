"""Cutting a box out of a volume, also where the box reaches beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medformer.data.volumes.plan import Axes


def cut(array: NDArray[Any], start: Axes, shape: Axes, fill: ArrayLike) -> NDArray[Any]:
    """Copy a box of `shape` voxels that begins at `start`.

    Args:
        array: (..., X, Y, Z), memory-mapped or not.
        start: First voxel of the box; may be negative.
        shape: Of the box.
        fill: What lies outside of the array: one value, or one for each of the leading axes, such as channels.

    Returns:
        A new array (..., *shape) of the same type.
    """
    size = array.shape[-3:]
    low = [min(max(0, first), length) for first, length in zip(start, size, strict=True)]
    high = [
        max(begin, min(length, first + extent))
        for begin, first, extent, length in zip(low, start, shape, size, strict=True)
    ]
    inside = array[(..., *map(slice, low, high))]
    if inside.shape[-3:] == tuple(shape):
        return np.array(inside, order="C")
    result = np.empty((*array.shape[:-3], *shape), array.dtype)
    result[...] = np.asarray(fill, array.dtype).reshape(*np.shape(fill), 1, 1, 1)
    place = (slice(begin - first, end - first) for begin, end, first in zip(low, high, start, strict=True))
    result[(..., *place)] = inside
    return result


def centered_start(size: Axes, shape: Axes) -> Axes:
    """Where a box of `shape` begins that has the middle of a volume of `size` in its middle."""
    first, second, third = ((length - extent) // 2 for length, extent in zip(size, shape, strict=True))
    return first, second, third
