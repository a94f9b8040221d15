"""Volumes and where their voxels lie: shape and affine, comparing two grids, and turning axes to an orientation.

Arrays are (X, Y, Z) as in the file; an affine (4, 4) maps voxel indices, whose integers are voxel centers, to mm in RAS
(x grows to the patient's right, y to the front, z to the head). Axis codes name where each array axis points, such as
`RAS` or `LPI`; an oblique axis counts as the anatomical axis that it is nearest to (nibabel's rule).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt2axcodes, ornt_transform
from numpy.typing import NDArray

from medformer.errors import DataError, ResourceError

Axes = tuple[int, int, int]
"""One number for each axis of a volume."""

GRID_TOLERANCE = 0.1
"""How far apart two files may put the same voxel and still count as one grid, in voxels of the finest axis."""

_FLAT = 1e-4  # volume of the cell that unit axes span, below which three axes lie in a plane
_SQUARE = 1e-3  # cosine between two axes, below which they are at right angles; headers round to 1e-6
_REPAIR = "Where a file says so, its header is damaged; convert or export the image again."


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in space.

    Attributes:
        shape: Voxels per axis.
        affine: Voxel indices to mm, RAS, float64 (4, 4), read-only.
        placed: Whether the file says where the grid lies; False where the affine is made from voxel sizes alone, so
            that left and right are a convention and not knowledge.

    Raises:
        DataError: A shape that is not three positive numbers, or an affine that is not finite, has an axis of length
            zero or axes in one plane.
    """

    shape: Axes
    affine: NDArray[np.float64]
    placed: bool = True

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"The shape is {shape}; expected three axes of at least one voxel.")
        object.__setattr__(self, "shape", shape)
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise DataError(
                f"The affine is {_rows(affine)}; expected a finite 4 x 4 matrix whose last row is 0 0 0 1. " + _REPAIR
            )
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if not (sizes > 0).all():
            raise DataError(
                f"The voxel spacing is {_numbers(sizes)} mm; expected a size above zero along every axis. " + _REPAIR
            )
        if abs(np.linalg.det(affine[:3, :3] / sizes)) < _FLAT:
            raise DataError(
                f"The affine {_rows(affine[:3])} is singular: its axes lie in one plane; expected three directions. "
                + _REPAIR
            )
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighboring voxel centers along each array axis, mm."""
        first, second, third = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(first), float(second), float(third)

    @property
    def steps(self) -> NDArray[np.float64]:
        """What distances are measured with, mm: the spacing, (3,).

        Where axes are not at right angles (a sheared grid), the vectors from voxel to voxel as columns, (3, 3).
        """
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        sheared = np.abs(directions.T @ directions - np.eye(3)).max() > _SQUARE
        return np.array(self.affine[:3, :3] if sheared else self.spacing)

    @property
    def axcodes(self) -> str:
        """Where each array axis points, such as `RAS`."""
        return "".join(ornt2axcodes(io_orientation(self.affine)))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, right for sheared affines too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)


def corner_distance(first: Geometry, second: Geometry) -> float:
    """The largest distance in mm between where two grids put the same corner voxel.

    Affine maps differ most at a corner, so no voxel of the box is farther apart. For grids of different shape, the
    corners of the first are compared.
    """
    ends = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in first.shape))], dtype=np.float64)
    return float(np.linalg.norm((ends @ (first.affine - second.affine).T)[:, :3], axis=1).max())


def same_grid(first: Geometry, second: Geometry, *, tolerance_mm: float) -> str:
    """Say why two grids differ; empty where they are the same.

    Args:
        first: One grid.
        second: The other.
        tolerance_mm: How far apart the same corner voxel may lie.
    """
    if first.shape != second.shape:
        return f"the shapes differ: {times(first.shape)} and {times(second.shape)} voxels"
    distance = corner_distance(first, second)
    if distance <= tolerance_mm:
        return ""
    axes = f" (axes {first.axcodes} and {second.axcodes})" if first.axcodes != second.axcodes else ""
    return (
        f"the affines put the same voxel up to {distance:.3g} mm apart{axes}; at most {tolerance_mm:.3g} mm is allowed"
    )


def reorient(array: NDArray[Any], affine: NDArray[np.float64], codes: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Swap and reverse axes so that they point where `codes` says; no voxel is changed.

    The result is a view: to turn something back, write it into the turned view of an array on the original grid.

    Args:
        array: (..., X, Y, Z).
        affine: Of its last three axes.
        codes: Such as `RAS`.

    Returns:
        A view of the array, and its affine.

    Raises:
        DataError: `codes` does not name each of the three directions once.
    """
    return _turned(array, affine, ornt_transform(io_orientation(affine), _wanted(codes)))


