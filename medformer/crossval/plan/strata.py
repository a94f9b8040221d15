"""What folds are balanced by: one stratum per case, from sites, labels and covariates at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medformer.crossval.plan import PlanCase, some
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.missing import known

_MOST_GROUPS = 20
_FIELDS = ("site", "label")


@dataclass(frozen=True)
class Column:
    """One column over the cases of a plan.

    Attributes:
        name: `site`, `label` or a covariate.
        texts: Each case's category; empty where it is not known, and everywhere in a continuous column.
        numbers: Each case's number, not finite where it is not known; None in a column of categories.
    """

    name: str
    texts: tuple[str, ...]
    numbers: tuple[float, ...] | None = None

    @property
    def known(self) -> tuple[bool, ...]:
        """Whether each case has a value."""
        if self.numbers is not None:
            return tuple(math.isfinite(number) for number in self.numbers)
        return tuple(bool(text) for text in self.texts)


def with_strata(cases: Sequence[PlanCase], columns: Sequence[str], bins: int) -> tuple[PlanCase, ...]:
    """Give each case the stratum that its values in several columns make up, e.g. `"site=kvasir, size 1 of 3"`.

    Categories are taken as they are, continuous columns (see `read_column`) are cut into quantile bins over all cases.
    Cases without a value in a column share a stratum, e.g. `"age unknown"`. Where no case has a site, all share an
    unknown site; any other column without a value is an error.

    Args:
        cases: In manifest order.
        columns: `site`, `label` or names of covariates; no column gives every case the same, empty stratum.
        bins: Quantile bins of a continuous column, at least 1.

    Raises:
        ConfigError: A column that no case has (with the nearest one), or in which every cell is empty.
        DataError: An infinite number in a column of numbers.
    """
    if bins < 1:
        raise ConfigError(f"Got {bins} bins to balance folds by; expected at least 1.")
    names = column_names(cases)
    parts: list[list[str]] = []
    for name in dict.fromkeys(columns):
        if name not in names:
            raise UnknownNameError("column to balance folds by", name, names)
        _check_finite(cases, name)
        column = read_column(cases, name, bins)
        if name != "site" and not any(column.known):
            raise ConfigError(
                f"Cannot balance folds by '{name}': none of the {len(cases)} cases has a value there. "
                "Fill the column in the manifest, or take it out of crossval.stratify."
            )
        parts.append(_strata(column, bins))
    return tuple(replace(case, stratum=", ".join(texts)) for case, *texts in zip(cases, *parts, strict=True))


def require_groups(cases: Sequence[PlanCase], columns: Sequence[str]) -> None:
    """See that columns can make subgroups of the cases.

    Raises:
        ConfigError: A column that no case has (with the nearest one), in which every cell is empty, or with more
            categories than a table of subgroups holds.
    """
    names = column_names(cases)
    for name in columns:
        if name not in names:
            raise UnknownNameError("column to make subgroups of", name, names)
        cells = column_cells(cases, name)
        found = {cell for cell in cells if cell}
        if not found:
            raise ConfigError(
                f"report.subgroups: none of the {len(cases)} cases has a value in '{name}'. Fill the column in the "
                "manifest, or take it out."
            )
        if len(found) > _MOST_GROUPS and _numbers(cells) is None:
            raise ConfigError(
                f"report.subgroups: the column '{name}' has {len(found)} different values, such as '{min(found)}'; "
                f"expected at most {_MOST_GROUPS} categories, or numbers, which are cut into bins. Take it out, or "
                "join categories."
            )


def column_names(cases: Sequence[PlanCase]) -> tuple[str, ...]:
    """Names of all columns: `site`, `label`, then the covariates in their order."""
    return tuple(dict.fromkeys([*_FIELDS, *(name for case in cases for name in case.covariates)]))


def read_column(cases: Sequence[PlanCase], name: str, bins: int) -> Column:
    """Read one column over all cases; `site` and `label` hide covariates of these names.

    A covariate is continuous when all its filled cells are numbers and more than `max(bins, 2)` of them are different.
    More categories than that, if they are coded as numbers, need a letter, such as `scanner 3`. Numbers that are
    categories are spelled in one way, so that `1` and `1.0` are the same; an infinite number counts as not known.

    Raises:
        DataError: An infinite number in a column of numbers.
    """
    cells = column_cells(cases, name)
    numbers = None if name in _FIELDS else _numbers(cells)
    if numbers is None:
        return Column(name, tuple(cells))
    if len({number for number in numbers if math.isfinite(number)}) > max(bins, 2):
        return Column(name, ("",) * len(cells), tuple(numbers))
    return Column(name, tuple(f"{number:g}" if math.isfinite(number) else "" for number in numbers))


def quantile_bins(values: Sequence[float], bins: int) -> list[int]:
    """Number the quantile bin of each value from 0 without gaps; ties share a bin, and NaN gets -1.

    Args:
        values: One number per case.
        bins: How many bins; fewer result when many values tie.
    """
    array = np.asarray(values, dtype=float)
    finite = np.isfinite(array)
    numbers = np.full(len(array), -1)
    if finite.any():
        edges = np.quantile(array[finite], np.linspace(0, 1, bins + 1)[1:-1])
        # A bin between two edges may hold no value, so the bins that do are numbered anew.
        numbers[finite] = np.unique(np.searchsorted(edges, array[finite], side="left"), return_inverse=True)[1]
    return [int(number) for number in numbers]


def _strata(column: Column, bins: int) -> list[str]:
    if column.numbers is None:
        return [f"{column.name}={text}" if text else f"{column.name} unknown" for text in column.texts]
    numbers = quantile_bins(column.numbers, bins)
    total = max(numbers) + 1
    return [f"{column.name} {i + 1} of {total}" if i >= 0 else f"{column.name} unknown" for i in numbers]


def column_cells(cases: Sequence[PlanCase], name: str) -> list[str]:
    """A column as text; empty where a value is not known."""
    return [known(getattr(case, name) if name in _FIELDS else case.covariates.get(name, "")) for case in cases]


def _numbers(cells: Sequence[str]) -> list[float] | None:
    """The cells as numbers, empty ones NaN; None when one is no number."""
    try:
        return [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None


def _check_finite(cases: Sequence[PlanCase], name: str) -> None:
    numbers = (None if name in _FIELDS else _numbers(column_cells(cases, name))) or []
    infinite = [case.id for case, number in zip(cases, numbers, strict=False) if math.isinf(number)]
    if infinite:
        raise DataError(
            f"Column '{name}' holds an infinite number for {some(infinite)}; expected finite numbers, or an empty cell "
            "where the value is not known. Correct the manifest."
        )
