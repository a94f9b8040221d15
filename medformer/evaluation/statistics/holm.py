"""Testing several models at once without finding differences by their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values by Holm's step-down method (Scandinavian Journal of Statistics 1979).

    Rejecting what is at most alpha keeps the chance of any false rejection at alpha, however the tests depend on each
    other. NaN, a test that could not be made, stays NaN and does not count as a test.

    Args:
        p_values: Shape (k,).

    Returns:
        Adjusted p-values in the same order, shape (k,), at most 1.

    Raises:
        ValueError: A p-value lies outside [0, 1].
    """
    given = np.asarray(p_values, np.float64).ravel()
    known = given[~np.isnan(given)]
    if ((known < 0) | (known > 1)).any():
        raise ValueError(f"p-values must be in [0, 1], got {given.tolist()}")
    order = np.argsort(known, kind="stable")
    stepped = np.maximum.accumulate(known[order] * np.arange(known.size, 0, -1))
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(stepped, 1.0)
    result = np.full(given.shape, np.nan)
    result[~np.isnan(given)] = adjusted
    return result