def _turned(
    array: NDArray[Any], affine: NDArray[np.float64], turn: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Swap and reverse axes as `turn` says: for each axis, which one it becomes, and -1 where it is reversed."""
    shape = array.shape[-3:]
    lead = array.ndim - 3
    first, second, third = (slice(None, None, int(flip)) for flip in turn[:, 1])
    flipped = array[..., first, second, third]
    # Entry i of `turn` says which output axis the input axis i becomes.
    order = np.argsort(turn[:, 0])
    view = flipped.transpose((*range(lead), *(lead + int(axis) for axis in order)))
    return view, affine @ inv_ornt_aff(turn, shape)


def _wanted(codes: str) -> NDArray[np.float64]:
    pairs = ("RL", "AP", "SI")
    if len(codes) != 3 or any(sum(code in pair for code in codes.upper()) != 1 for pair in pairs):
        raise DataError(
            f"The orientation is '{codes}'; expected one of R or L, one of A or P and one of S or I in any order, "
            "such as RAS."
        )
    return axcodes2ornt(codes.upper())


def _rows(matrix: NDArray[np.float64]) -> str:
    return "[" + "; ".join(_numbers(row) for row in np.atleast_2d(matrix)) + "]"


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6g}" for value in np.ravel(values))


def times(numbers: Iterable[object]) -> str:
    """Numbers with crosses between them, such as 4 x 5 x 6."""
    return " x ".join(map(str, numbers))


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate about the first axis, then the second, then the third, by angles in radians: (3, 3)."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


LABEL_RANGE = np.iinfo(np.int32)
"""Values that a label may have."""

_MOST_COUNTED = 2**20
_FEW_LABELS = 20  # up to so many different values, a label map is not asked whether it is an image
_REGIONS = 0.25  # of neighboring voxels share their label at least; in an atlas 0.8 do, in images less than 0.1

MAX_BYTES = 4 * 2**30
"""Largest volume that is read, as stored and as float32; 512 x 512 x 2000 float32 is half of it."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        array: (X, Y, Z): float32 for images, integers for label maps.
        geometry: Of the array.
        path: Where it was read from.
        stored: Type of the values in the file, such as `int16`.
        sha256: Hash of the file at `path`, computed while it was read; empty for a folder of DICOM files and where
            the file was not read.
        remark: How two positions that the file states differ; empty where they agree.
        names: Name of each label value that the file gives one, as a DICOM segmentation does.
    """

    array: NDArray[Any]
    geometry: Geometry
    path: Path
    stored: str = ""
    sha256: str = ""
    remark: str = ""
    names: Mapping[int, str] = field(default_factory=dict)


def empty_voxels(path: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Memory for the voxels of `path`.

    Raises:
        DataError: They are more than `MAX_BYTES`.
        ResourceError: There is not enough.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if needed > MAX_BYTES:
        raise DataError(
            f"{path} declares {times(shape)} voxels, {needed:,} bytes in memory; at most {MAX_BYTES:,} are read. "
            "Crop or downsample it, or correct its header."
        )
    try:
        return np.empty(shape, dtype)
    except MemoryError as error:
        raise ResourceError(
            f"{path} needs {needed:,} bytes of memory, which are not there. "
            "Close other programs, or use a machine with more memory."
        ) from error


def smallest_integer(low: int, high: int) -> np.dtype[Any]:
    """The smallest of uint8, uint16, int16 and int32 that holds `low` to `high`.

    Raises:
        DataError: None does.
    """
    for dtype in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise DataError(
        f"Labels run from {low} to {high}; expected at most 32 bits ({LABEL_RANGE.min} to {LABEL_RANGE.max})."
    )


def turn_onto(volume: Volume, grid: Geometry) -> Volume:
    """Swap and reverse the axes of a volume so that they run as those of a grid; no voxel is changed.

    Programs write the same box with axes in different directions: a label map drawn on a DICOM series comes back with
    columns that run to the left or to the right. Whether it is the same box is for the caller to see (`same_grid`).

    Returns:
        The volume itself where axes run alike already, where no such turn exists, or where one of the two headers does
        not say where its grid lies; else its voxels, in the order in memory that a file's voxels have, with the affine
        that belongs to them.
    """
    own = volume.geometry
    steps = np.rint(np.linalg.solve(grid.affine[:3, :3], own.affine[:3, :3]))
    moves = np.abs(steps)
    if np.array_equal(steps, np.eye(3)) or not (own.placed and grid.placed):
        return volume
    if not ((moves.sum(0) == 1).all() and (moves.sum(1) == 1).all()):
        return volume
    array, affine = _turned(volume.array, own.affine, np.stack([moves.argmax(0), steps.sum(0)], axis=1))
    first, second, third = array.shape
    # Sums depend on the order in memory by a rounding error; so they are those of a file that needs no turn.
    array = np.asfortranarray(array)
    return replace(volume, array=array, geometry=Geometry((first, second, third), affine, own.placed))


def seems_an_image(labels: NDArray[Any], values: int) -> str:
    """Why a label map seems to be an image: many values, and few neighbors that share one; empty where it does not.

    Args:
        labels: Integers (X, Y, Z).
        values: How many different ones there are.
    """
    if values <= _FEW_LABELS:
        return ""
    pairs = same = 0
    for plane in labels if labels.flags.c_contiguous else labels.T:
        for one, other in ((plane[1:], plane[:-1]), (plane[:, 1:], plane[:, :-1])):
            both = (one > 0) & (other > 0)
            pairs += int(np.count_nonzero(both))
            same += int(np.count_nonzero(both & (one == other)))
    if same >= _REGIONS * pairs:
        return ""
    return (
        f"it holds {values} different values, and only {same / pairs:.0%} of neighboring voxels have the same one, as "
        "in an image; a label map is made of regions. Are images and label maps mixed up?"
    )


def label_counts(labels: NDArray[Any]) -> dict[int, int]:
    """How often each value occurs, by ascending value; plane by plane, so that no large copy is made.

    Args:
        labels: Integers (X, Y, Z).
    """
    low, high = int(labels.min()), int(labels.max())
    planes = labels if labels.flags.c_contiguous else labels.T
    if high - low < _MOST_COUNTED:
        counts = np.zeros(high - low + 1, np.int64)
        for plane in planes:
            counts += np.bincount(plane.ravel().astype(np.intp) - low, minlength=len(counts))
        return {int(value) + low: int(counts[value]) for value in np.flatnonzero(counts)}
    found: Counter[int] = Counter()
    for plane in planes:
        values, numbers = np.unique(plane, return_counts=True)
        found.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return dict(sorted(found.items()))
