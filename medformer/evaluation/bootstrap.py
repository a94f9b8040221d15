"""Confidence intervals that respect groups: frames of one patient are not independent evidence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Resampled indices held at once; bounds memory, changes no result.
_CHUNK = 2_000_000


class Interval(NamedTuple):
    """An interval for a mean.

    Attributes:
        low: Lower end; NaN with fewer than two groups, which carry no spread.
        high: Upper end; NaN likewise.
        groups: Groups that had a value.
    """

    low: float
    high: float
    groups: int


def grouped_interval(
    values: NDArray[np.float64],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean over cases, drawing whole groups with replacement.

    The cluster bootstrap of Field and Welsh (J. R. Stat. Soc. B 2007): each resample draws as many groups as there
    are, and takes the mean over all their cases. NaN values are left out first.

    Args:
        values: One per case, shape (n,).
        groups: One per case: the patient, sequence or examination it belongs to.
        level: Coverage, between 0 and 1.
        resamples: Number of bootstrap draws.
        seed: The same seed gives the same interval.

    Raises:
        ValueError: Lengths differ, or `level` or `resamples` is out of range.
    """
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values but {len(groups)} groups")
    if not 0.0 < level < 1.0 or resamples < 1:
        raise ValueError(f"level must be in (0, 1) and resamples positive, got {level} and {resamples}")
    known = ~np.isnan(values)
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(g, len(numbers)) for g, k in zip(groups, known, strict=True) if k], np.intp)
    if len(numbers) < 2:
        return Interval(float("nan"), float("nan"), len(numbers))
    sums = np.bincount(member, weights=values[known])
    counts = np.bincount(member)
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(numbers))
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, step):
        drawn = generator.integers(0, len(numbers), (min(step, resamples - start), len(numbers)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(low), float(high), len(numbers))
