"""Reading cells of a scored table, whose rows are in memory or come from a CSV file: both must give the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.missing import is_missing, known

Row = Mapping[str, Any]

Part = Callable[[NDArray[np.intp], Sequence[str]], Mapping[str, Any]]
"""Gets row numbers and their groups, and returns numbers of these rows by key."""


@dataclass(frozen=True)
class Contents:
    """A scored table, read.

    Attributes:
        head: The rules that the numbers were made under, which stand before them in a summary.
        definitions: What each number means, for those that are there.
        parts: What can be said about any rows; each gives some keys of a block.
    """

    head: Mapping[str, Any]
    definitions: Mapping[str, Any]
    parts: Sequence[Part]


def cell(row: Row, column: str) -> Any:
    """The value of a column that must be there.

    Raises:
        DataError: It is not.
    """
    if column not in row:
        raise DataError(f"{row.get('id', 'A row')} has no column '{column}'. Expected the columns of a scored table.")
    return row[column]


def number(row: Row, column: str) -> float:
    """A cell as a number; NaN where it is empty.

    Raises:
        DataError: The column is missing, or the cell is no number.
    """
    value = cell(row, column)
    if is_missing(value):
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{row.get('id', 'A row')}: column '{column}' holds {value!r}, expected a number.") from None


def numbers(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    """A column as numbers, shape (rows,); raises as `number`."""
    return np.array([number(row, column) for row in rows], np.float64)


def distinct(rows: Sequence[Row], column: str) -> list[float]:
    """The different numbers of a column, ascending; empty cells count as one NaN at the end. Raises as `number`."""
    values: list[float] = np.unique(numbers(rows, column)).tolist()
    return values


def has(rows: Sequence[Row], *columns: str) -> bool:
    """Whether any row has one of these columns: a table of an earlier version may lack them all."""
    return any(column in row for row in rows for column in columns)


def one_value(rows: Sequence[Row], column: str, what: str) -> str:
    """The text that every row has in a column.

    Args:
        rows: Of a table.
        column: Its name.
        what: What it names, in the plural, for the message.

    Raises:
        DataError: The column is missing, or the rows differ.
    """
    found = {str(cell(row, column)) for row in rows}
    if len(found) > 1:
        raise DataError(
            f"The rows were scored under different {what} ({', '.join(sorted(found))}); expected one. "
            "Score all cases again with the same one."
        )
    return found.pop()


def has_groups(rows: Sequence[Row]) -> bool:
    """Whether any row says which patient or sequence it is of."""
    return any(known(row.get("group")) for row in rows)


def group_names(rows: Sequence[Row]) -> list[str]:
    """The group that each row is resampled with: its own, else its case, which may have a row in each repeat."""
    names: list[str] = []
    for index, row in enumerate(rows):
        group, case = known(row.get("group")), row.get("id")
        names.append(f"group {group}" if group else f"row {index}" if case in (None, "") else f"case {case}")
    return names
