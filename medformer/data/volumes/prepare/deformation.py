"""Where the voxels of a patch are read: a box of a volume, turned, scaled and bent.

A box may reach beyond the volume. A deformation is drawn first, then applied in one interpolation.

Angles and displacements are in mm, so that voxels which are longer than wide are not sheared. The interpolation reads
from a crop that is larger than the patch by as much as the deformation needs, so no values have to be made up at the
patch's border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from medformer.imaging.geometry import Axes, rotation

MAX_ANGLE = np.pi / 6
"""About each axis (nnU-Net's range)."""

MAX_SCALE = 1.3
"""Largest magnification; the smallest is its inverse."""

MAX_SHIFT = 0.05
"""Of the patch's length, along each axis."""

FLAT = 3.0
"""When the longest side of a voxel exceeds the shortest by this, patches are only turned about the longest: turning out
of the sharp plane would mix slices that lie far apart (nnU-Net's rule)."""

GRID_STEPS = 4
"""Steps of the grid of control points along the patch's longest side."""

MAX_BEND = 0.3
"""Displacement of a control point in steps of their grid. Cubic splines do not fold below 0.48 (Choi and Lee 2000)."""


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


@dataclass(frozen=True)
class Deformation:
    """Where each voxel of a patch is read from.

    Attributes:
        matrix: (3, 3), from mm in the result to mm in the volume, both from the middle of the patch.
        shift: (3,), added to it, mm.
        bend: (3, I, J, K), displacements of the control points of a uniform cubic B-spline (Rueckert et al. 1999), mm;
            None for none.
        step: Between the control points, mm.
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    bend: NDArray[np.float64] | None
    step: float

    def margin(self, patch: Axes, spacing: Sequence[float]) -> Axes:
        """How many voxels per side a crop must reach beyond the patch, so that nothing is read from outside of it."""
        corners = np.array(list(product((-0.5, 0.5), repeat=3))) * ((np.array(patch) - 1) * spacing)
        reach = np.abs(corners @ self.matrix.T).max(0) + np.abs(self.shift)
        if self.bend is not None:
            # A B-spline stays within the range of its control points.
            reach += np.abs(self.bend).max(axis=(1, 2, 3))
        beyond = np.ceil(reach / spacing - (np.array(patch) - 1) / 2 - 1e-6).clip(0).astype(int)
        return int(beyond[0]), int(beyond[1]), int(beyond[2])

    def apply(
        self,
        array: NDArray[Any],
        patch: Axes,
        spacing: Sequence[float],
        *,
        nearest: bool = False,
        places: torch.Tensor | None = None,
    ) -> NDArray[Any]:
        """Deform a crop (C, X, Y, Z) around the patch's place to (C, *patch), of the same type.

        Values are interpolated linearly, or taken from the nearest voxel. Outside of the crop, the
        values of its border continue. `places` are those of this patch and crop, where they were computed before.
        """
        places = self.places(patch, spacing, array.shape[1:]) if places is None else places
        source = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]
        mode = "nearest" if nearest else "bilinear"
        result = F.grid_sample(source, places, mode=mode, padding_mode="border", align_corners=True)
        return result[0].numpy().astype(array.dtype, copy=False)

    def places(self, patch: Axes, spacing: Sequence[float], size: Sequence[int]) -> torch.Tensor:
        """(1, *patch, 3): where in a crop of `size` to read, as `grid_sample` wants it: last axis first, in [-1, 1]."""
        axes = [
            torch.arange(length, dtype=torch.float32).sub_((length - 1) / 2).mul_(side)
            for length, side in zip(patch, spacing, strict=True)
        ]
        bends = None if self.bend is None else _spline(self.bend, [axis.numpy() for axis in axes], self.step)
        grid = torch.empty(1, *patch, 3)
        for axis in range(3):
            row = self.matrix[axis] / spacing[axis]
            place = axes[0].mul(row[0])[:, None, None] + axes[1].mul(row[1])[None, :, None]
            place = place + axes[2].mul(row[2]).add_(self.shift[axis] / spacing[axis])[None, None, :]
            if bends is not None:
                place += bends[axis] / spacing[axis]
            grid[0, ..., 2 - axis] = place.mul_(2.0 / max(1, size[axis] - 1))
        return grid


def draw_deformation(
    generator: np.random.Generator, patch: Axes, spacing: Sequence[float], *, affine: bool, elastic: bool
) -> Deformation:
    """Draw a deformation.

    Args:
        generator: Decides everything.
        patch: Voxels per axis of the result.
        spacing: Of its voxels, mm.
        affine: Whether to turn, scale and shift.
        elastic: Whether to bend.
    """
    sides = np.array(patch) * spacing
    matrix, shift = np.eye(3), np.zeros(3)
    if affine:
        angles = generator.uniform(-MAX_ANGLE, MAX_ANGLE, 3)
        if max(spacing) / min(spacing) > FLAT:
            angles[np.arange(3) != int(np.argmax(spacing))] = 0.0
        scale = np.exp(generator.uniform(-np.log(MAX_SCALE), np.log(MAX_SCALE)))
        matrix = rotation(angles) / scale
        shift = generator.uniform(-MAX_SHIFT, MAX_SHIFT, 3) * sides
    bend, step = None, float(sides.max()) / GRID_STEPS
    if elastic:
        points = [int(np.ceil((length - 1) * side / step)) + 4 for length, side in zip(patch, spacing, strict=True)]
        bend = generator.uniform(-MAX_BEND, MAX_BEND, (3, *points)) * (generator.uniform() * step)
    return Deformation(matrix, shift, bend, step)


def _spline(bend: NDArray[np.float64], axes: Sequence[NDArray[np.float32]], step: float) -> torch.Tensor:
    """Displacements (3, X, Y, Z) at the given places, mm from the middle, axis after axis."""
    field = torch.from_numpy(bend.astype(np.float32))
    for axis, places in enumerate(axes):
        weights = torch.from_numpy(_weights(places, step, bend.shape[1 + axis]))
        field = torch.movedim(torch.tensordot(field, weights, dims=([1 + axis], [1])), -1, 1 + axis)
    return field


def _weights(places: NDArray[np.float32], step: float, points: int) -> NDArray[np.float32]:
    """(places, points): of each control point in the value at each place; the middle of the points is at 0."""
    distance = np.abs(places[:, None] / step - (np.arange(points) - (points - 1) / 2)[None])
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = (2.0 - distance).clip(0) ** 3 / 6.0
    return np.where(distance < 1.0, near, far).astype(np.float32)
