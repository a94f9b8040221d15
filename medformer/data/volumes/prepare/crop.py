"""Cutting a box out of a volume, also where the box reaches beyond it."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medformer.data.volumes.plan.volume_plan import Axes


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
    size = np.array(array.shape[-3:], np.int64)
    first = np.array(start, np.int64)
    low = np.clip(first, 0, size)
    high = np.clip(first + np.array(shape, np.int64), low, size)
    inside = array[_box(low, high)]
    if inside.shape[-3:] == tuple(shape):
        return np.array(inside, order="C")
    result = np.empty((*array.shape[:-3], *shape), array.dtype)
    result[...] = np.asarray(fill, array.dtype).reshape(*np.shape(fill), 1, 1, 1)
    if inside.size:
        result[_box(low - first, high - first)] = inside
    return result


def centered_start(size: Axes, shape: Axes) -> Axes:
    """Where a box of `shape` begins that has the middle of a volume of `size` in its middle."""
    first, second, third = ((length - extent) // 2 for length, extent in zip(size, shape, strict=True))
    return first, second, third


def _box(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[EllipsisType, slice, slice, slice]:
    first, second, third = (slice(int(begin), int(end)) for begin, end in zip(low, high, strict=True))
    return ..., first, second, third
