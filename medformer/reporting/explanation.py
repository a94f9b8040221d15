"""What `explain` left in a run folder, read for the report (see `medformer.inference.attribution.tables`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation.table import Row
from medformer.files import read_csv
from medformer.records import read_record

_AGAIN = "Run `medformer abide explain` again, or delete the folder."


@dataclass(frozen=True)
class Explanation:
    """Tables with numbers as numbers.

    Attributes:
        about: explain.json.
        edges: edges.csv, the highest contribution first.
        regions: regions.csv.
        networks: networks.csv.
    """

    about: Mapping[str, Any]
    edges: Sequence[Row]
    regions: Sequence[Row]
    networks: Sequence[Row]

    @property
    def atlases(self) -> Mapping[str, Mapping[str, Any]]:
        """By name: `regions`, `edges`, and whether `networks` and `coordinates` are known."""
        return dict(self.about["atlases"])

    def regions_of(self, atlas: str) -> list[Row]:
        """The regions of an atlas, in its order."""
        return sorted((row for row in self.regions if row["atlas"] == atlas), key=lambda row: row["index"])

    def matrix(self, atlas: str, column: str) -> NDArray[np.float64]:
        """A column of the edges of an atlas as a symmetric matrix (regions, regions); 0 on an absent diagonal."""
        regions = self.atlases[atlas]["regions"]
        matrix = np.zeros((regions, regions))
        for row in self.edges:
            if row["atlas"] == atlas:
                matrix[row["i"], row["j"]] = matrix[row["j"], row["i"]] = row[column]
        return matrix

    def coordinates(self, atlas: str) -> NDArray[np.float64]:
        """MNI coordinates, mm, (regions, 3); NaN for a region without."""
        return np.array([[_or_nan(row[axis]) for axis in "xyz"] for row in self.regions_of(atlas)])


def read_explanation(folder: Path) -> Explanation | None:
    """Read the folder `explain`; None when there is none.

    Raises:
        DataError: A file is missing or damaged.
    """
    if not (folder / "explain.json").is_file():
        return None
    try:
        about = read_record(folder / "explain.json", dict[str, Any], _AGAIN)
        tables = [_numbers(read_csv(folder / f"{name}.csv")) for name in ("edges", "regions", "networks")]
        found = Explanation(about, *tables)
        for atlas, known in found.atlases.items():
            if len(found.regions_of(atlas)) != known["regions"]:
                raise ValueError(f"regions.csv does not hold the {known['regions']} regions of {atlas}")
            found.matrix(atlas, "contribution")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{folder} is not a complete explanation ({type(error).__name__}: {error}). {_AGAIN}"
        ) from error
    return found


def _numbers(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Every cell of a numeric column as a number; names stay as they are, even those that look like numbers."""
    return [{name: value if name in _TEXT else _number(value) for name, value in row.items()} for row in rows]


_TEXT = frozenset(("atlas", "name", "name_i", "name_j", "network", "network_i", "network_j", "network_a", "network_b"))


def _number(value: str) -> float | int | None:
    if value == "":
        return None
    return int(value) if value.lstrip("-").isdigit() else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
