"""The mean of a number that each case has, how it spreads over cases, and how sure the mean is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.statistics.bootstrap import grouped_interval


def spread(
    values: NDArray[np.float64],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float | int]:
    """Describe values, and the bootstrap interval of their mean as `low` and `high`.

    Args:
        values: One per case, shape (n,); NaN is left out.
        groups: The patient or sequence of each case; whole groups are drawn for the interval.
        level: Coverage of the interval.
        resamples: Bootstrap draws.
        seed: Of the draws.
    """
    interval = grouped_interval(values, groups, level=level, resamples=resamples, seed=seed)
    return describe(values) | {"low": interval.low, "high": interval.high}


def describe(values: NDArray[np.float64]) -> dict[str, float | int]:
    """Count, mean, standard deviation and quartiles of the values that are there; NaN is left out."""
    known = values[~np.isnan(values)]
    nan = float("nan")
    if not known.size:
        return {"n": 0, "mean": nan, "sd": nan, "median": nan, "q1": nan, "q3": nan}
    q1, median, q3 = np.percentile(known, [25, 50, 75])
    return {
        "n": int(known.size),
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if known.size > 1 else nan,
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
    }
