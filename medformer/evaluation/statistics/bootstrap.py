"""Confidence intervals that respect groups: frames of one patient are not independent evidence."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.statistics.resampling import (
    check_options,
    draw,
    drawn_weights,
    effective_groups,
    number_groups,
    percentile_interval,
    two_sided_p,
)

# Beyond this share of resamples without a value, what is left no longer stands for the whole.
MOST_DROPPED = 0.2

_NAN = float("nan")


class Interval(NamedTuple):
    """An interval for a statistic.

    Attributes:
        low: Lower end; NaN with fewer than two groups, which carry no spread.
        high: Upper end; NaN likewise.
        groups: Groups it rests on: those that had a value, and of a statistic that compares classes those of the class
            that has the fewest.
        dropped: Resamples for which the statistic was not defined; they are left out.
    """

    low: float
    high: float
    groups: int
    dropped: int = 0


class PairedTest(NamedTuple):
    """A difference between two models on the same cases.

    Attributes:
        difference: Mean, or the statistic's value.
        low: Lower end of its interval; NaN with fewer than two groups, unless nothing differs.
        high: Upper end; NaN likewise.
        p: Two-sided; below 1 - level exactly when the interval excludes 0.
        groups: Groups it rests on, as in `Interval`.
    """

    difference: float
    low: float
    high: float
    p: float
    groups: int


def grouped_interval(
    values: NDArray[np.float64],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the mean over cases, drawing whole groups with replacement.

    The cluster bootstrap of Field and Welsh (J. R. Stat. Soc. B 2007): each resample draws as many groups as there
    are, and takes the mean over all their cases. The ends are expanded percentiles (`percentile_interval`), so they
    stay inside the range of the values. NaN values are left out first.

    No resampling can do better than the range of the group means, so fewer than six groups stay below 95 % coverage
    whatever is asked: 2 ** (1 - groups) is missed at least.

    Args:
        values: One per case, shape (n,).
        groups: One per case: the patient, sequence or examination it belongs to.
        level: Coverage, between 0 and 1.
        resamples: Number of bootstrap draws.
        seed: The same seed gives the same interval.

    Raises:
        ValueError: Lengths differ, or `level` or `resamples` is out of range.
    """
    kept, member = _known(values, groups)
    check_options(level, resamples)
    count = _count(member)
    if count < 2:
        return Interval(_NAN, _NAN, count)
    means = _means(kept, member, resamples, seed)
    return Interval(*percentile_interval(means, effective_groups(member), level), count)


