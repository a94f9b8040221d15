"""Files of time series of regions (`.1D`), one per subject.

A `.1D` file has one line per time point, with columns separated by tabs, commas or spaces. The regions' numbers may
stand in a first line, each or as a whole behind `#`, or as bare words; other lines that begin with `#` are comments.
A first column that counts the time points is no region.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.array_file import ArrayFileError, require_file
from medformer.connectome.atlases import ATLASES
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
    lines = read_lines(path)
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
    with np.errstate(over="ignore"):
        values = np.asarray(rows, np.float32)
    if _counts(values[:, 0]) and values.shape[1] > 1:
        header = header[1:] if header is not None and len(header) == values.shape[1] else header
        values = values[:, 1:]
    numbers = tuple(header) if header is not None and len(header) == values.shape[1] else None
    return Series(values, numbers)


def _counts(column: NDArray[np.float32]) -> bool:
    """Whether a column only counts the time points, as pandas writes its index, and is no region."""
    return len(column) > 2 and column[0] in (0, 1) and bool((np.diff(column) == 1).all())


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        UnusableError: It is no file, is empty, cannot be read, or is not UTF-8.
    """
    try:
        require_file(path)
        return path.read_text("utf-8-sig").splitlines()
    except ArrayFileError as error:
        raise UnusableError("corrupt", str(error)) from None
    except UnicodeDecodeError as error:
        raise UnusableError("corrupt", f"it is not text (byte {error.start})") from None
    except OSError as error:
        raise UnusableError("corrupt", f"it cannot be read ({error.strerror})") from None


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
