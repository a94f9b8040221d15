"""Regions that overlap, each made of several labels: nnU-Net's region classes.

    "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
    "regions_class_order": [1, 2, 3]

A network answers for each region by itself. A label map holds one value for each voxel, so regions are written one
after the other, each with its value of `regions_class_order`, a later one over an earlier one. A region of a label map
is where it has one of the region's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes:
        name: What it is called.
        values: Of the labels that it is made of, ascending.
        written: The value that it is written with.

    Raises:
        DataError: It has no label, or is not written with one of its own.
    """

    name: str
    values: tuple[int, ...]
    written: int

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 1 or list(self.values) != sorted(set(self.values)):
            raise DataError(
                f"The region '{self.name}' has the labels {list(self.values)}; expected whole numbers above 0, each "
                "once."
            )
        if self.written not in self.values:
            raise DataError(
                f"The region '{self.name}' is made of the labels {list(self.values)} and is written as {self.written} "
                "(regions_class_order); expected one of its own labels."
            )


Regions = tuple[Region, ...]


def regions_of(entries: Mapping[str, Any], order: Any) -> Regions:
    """Read the regions of a `dataset.json`.

    Args:
        entries: Values by name, without the background.
        order: Its `regions_class_order`.

    Raises:
        DataError: There is no order, one of another length, or one that gives two regions one value; or see `Region`.
    """
    numbers = list(order) if isinstance(order, list) and all(type(one) is int for one in order) else None
    if numbers is None or len(numbers) != len(entries) or len(set(numbers)) < len(numbers):
        raise DataError(
            f"It has regions ({', '.join(entries)}), and regions_class_order is {order!r}; expected a list with a "
            "value for each region, in their order and each once, such as [1, 2, 3]."
        )
    found = []
    for (name, given), number in zip(entries.items(), numbers, strict=True):
        values = given if isinstance(given, list) else [given]
        if any(type(value) is not int for value in values):
            raise DataError(f"The region '{name}' is {given!r}; expected whole numbers.")
        found.append(Region(name.strip(), tuple(sorted(values)), number))
    return tuple(found)


def labels_of(regions: Regions) -> dict[int, str]:
    """The labels that regions are made of: named as the region that is one of them alone, else by the value."""
    alone = {region.values[0]: region.name for region in regions if len(region.values) == 1}
    values = sorted({value for region in regions for value in region.values})
    return {value: alone.get(value, f"label {value}") for value in values}


def membership(regions: Regions, labels: Sequence[int]) -> NDArray[np.bool_]:
    """Which class is part of which region, (regions, classes); class 0 is the background, i + 1 is `labels[i]`."""
    return np.array([[False, *(value in region.values for value in labels)] for region in regions])
