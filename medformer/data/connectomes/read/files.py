"""Files of one subject: a time series of regions (`.1D`), or a square matrix of correlations.

A `.1D` file has one line per time point, with columns separated by tabs, commas or spaces. The regions' numbers may
stand in a first line, each or as a whole behind `#`, or as bare words; other lines that begin with `#` are comments.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.atlases import ATLASES
from medformer.connectome.measures import to_triangle, triangle_regions
from medformer.data.connectomes.read.source import UnusableError, are_numbers
from medformer.files import write_text


@dataclass(frozen=True)
class Series:
    """One file.

    Attributes:
        values: Shape (T, R), float32; NaN where the file says so or has an empty cell.
        numbers: The header's word for each region, without `#`; None without a header.
    """

    values: NDArray[np.float32]
    numbers: tuple[str, ...] | None


def read_series(path: Path) -> Series:
    """Read a file.

    Raises:
        UnusableError: It cannot be read, is empty or ragged (`corrupt`), or ends in the middle of a line (`truncated`).
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UnusableError("corrupt", f"it is not text (byte {error.start})") from None
    except OSError as error:
        raise UnusableError("corrupt", f"it cannot be read ({error.strerror})") from None
    header: list[str] | None = None
    rows: list[list[float]] = []
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for place, (number, line) in enumerate(filled):
        cells = _cells(line)
        if line.lstrip().startswith("#") or (
            not rows and header is None and not are_numbers(cell for cell in cells if cell.strip())
        ):
            # The last line before the numbers is the header; those above it are comments.
            header = header if rows else [cell.strip().strip("#\"' ") for cell in _cells(line.lstrip().lstrip("# "))]
            continue
        last = place == len(filled) - 1 and len(rows) > 0
        try:
            row = [float(cell) if cell.strip() else np.nan for cell in cells]
        except ValueError:
            reason = "truncated" if last and len(cells) <= len(rows[0]) else "corrupt"
            raise UnusableError(reason, f"line {number} holds something that is no number") from None
        if rows and len(row) != len(rows[0]):
            cut = last and len(row) < len(rows[0])
            where = "the last line, " if cut else ""
            raise UnusableError(
                "truncated" if cut else "corrupt",
                f"{where}line {number}, has {len(row)} numbers; the lines before have {len(rows[0])}",
            )
        rows.append(row)
    if not rows:
        raise UnusableError("corrupt", "it holds no numbers")
    values = np.asarray(rows, np.float32)
    numbers = tuple(header) if header is not None and len(header) == values.shape[1] else None
    return Series(values, numbers)


def _cells(line: str) -> list[str]:
    text = line.strip()
    for separator in ("\t", ","):
        if separator in text:
            return text.removesuffix(separator).split(separator)
    return text.split()


def derivative(atlas: str) -> str:
    """What the project's files call the series of an atlas, such as rois_dosenbach160 for dos160."""
    known = ATLASES.get(atlas)
    return f"rois_{known.aliases[0] if known is not None and known.aliases else atlas}"


def label_table(folder: Path, atlas: str) -> Path:
    """Where a folder that this software wrote keeps the numbers, names and places of an atlas's regions.

    Two levels down, where no reader takes the table for a subject's matrix.
    """
    return folder / "Outputs" / "labels" / f"{atlas}_labels.csv"


def write_series(folder: Path, identity: str, atlas: str, values: NDArray[Any], labels: Sequence[int]) -> Path:
    """Write one `.1D` file atomically: a header with each region's number, then one line per volume, tabs between.

    Args:
        folder: That of the pipeline and strategy; the atlas's folder is made in it.
        identity: The scan (FILE_ID).
        atlas: Name of the atlas.
        values: Shape (T, R).
        labels: Number of each region.

    Returns:
        The file.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    kind = derivative(atlas)
    path = folder / kind / f"{identity}_{kind}.1D"
    write_text(path, "".join(_lines(values, labels)))
    return path


def _lines(values: NDArray[Any], labels: Sequence[int]) -> Iterator[str]:
    yield "\t".join(f"#{label}" for label in labels) + "\n"
    line = "\t".join(["%.6g"] * values.shape[1]) + "\n"
    for volume in values.tolist():
        yield line % tuple(volume)


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
