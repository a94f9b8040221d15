"""A volume in memory: voxels, and where they lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.geometry import Geometry

LABEL_RANGE = np.iinfo(np.int32)
"""Values that a label may have."""

_MOST_COUNTED = 2**20


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        array: (X, Y, Z): float32 for images, integers for label maps.
        geometry: Of the array.
        path: Where it was read from.
        stored: Type of the values in the file, such as `int16`.
        sha256: Hash of the file at `path`, computed while it was read; empty for a folder of DICOM files and where
            the file was not read.
    """

    array: NDArray[Any]
    geometry: Geometry
    path: Path
    stored: str = ""
    sha256: str = ""


def smallest_integer(low: int, high: int) -> np.dtype[Any]:
    """The smallest of uint8, uint16, int16 and int32 that holds `low` to `high`.

    Raises:
        DataError: None does.
    """
    for dtype in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise DataError(
        f"Labels run from {low} to {high}; expected at most 32 bits ({LABEL_RANGE.min} to {LABEL_RANGE.max})."
    )


def label_counts(labels: NDArray[Any]) -> dict[int, int]:
    """How often each value occurs, by ascending value; plane by plane, so that no large copy is made.

    Args:
        labels: Integers (X, Y, Z).
    """
    low, high = int(labels.min()), int(labels.max())
    planes = labels if labels.flags.c_contiguous else labels.T
    if high - low < _MOST_COUNTED:
        counts = np.zeros(high - low + 1, np.int64)
        for plane in planes:
            counts += np.bincount(plane.ravel().astype(np.intp) - low, minlength=len(counts))
        return {int(value) + low: int(counts[value]) for value in np.flatnonzero(counts)}
    found: Counter[int] = Counter()
    for plane in planes:
        values, numbers = np.unique(plane, return_counts=True)
        found.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return dict(sorted(found.items()))
