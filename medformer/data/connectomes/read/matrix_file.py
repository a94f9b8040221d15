"""One matrix of correlations: reading it from a file, and turning it into a vector of edges."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.measures import to_triangle, triangle_regions
from medformer.data.connectomes.read.source import UnusableError, are_numbers

SUFFIXES = {".npy", ".csv", ".tsv", ".txt", ".mat"}

# Half-precision files round by up to one part in a thousand.
_TOLERANCE = 1e-3


def read_square(path: Path) -> NDArray[Any]:
    """Read a matrix (R, R) from a `.npy`, text or MATLAB (up to version 7) file.

    A first line or column of words, as spreadsheets have it, is skipped. A `.mat` file holds one square matrix.

    Raises:
        UnusableError: The file cannot be read, or holds something else.
    """
    try:
        matrix = {".npy": _npy, ".mat": _mat}.get(path.suffix, _text)(path)
    except (OSError, ValueError, EOFError, TypeError, NotImplementedError) as error:
        hint = "; save it with -v7" if isinstance(error, NotImplementedError) else ""
        raise UnusableError("corrupt", f"it cannot be read ({error}){hint}") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "fiu":
        raise UnusableError("corrupt", f"found {matrix.dtype} {matrix.shape}; expected one square matrix of numbers")
    return matrix


def as_edges(values: NDArray[Any]) -> tuple[NDArray[np.float32], int]:
    """Check correlations and turn them into edges.

    Args:
        values: A matrix (R, R), whose diagonal is not looked at, or its upper triangle (edges,).

    Returns:
        The edges (R(R - 1)/2,) in the order of `np.triu_indices(R, 1)`, and R. NaN and infinity stay.

    Raises:
        UnusableError: The matrix is not square or not symmetric, or values lie outside [-1, 1].
        DataError: The number of edges is not that of a triangle.
    """
    edges = np.asarray(values, np.float32)
    if edges.ndim > 1:
        if edges.ndim > 2 or edges.shape[0] != edges.shape[1]:
            raise UnusableError("corrupt", f"found the shape {edges.shape}; expected one square matrix")
        if not np.allclose(edges, edges.T, rtol=0, atol=_TOLERANCE, equal_nan=True):
            raise UnusableError("not-correlation", "the matrix is not symmetric")
        edges = to_triangle(edges[np.newaxis])[0]
    is_finite = np.isfinite(edges)
    finite = edges[is_finite]
    if finite.size and np.abs(finite).max() > 1 + _TOLERANCE:
        raise UnusableError(
            "not-correlation",
            f"values reach from {finite.min():g} to {finite.max():g}; expected Pearson correlations, in [-1, 1], "
            "without Fisher's z",
        )
    return np.where(is_finite, np.clip(edges, -1, 1), edges), triangle_regions(edges.size)


def _npy(path: Path) -> NDArray[Any]:
    return np.asarray(np.load(path, allow_pickle=False))


def _mat(path: Path) -> NDArray[Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except MatReadError as error:
        raise ValueError(str(error)) from None
    squares = {
        name: value
        for name, value in content.items()
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[0] == value.shape[1] > 1
    }
    if len(squares) != 1:
        raise ValueError(f"it holds {len(squares)} square matrices ({', '.join(squares)}); expected one")
    return next(iter(squares.values()))


def _text(path: Path) -> NDArray[Any]:
    lines = path.read_text("utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    separator = next((mark for mark in (",", "\t", ";") if lines and mark in lines[0]), None)
    if separator is None:
        rows = [line.split() for line in lines]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    if rows and not are_numbers(rows[0]):
        rows = rows[1:]
    if rows and (len(rows[0]) == len(rows) + 1 or not are_numbers(rows[0][:1])):
        rows = [row[1:] for row in rows]
    return np.array(rows, np.float64)
