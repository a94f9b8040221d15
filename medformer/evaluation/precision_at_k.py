"""How many of the things ranked first are those looked for; for explanations whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError


def precision_at_k(scores: NDArray[np.floating[Any]], wanted: NDArray[np.bool_], k: int | None = None) -> float:
    """Share of the `k` highest scores that are wanted; of equal scores, the first come first.

    A random order reaches the share of wanted ones, `wanted.mean()`.

    Args:
        scores: Higher is more important, (n,).
        wanted: (n,).
        k: How many to look at; None for as many as are wanted.

    Raises:
        DataError: Sizes differ, nothing is wanted, or `k` is not within 1 and n.
    """
    if scores.shape != wanted.shape or scores.ndim != 1:
        raise DataError(f"Got scores of shape {scores.shape} and truth of shape {wanted.shape}; expected both (n,).")
    k = int(np.count_nonzero(wanted)) if k is None else k
    if not (1 <= k <= len(scores) and wanted.any()):
        raise DataError(
            f"Got k = {k} with {np.count_nonzero(wanted)} of {len(scores)} wanted; expected at least one wanted, and "
            "k between 1 and the number of scores."
        )
    return float(wanted[np.argsort(-scores, kind="stable")[:k]].mean())
