"""Square matrices of correlations, one file per subject, and what shows that a matrix holds something else.

What a matrix holds is known by its diagonal, which is 1 for Pearson correlations. It must not be judged by the values
of one subject: of a cohort of Fisher's z, those with small values would be kept and the others left out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.array_file import ArrayFileError, read_npy
from medformer.connectome.measures import to_triangle, triangle_regions
from medformer.data.connectomes.read.files import read_lines
from medformer.data.connectomes.read.matlab import read_mat
from medformer.data.connectomes.read.source import UnusableError, are_numbers
from medformer.errors import DataError
from medformer.missing import is_missing

SUFFIXES = {".npy", ".csv", ".tsv", ".txt", ".mat"}

Values = Literal["auto", "correlation", "fisher-z"]
"""What matrices hold: correlations with a diagonal of 1, correlations whatever the diagonal, or Fisher's z of them."""

VALUES_ADVICE = (
    "If they are correlations without their diagonal, add --values correlation; if they are Fisher's z of "
    "correlations, add --values fisher-z. Turn anything else, such as distances, into Pearson correlations first."
)

# Half-precision files round by up to one part in a thousand.
_TOLERANCE = 1e-3

_DECIMAL_COMMA = re.compile(r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)$")


class OtherValuesError(DataError):
    """Values that show that not this subject alone, but the whole source holds something else than correlations."""


@dataclass(frozen=True)
class Square:
    """One file.

    Attributes:
        values: Shape (R, R).
        names: Of the regions, from a first line or column of words; None without.
    """

    values: NDArray[Any]
    names: tuple[str, ...] | None = None


def read_square(path: Path) -> Square:
    """Read a matrix (R, R) from a `.npy`, text or MATLAB (up to version 7) file.

    Raises:
        UnusableError: The file cannot be read, or holds something else.
    """
    try:
        if path.suffix.lower() == ".npy":
            square = Square(read_npy(path))
        elif path.suffix.lower() == ".mat":
            square = Square(read_mat(path))
        else:
            square = _text(path)
    except ArrayFileError as error:
        raise UnusableError("corrupt", str(error)) from None
    matrix = square.values
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2 or matrix.dtype.kind not in "fiu":
        raise UnusableError("corrupt", f"found {matrix.dtype} {matrix.shape}; expected one square matrix of numbers")
    return square


def as_edges(values: NDArray[Any], kind: Values = "auto") -> tuple[NDArray[np.float32], int]:
    """Check correlations and turn them into edges.

    Args:
        values: A matrix (R, R), or its upper triangle (edges,) without the diagonal.
        kind: What it holds; Fisher's z is turned into correlations.

    Returns:
        The edges (R(R - 1)/2,) in the order of `np.triu_indices(R, 1)`, and R. NaN and infinity stay.

    Raises:
        UnusableError: The matrix is not square or not symmetric, or its diagonal shows that it holds no correlations.
        OtherValuesError: Values lie outside [-1, 1] although the diagonal does not show that this matrix is another
            than the others.
        DataError: The number of edges is not that of a triangle.
    """
    with np.errstate(over="ignore"):
        edges = np.asarray(values, np.float32)
    if edges.ndim > 1:
        if edges.ndim > 2 or edges.shape[0] != edges.shape[1] or len(edges) < 2:
            raise UnusableError("corrupt", f"found the shape {edges.shape}; expected one square matrix")
        if not np.allclose(edges, edges.T, rtol=0, atol=_TOLERANCE, equal_nan=True):
            raise UnusableError("not-symmetric", _asymmetry(edges))
        fault = _other_kind(edges) if kind == "auto" else None
        if fault is not None:
            raise UnusableError("not-correlation", f"{fault}; expected Pearson correlations, with a diagonal of 1")
        edges = to_triangle(edges[np.newaxis])[0]
    if kind == "fisher-z":
        return np.tanh(edges), triangle_regions(edges.size)
    is_finite = np.isfinite(edges)
    finite = edges[is_finite]
    if finite.size and np.abs(finite).max() > 1 + _TOLERANCE:
        raise OtherValuesError(
            f"values reach from {finite.min():g} to {finite.max():g}; expected Pearson correlations, in [-1, 1]. "
            f"What one subject shows holds for all of them, so nobody is kept. {VALUES_ADVICE} If only this subject's "
            "data are wrong, remove them and prepare again."
        )
    return np.where(is_finite, np.clip(edges, -1, 1), edges), triangle_regions(edges.size)


