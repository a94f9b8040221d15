"""Changing the number of voxels of a volume, axis by axis, in memory bounded by the result.

Convention: the box that the volume fills (from the outer face of the first voxel to that of the last) stays where it
is and is cut into the new number of voxels. So the center of new voxel `j` of `m` lies at `(j + 0.5) * n / m - 0.5` in
old voxels, and the new spacing is the old one times `n / m` (torch's `align_corners=False`, scikit-image's `resize`).
Beyond the box, the edge voxel is repeated.

Order 0 takes the nearest voxel, 1 is linear, 3 is cubic convolution (Keys, IEEE TASSP 1981, a = -0.5): local, exact at
voxel centers and for parabolas, so that a slab equals the same planes of the whole. Where an axis gets fewer voxels,
the kernels of orders 1 and 3 widen by `n / m`, so that every old voxel counts (no aliasing, and a thin structure fades
instead of vanishing by chance); near `n = m` this is the plain kernel, so there is no threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.geometry import Axes

Order = Literal[0, 1, 3]

_BLOCK = 32  # planes made at a time; weights are banded, so a block needs few planes of the input
_TIE = 1e-6


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> Axes:
    """The number of voxels whose size comes nearest to a wanted spacing, at least one per axis."""
    return cast(Axes, tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, wanted, strict=True)))


def resampled_affine(affine: NDArray[np.float64], old_shape: Sequence[int], new_shape: Sequence[int]) -> NDArray[Any]:
    """The affine of a volume after `resample`; identical where the shape stays."""
    if tuple(old_shape) == tuple(new_shape):
        return affine
    scale = np.asarray(old_shape, dtype=np.float64) / np.asarray(new_shape, dtype=np.float64)
    step = np.diag((*scale, 1.0))
    step[:3, 3] = (scale - 1.0) / 2.0
    return affine @ step


def resample(array: NDArray[Any], shape: Sequence[int], *, order: Order) -> NDArray[Any]:
    """Resample the last three axes.

    Args:
        array: (..., X, Y, Z), real numbers or bool.
        shape: New size of the last three axes.
        order: See above.

    Returns:
        (..., *shape): float32 for orders 1 and 3 (cubic may overshoot the input's range), the input's type for order 0.
        The array itself where nothing changes.
    """
    shape = _checked(array, shape)
    if array.shape[-3:] == shape:
        return array
    # Planes along the axis with the largest stride are contiguous in memory.
    axis = _slowest(array)
    out = _like(array, shape, array.dtype if order == 0 else np.dtype(np.float32))
    for start, stop in _blocks(shape[axis]):
        _planes(out, axis, start, stop)[...] = slab(array, shape, start, stop, axis, order=order)
    return out


def slab(
    array: NDArray[Any], shape: Sequence[int], start: int, stop: int, axis: int, *, order: Order = 1
) -> NDArray[Any]:
    """Planes [start, stop) along one axis of what `resample` returns, without making the rest.

    Args:
        array: (..., X, Y, Z), real numbers or bool.
        shape: Size of the last three axes of the whole result.
        start: First plane.
        stop: End of the planes.
        axis: 0, 1 or 2: of the last three axes.
        order: As `resample`.
    """
    shape = _checked(array, shape)
    if axis not in (0, 1, 2) or not 0 <= start < stop <= shape[axis]:
        raise DataError(f"Planes {start} to {stop} of axis {axis} were asked for; expected some of a volume {shape}.")
    for turn in (axis, *(other for other in range(3) if other != axis)):
        first, end = (start, stop) if turn == axis else (0, shape[turn])
        array = _along(array, turn, shape[turn], first, end, order)
    return array


def resample_labels(labels: NDArray[Any], shape: Sequence[int], values: Sequence[int]) -> NDArray[Any]:
    """Resample a label map: each label linearly as a share of the voxel, and the largest share wins.

    Smoother and more faithful than the nearest voxel. A share equal to the background's wins over it, so that thin
    structures are not lost to a tie; among labels, the earlier of `values` wins. Values not listed count as 0.

    Args:
        labels: Integers (X, Y, Z).
        shape: New size.
        values: The label values; 0 is background and need not be listed.

    Returns:
        Values, of the input's type; the array itself where nothing changes.
    """
    shape = _checked(labels, shape)
    if labels.shape == shape:
        return labels
    axis = _slowest(labels)
    out = _like(labels, shape, labels.dtype)
    for start, stop in _blocks(shape[axis]):
        # Only the planes that this block draws on are compared with each value.
        low, high, _ = _band(labels.shape[axis], shape[axis], start, stop, 1)
        near = _planes(labels, axis, low, high)
        winner = _planes(out, axis, start, stop)
        winner[...] = 0
        best, total = np.zeros(winner.shape, np.float32), np.zeros(winner.shape, np.float32)
        for value in values:
            if value != 0:
                share = _shares(near == value, labels.shape[axis], low, shape, start, stop, axis)
                winner[share > best] = value
                np.maximum(best, share, out=best)
                total += share
        winner[best < 1.0 - total - _TIE] = 0
    return out


def _shares(
    mask: NDArray[np.bool_], size: int, low: int, shape: Axes, start: int, stop: int, axis: int
) -> NDArray[np.float32]:
    """As `slab` of order 1, from the planes that begin at `low` alone."""
    _, _, matrix = _band(size, shape[axis], start, stop, 1)
    share = _multiply(mask, axis, matrix)
    for other in range(3):
        if other != axis:
            share = _along(share, other, shape[other], 0, shape[other], 1)
    return share


def _along(array: NDArray[Any], axis: int, size: int, start: int, stop: int, order: Order) -> NDArray[Any]:
    """Planes [start, stop) of the array resampled to `size` along one axis."""
    old = array.shape[array.ndim - 3 + axis]
    if old == size:
        planes = _planes(array, axis, start, stop)
        return planes if order == 0 else planes.astype(np.float32, copy=False)
    if order == 0:
        nearest = np.minimum(((np.arange(start, stop) + 0.5) * (old / size)).astype(np.int64), old - 1)
        return np.take(array, nearest, axis=array.ndim - 3 + axis)
    shape = list(array.shape)
    shape[array.ndim - 3 + axis] = stop - start
    out = np.empty(shape, np.float32)
    for first in range(start, stop, _BLOCK):
        end = min(first + _BLOCK, stop)
        low, high, matrix = _band(old, size, first, end, order)
        _planes(out, axis, first - start, end - start)[...] = _multiply(_planes(array, axis, low, high), axis, matrix)
    return out


def _multiply(planes: NDArray[Any], axis: int, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply a matrix (new, old) along one of the last three axes."""
    place = planes.ndim - 3 + axis
    before, after = planes.shape[:place], planes.shape[place + 1 :]
    inner = int(np.prod(after, dtype=np.int64))
    window = np.ascontiguousarray(planes, dtype=np.float32)
    if inner == 1:
        made = window.reshape(-1, planes.shape[place]) @ matrix.T
    else:
        made = np.matmul(matrix, window.reshape(-1, planes.shape[place], inner))
    return made.reshape(*before, len(matrix), *after)


def _band(old: int, new: int, start: int, stop: int, order: int) -> tuple[int, int, NDArray[np.float32]]:
    """The old planes [low, high) that new planes [start, stop) draw on, and the weights (new, old) between them."""
    low, weights = _weights(old, new, order)
    first = int(low[start:stop].min())
    end = min(old, int(low[start:stop].max()) + weights.shape[1])
    taps = np.clip(low[start:stop, None] + np.arange(weights.shape[1]), 0, old - 1)
    first = max(first, 0)
    matrix = np.zeros((stop - start, end - first), np.float64)
    np.add.at(matrix, (np.arange(stop - start)[:, None], taps - first), weights[start:stop])
    return first, end, matrix.astype(np.float32)


@lru_cache(maxsize=64)
def _weights(old: int, new: int, order: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each new voxel the first old voxel it draws on (maybe outside), and the weights from there on."""
    widen = max(1.0, old / new)
    reach = widen * (1.0 if order == 1 else 2.0)
    center = (np.arange(new) + 0.5) * (old / new) - 0.5
    low = np.floor(center - reach).astype(np.int64) + 1
    taps = low[:, None] + np.arange(int(np.ceil(2.0 * reach)))
    away = np.abs(taps - center[:, None]) / widen
    if order == 1:
        weights = np.maximum(0.0, 1.0 - away)
    else:
        near = (1.5 * away - 2.5) * away * away + 1.0
        far = ((-0.5 * away + 2.5) * away - 4.0) * away + 2.0
        weights = np.where(away < 1.0, near, np.where(away < 2.0, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return low, weights


def _checked(array: NDArray[Any], shape: Sequence[int]) -> Axes:
    wanted = tuple(int(size) for size in shape)
    if array.ndim < 3 or len(wanted) != 3 or min(wanted) < 1 or min(array.shape[-3:]) < 1:
        raise DataError(f"Cannot resample {array.shape} to {wanted}; expected three axes of at least one voxel.")
    return wanted


def _slowest(array: NDArray[Any]) -> int:
    return int(np.argmax(np.abs(array.strides[-3:])))


def _like(array: NDArray[Any], shape: Axes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array whose axes lie in memory in the order of those of `array`."""
    slow = sorted(range(3), key=lambda axis: -abs(array.strides[array.ndim - 3 + axis]))
    lead = array.shape[:-3]
    made = np.empty((*lead, *(shape[axis] for axis in slow)), dtype)
    return made.transpose((*range(len(lead)), *(len(lead) + slow.index(axis) for axis in range(3))))


def _planes(array: NDArray[Any], axis: int, start: int, stop: int) -> NDArray[Any]:
    first, second, third = (slice(start, stop) if turn == axis else slice(None) for turn in range(3))
    return array[..., first, second, third]


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, _BLOCK):
        yield start, min(start + _BLOCK, size)
