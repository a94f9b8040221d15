"""Ranks of numbers, as scipy.stats gives them, which takes most of a second to import."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def midranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Ranks from 1 on of numbers (n,), of each row where there are rows (m, n); equal numbers share their mean rank."""
    if values.ndim == 2:
        return np.stack([midranks(row) for row in values])
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[place], np.float64)
