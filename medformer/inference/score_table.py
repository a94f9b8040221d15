"""Tables of scores as files: one row for each case, and its curves beside it, in a table of their own.

A curve in one cell would make the table of scores unreadable in a spreadsheet. Read together, the two give the rows
that were written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.errors import DataError
from medformer.files import read_csv, write_csv

CURVE = "e_curve"
"""Column of the rows in memory: the numbers of a curve, with semicolons between them."""

FILE = "curves.csv"
"""Beside a table of scores: id, repeat, and the E-measure at each threshold k / 255 (`e_k`)."""

_POINT = "e_{}"


def write_score_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Path]:
    """Write a table of scores and, where the rows have curves, these.

    Returns:
        The files.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    curves, written = path.with_name(FILE), [path]
    if CURVE in columns:
        keys = [name for name in ("id", "repeat") if name in columns]
        points = [str(row[CURVE]).split(";") for row in rows]
        names = [_POINT.format(level) for level in range(len(points[0]))]
        table = [
            {**{key: row[key] for key in keys}, **dict(zip(names, values, strict=True))}
            for row, values in zip(rows, points, strict=True)
        ]
        write_csv(curves, table, [*keys, *names])
        written.append(curves)
    short = [{name: cell for name, cell in row.items() if name != CURVE} for row in rows]
    write_csv(path, short, [name for name in columns if name != CURVE])
    return written


def add_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Give the rows of a table of scores the curves that lie beside it; nothing where there are none.

    Raises:
        DataError: The curves are not those of these rows.
    """
    file = path.with_name(FILE)
    if not file.is_file():
        return
    found = {}
    for row in read_csv(file):
        points = [name for name in row if name not in ("id", "repeat")]
        found[row.get("id"), str(row.get("repeat"))] = ";".join(str(row[name]) for name in points)
    for row in rows:
        key = (row.get("id"), str(row.get("repeat")))
        if key not in found:
            raise DataError(f"{file} has no curve of case '{key[0]}' of {path}. Restore both, as they were written.")
        row[CURVE] = found[key]
