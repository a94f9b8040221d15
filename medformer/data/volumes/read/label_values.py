"""Which labels a label map holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def present_values(labels: NDArray[Any]) -> list[int]:
    """The values that occur, ascending; the 0 of the background is one of them.

    Args:
        labels: Integers (X, Y, Z). Plane by plane along the last axis, so that no large copy is made.
    """
    if labels.dtype.itemsize > 2:
        found = {int(value) for plane in range(labels.shape[2]) for value in np.unique(labels[:, :, plane])}
        return sorted(found)
    low = np.iinfo(labels.dtype).min
    seen = np.zeros(2 ** (8 * labels.dtype.itemsize), dtype=bool)
    for plane in range(labels.shape[2]):
        seen[labels[:, :, plane].astype(np.intp) - low] = True
    return [int(value) + low for value in np.flatnonzero(seen)]