def paired_grouped_test(
    differences: NDArray[np.float64],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Test whether paired differences, one per case, are 0 on average, drawing whole groups with replacement.

    The interval is that of `grouped_interval`; p is the level at which it just reaches 0. Differences that are all 0,
    as between a run and itself, give p = 1. NaN differences are left out first.

    Args:
        differences: Second model minus first, one per case, shape (n,).
        groups: One per case.
        level: Coverage of the interval.
        resamples: Number of bootstrap draws.
        seed: The same seed gives the same numbers.

    Raises:
        ValueError: As `grouped_interval`.
    """
    kept, member = _known(differences, groups)
    check_options(level, resamples)
    count = _count(member)
    if not count:
        return PairedTest(_NAN, _NAN, _NAN, _NAN, 0)
    replicates = _means(kept, member, resamples, seed) if count > 1 else np.empty(0)
    return paired_test(float(kept.mean()), replicates, effective_groups(member), count, level, same=not kept.any())


def paired_test(
    difference: float,
    replicates: NDArray[np.float64],
    effective: float,
    groups: int,
    level: float,
    *,
    same: bool = False,
) -> PairedTest:
    """Test a difference from the values it takes in resamples.

    Args:
        difference: Over all cases.
        replicates: Of every resample, shape (resamples,); NaN where undefined.
        effective: From `effective_groups`.
        groups: Their number.
        level: Coverage of the interval.
        same: The two models gave the same everywhere: nothing to test, p = 1.
    """
    if same:
        return PairedTest(0.0, 0.0, 0.0, 1.0, groups)
    known = replicates[~np.isnan(replicates)]
    if groups < 2 or np.isnan(difference) or len(replicates) - len(known) > MOST_DROPPED * len(replicates):
        return PairedTest(difference, _NAN, _NAN, _NAN, groups)
    low, high = percentile_interval(known, effective, level)
    p = two_sided_p(known, effective, groups)
    # Percentiles of few groups reach less far than the level asks, which p knows: then 0 cannot be excluded.
    if p > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    return PairedTest(difference, low, high, p, groups)


def grouped_statistic_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[Hashable],
    *,
    classes: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of any statistic of rows, drawing whole groups with replacement.

    For the metrics of a classification, `classification_intervals` does the same for all at once and faster.

    Args:
        statistic: Gets row numbers, each as often as its group was drawn; returns a number, NaN where undefined.
        groups: One per row, shape (n,).
        classes: One per row, for a statistic that compares classes of rows, such as the AUC: the class of fewest
            groups decides how far the ends are expanded.
        level: Coverage, between 0 and 1.
        resamples: Number of bootstrap draws.
        seed: The same seed gives the same interval.

    Returns:
        NaN ends if the statistic is undefined for all rows together or for more than a fifth of the resamples, or if
        there are fewer than two groups (of every class).

    Raises:
        ValueError: Lengths differ, or `level` or `resamples` is out of range.
    """
    check_options(level, resamples)
    member = number_groups(groups)
    effective, count = effective_of_classes(member, classes)
    rows = np.arange(len(member))
    if count < 2 or np.isnan(statistic(rows)):
        return Interval(_NAN, _NAN, count)
    values = [
        statistic(np.repeat(rows, weights.astype(np.intp)))
        for block in drawn_weights(member, resamples, seed)
        for weights in block
    ]
    return interval_of(np.array(values, np.float64), effective, count, level)


def interval_of(replicates: NDArray[np.float64], effective: float, groups: int, level: float) -> Interval:
    """Interval of a statistic that may be undefined (NaN) in some resamples: these are dropped and counted."""
    known = replicates[~np.isnan(replicates)]
    dropped = len(replicates) - len(known)
    if dropped > MOST_DROPPED * len(replicates):
        return Interval(_NAN, _NAN, groups, dropped)
    return Interval(*percentile_interval(known, effective, level), groups, dropped)


def effective_of_classes(member: NDArray[np.intp], classes: Sequence[Hashable] | None = None) -> tuple[float, int]:
    """Return the effective and the plain number of groups, each of the class that has the fewest.

    Raises:
        ValueError: `classes` has another length than `member`.
    """
    if classes is None or not len(member):
        return (effective_groups(member) if len(member) else 0.0), _count(member)
    if len(classes) != len(member):
        raise ValueError(f"{len(member)} groups but {len(classes)} classes")
    kind = number_groups(classes)
    parts = [number_groups(member[kind == k].tolist()) for k in range(int(kind.max()) + 1)]
    return min(effective_groups(part) for part in parts), min(_count(part) for part in parts)


def _known(values: NDArray[np.float64], groups: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values but {len(groups)} groups")
    known = ~np.isnan(values)
    return values[known], number_groups([group for group, keep in zip(groups, known, strict=True) if keep])


def _count(member: NDArray[np.intp]) -> int:
    return int(member.max()) + 1 if len(member) else 0


def _means(values: NDArray[np.float64], member: NDArray[np.intp], resamples: int, seed: int) -> NDArray[np.float64]:
    """Mean over the cases of every resample; einsum adds in a fixed order, which a threaded product may not."""
    totals = np.stack([np.bincount(member, weights=values), np.bincount(member).astype(np.float64)])
    sums = np.einsum("rg,kg->rk", draw(_count(member), resamples, seed), totals)
    return sums[:, 0] / sums[:, 1]