def _asymmetry(matrix: NDArray[np.float32]) -> str:
    """What is wrong with a matrix that differs from its transpose."""
    for half, one in (("lower", np.tril(matrix, -1)), ("upper", np.triu(matrix, 1))):
        if not one.any():
            return f"its {half} half is empty; fill it with the other half, as in m + m.T, with a diagonal of 1"
    both = np.isfinite(matrix) & np.isfinite(matrix.T)
    apart = np.abs(matrix[both] - matrix.T[both]).max(initial=0.0)
    if apart <= _TOLERANCE:
        return "some entries are finite on one side of the diagonal alone"
    return f"entries across the diagonal differ by up to {apart:.3g}; a correlation is the same in both directions"


def _other_kind(matrix: NDArray[np.float32]) -> str | None:
    """What shows that a symmetric matrix holds no correlations; None where nothing does."""
    rest = matrix.copy()
    np.fill_diagonal(rest, 0)
    # A region without signal has no correlations, and then anything may stand on the diagonal.
    alive = (np.isfinite(rest) & (rest != 0)).any(axis=1)
    diagonal = matrix.diagonal()[alive]
    if not diagonal.size:
        return None
    if np.abs(diagonal - 1).max() <= _TOLERANCE:
        values = rest[alive]
        binary = ((values == 0) | (values == 1)).all()
        return "every value is 0 or 1, as of an adjacency matrix" if binary else None
    if np.abs(diagonal).max() <= _TOLERANCE:
        return "the diagonal is 0, as of distances, of adjacencies, or where the diagonal was removed"
    if not np.isfinite(diagonal).all():
        odd = diagonal[~np.isfinite(diagonal)][0]
        return f"the diagonal is {odd:g}, as of Fisher's z" if np.isinf(odd) else "the diagonal is NaN"
    return f"the diagonal runs from {diagonal.min():g} to {diagonal.max():g}, as of covariances or Fisher's z"


def _text(path: Path) -> Square:
    """Read text; a first line or column of words, as spreadsheets have it, names the regions."""
    lines = [line for line in read_lines(path) if line.strip() and not line.lstrip().startswith("#")]
    # A semicolon is looked for first: numbers may have commas then, as in German or French.
    separator = next((mark for mark in (";", "\t", ",") if lines and mark in lines[0]), None)
    try:
        cells = (line.split() for line in lines) if separator is None else csv.reader(lines, delimiter=separator)
        rows = [[cell.strip() for cell in row] for row in cells]
        if separator in {";", "\t"}:
            rows = [[_DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in row] for row in rows]
    except csv.Error:
        raise UnusableError("corrupt", "it is no well-formed table") from None
    header: list[str] = []
    first: list[str] = []
    if rows and (not are_numbers(rows[0]) or rows[0] in _counted(len(rows) - 1)):
        header, rows = rows[0], rows[1:]
    if rows and (len(rows[0]) == len(rows) + 1 or not are_numbers(rows[0][:1])):
        first, rows = [row[0] for row in rows if row], [row[1:] for row in rows]
    values = [[_number(cell) for cell in row] for row in rows]
    odd = next((number for number, row in enumerate(values, 1) if len(row) != len(values[0])), None)
    if odd is not None:
        raise UnusableError(
            "corrupt", f"its row {odd} has {len(values[odd - 1])} numbers; the first has {len(values[0])}"
        )
    header = header[-len(values) :] if len(header) >= len(values) else []
    names = [line for line in (header, first) if line and line not in _counted(len(values))]
    if len(names) == 2 and names[0] != names[1]:
        raise UnusableError("corrupt", "its rows and its columns have different names, or another order")
    return Square(np.array(values, np.float64), tuple(names[0]) if names else None)


def _counted(count: int) -> Sequence[list[str]]:
    """Lines of numbers that only count the regions."""
    return [[str(place) for place in range(start, start + count)] for start in (0, 1)]


def _number(cell: str) -> float:
    try:
        return np.nan if is_missing(cell) else float(cell)
    except ValueError:
        raise UnusableError("corrupt", f"it holds '{cell[:40]}', which is no number") from None
