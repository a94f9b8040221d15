"""Symmetric matrices as vectors of their upper triangles, and back."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError

Real = TypeVar("Real", bound=np.floating[Any])


def triangle_size(regions: int, diagonal: bool = False) -> int:
    """Numbers in the upper triangle of a matrix (regions, regions), with or without its diagonal."""
    return regions * (regions + 1 if diagonal else regions - 1) // 2


def triangle_regions(size: int, diagonal: bool = False) -> int:
    """The number of regions whose triangle holds `size` numbers.

    Raises:
        DataError: There is no such number.
    """
    root = math.isqrt(8 * size + 1)
    regions = (root - 1) // 2 if diagonal else (root + 1) // 2
    if size < 1 or triangle_size(regions, diagonal) != size:
        expected = "R(R + 1)/2 with the diagonal" if diagonal else "R(R - 1)/2 without the diagonal"
        raise DataError(f"Got vectors of {size} number(s); expected the triangle of a matrix (R, R): {expected}.")
    return regions


def to_triangle(matrices: NDArray[Real], diagonal: bool = False) -> NDArray[Real]:
    """Upper triangles (n, d) of matrices (n, R, R), row by row as `np.triu_indices` lists them.

    Args:
        matrices: Symmetric matrices; only the upper triangle is read.
        diagonal: Whether the diagonal comes along.

    Raises:
        DataError: The matrices are not square.
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise DataError(f"Got matrices of shape {matrices.shape}; expected (subjects, regions, regions).")
    rows, columns = np.triu_indices(matrices.shape[1], 0 if diagonal else 1)
    return matrices[:, rows, columns]


def to_matrices(triangles: NDArray[Real], regions: int, diagonal: bool = False) -> NDArray[Real]:
    """Symmetric matrices (n, R, R) of triangles (n, d); a triangle without diagonal gets ones there.

    Args:
        triangles: In the order of `to_triangle`.
        regions: R.
        diagonal: Whether the triangles hold the diagonal.

    Raises:
        DataError: The number of regions does not fit.
    """
    expected = triangle_size(regions, diagonal)
    if triangles.ndim != 2 or triangles.shape[1] != expected:
        raise DataError(
            f"Got triangles of shape {triangles.shape}; expected (subjects, {expected}), which is what {regions} "
            f"regions make {'with' if diagonal else 'without'} the diagonal."
        )
    matrices = np.ones((len(triangles), regions, regions), triangles.dtype)
    rows, columns = np.triu_indices(regions, 0 if diagonal else 1)
    matrices[:, rows, columns] = triangles
    matrices[:, columns, rows] = triangles
    return matrices
