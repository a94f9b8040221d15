"""Which rows of a table belong together: folds, repeats, sites, lesion sizes, sexes, ages and columns of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.masks.segmentation import SIZES
from medformer.evaluation.table import Row
from medformer.missing import known

UNKNOWN = "unknown"

FEW_NUMBERS = 8
"""So many different numbers in a column are categories; more are cut into bins."""

COVARIATE = (
    f"columns of the manifest that the run names; more than {FEW_NUMBERS} different numbers are cut at their quartiles "
    f"over the rows of this table; {UNKNOWN}: the cell is empty"
)

# First year of each bin; the last one is open.
_AGE_STARTS = (0, 12, 18, 30, 40, 50, 60, 70, 80)
_OLDEST = 120

AGES: tuple[str, ...] = (
    "under 12",
    *(f"{low}-{high - 1}" for low, high in pairwise(_AGE_STARTS[1:])),
    f"{_AGE_STARTS[-1]} or older",
)

DEFINITIONS: dict[str, str] = {
    "site": f"hospital or data set as the manifest names it; {UNKNOWN} where it names none",
    "sex": f"as the manifest states it, m and f spelled out; {UNKNOWN} where it states none",
    "age": f"in completed years, bins that are the same for every table; {UNKNOWN} where the manifest states none, or "
    f"one that is below 0 or above {_OLDEST}. Cells that are no numbers are taken as names of bins",
}
"""How the parts of a split come about, for splits that leave a choice."""

_SEXES = {"m": "male", "f": "female"}


def splits(rows: Sequence[Row]) -> dict[str, dict[str, NDArray[np.intp]]]:
    """Split a table in every way that its columns allow.

    Folds and lesion sizes are known for all rows or not used; repeats are used when there are several. Sites, sexes and
    ages are used when any row has one; rows without one form the part `unknown`, which comes last.

    Returns:
        For `fold`, `repeat`, `site`, `size`, `sex` and `age`, as far as they are there: the row numbers of each part.
        In every split, each row is in one part.
    """
    found: dict[str, dict[str, NDArray[np.intp]]] = {}
    for column in ("fold", "repeat", "site", "size", "sex", "age"):
        if not any(column in row for row in rows):
            continue
        names = _READERS.get(column, _texts)([row.get(column) for row in rows])
        values = set(names) - {UNKNOWN}
        optional = column in DEFINITIONS
        if not values or (not optional and UNKNOWN in names) or (column == "repeat" and len(values) < 2):
            continue
        labels = np.array(names)
        found[column] = {name: np.flatnonzero(labels == name) for name in sorted(set(names), key=_order)}
    return found


def covariate_parts(cells: Sequence[Any]) -> dict[str, NDArray[np.intp]]:
    """Split rows by a column that the user names; each row is in one part.

    Categories are parts. A column of numbers with more than `FEW_NUMBERS` different ones is cut at its quartiles, which
    are rounded to four digits so that the names of the parts are exact; equal numbers are in one part. Rows without a
    value form the part `unknown`, which comes last.

    Args:
        cells: One for each row.
    """
    texts = _texts(cells)
    numbers = [math.nan if text == UNKNOWN else _number(text) for text in texts]
    values = np.array([math.nan if number is None else number for number in numbers])
    if None in numbers:
        names, order = texts, sorted(set(texts), key=_order)
    elif len(np.unique(values[np.isfinite(values)])) <= FEW_NUMBERS:
        # A column of codes may be spelled 1 in one row and 1.0 in another.
        names = [f"{value:g}" if math.isfinite(value) else UNKNOWN for value in values]
        order = [f"{value:g}" for value in np.unique(values[np.isfinite(values)])] + [UNKNOWN] * (UNKNOWN in names)
    else:
        names, order = _quartiles(values)
    labels = np.array(names)
    return {name: np.flatnonzero(labels == name) for name in order if name in names}


def _quartiles(values: NDArray[np.float64]) -> tuple[list[str], list[str]]:
    """The name of each number's part, and the parts in order."""
    known_values = values[np.isfinite(values)]
    edges = sorted({float(f"{edge:.4g}") for edge in np.quantile(known_values, (0.25, 0.5, 0.75))})
    parts = [
        f"up to {edges[0]:.4g}",
        *(f"above {low:.4g}, up to {high:.4g}" for low, high in pairwise(edges)),
        f"above {edges[-1]:.4g}",
    ]
    places = np.searchsorted(edges, values, side="left")
    names = [parts[place] if math.isfinite(value) else UNKNOWN for place, value in zip(places, values, strict=True)]
    return names, [*parts, UNKNOWN]


def age_bin(years: float) -> str:
    """Name the bin of an age in years; `unknown` for what is no age."""
    if not 0 <= years <= _OLDEST:
        return UNKNOWN
    return AGES[sum(years >= start for start in _AGE_STARTS) - 1]


def _texts(cells: Sequence[Any]) -> list[str]:
    """Cells as text; what stands for a missing value is unknown."""
    return [known(cell) or UNKNOWN for cell in cells]


def _sizes(cells: Sequence[Any]) -> list[str]:
    """Sizes as text; `none` is the size of an image without foreground."""
    return ["none" if cell == "none" else text for cell, text in zip(cells, _texts(cells), strict=True)]


def _sexes(cells: Sequence[Any]) -> list[str]:
    names: list[str] = []
    for text in _texts(cells):
        code = _number(text)
        # A column of codes comes back from a file as 1.0 when another cell is empty.
        names.append(_SEXES.get(text.lower(), text.lower()) if code is None else f"{code:g}")
    return names


def _ages(cells: Sequence[Any]) -> list[str]:
    texts = _texts(cells)
    years = [math.nan if text == UNKNOWN else _number(text) for text in texts]
    return [age_bin(value) for value in years if value is not None] if None not in years else texts


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _order(name: str) -> tuple[int, int, str]:
    """Sizes and ages in their order, then numbers by value, then names, and last what is not known."""
    for listed in (tuple(SIZES), AGES):
        if name in listed:
            return 0, listed.index(name), name
    if name == UNKNOWN:
        return 3, 0, name
    return (1, int(name), name) if name.isdecimal() else (2, 0, name)


_READERS: Mapping[str, Callable[[Sequence[Any]], list[str]]] = {"size": _sizes, "sex": _sexes, "age": _ages}
