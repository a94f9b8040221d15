"""Confidence intervals that respect groups: frames of one patient are not independent evidence."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.statistics.resampling import (
    DEFAULT,
    Bootstrap,
    effective_groups,
    number_groups,
    two_sided_p,
)

# Beyond this share of resamples without a value, what is left no longer stands for the whole.
MOST_DROPPED = 0.2

FEWEST_GROUPS = 2
"""A single group shows no spread."""

ALL_EQUAL = "all resamples equal"
"""Why there is no interval of a statistic that no drawing of groups changes."""

# Ends that are this close are one number with different rounding.
_SAME = 1e-12

_NAN = float("nan")


class Interval(NamedTuple):
    """An interval for a statistic.

    Attributes:
        low: Lower end; NaN where there is no interval (`interval_of`).
        high: Upper end; NaN likewise.
        groups: Groups it rests on: those that had a value, and of a statistic that compares classes those of the class
            that has the fewest.
        dropped: Resamples for which the statistic was not defined; they are left out.
        reason: Why there is no interval; empty where there is one, or no statistic.
    """

    low: float
    high: float
    groups: int
    dropped: int = 0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Its ends as plain data, and why they are missing."""
        return {"low": self.low, "high": self.high, **({"no_interval": self.reason} if self.reason else {})}


class PairedTest(NamedTuple):
    """A difference between two models on the same cases.

    Attributes:
        difference: Mean, or the statistic's value.
        low: Lower end of its interval; NaN where there is none (`interval_of`).
        high: Upper end; NaN likewise.
        p: Two-sided; below 1 - level exactly when the interval excludes 0. Without an interval it is NaN, and 1 where
            nothing differs.
        groups: Groups it rests on, as in `Interval`.
        reason: Why there is no interval.
    """

    difference: float
    low: float
    high: float
    p: float
    groups: int
    reason: str = ""


class Support(NamedTuple):
    """The groups that a statistic rests on: their number, and how many equally large ones would carry as much.

    `of_class`: these are the groups of the class that has the fewest.
    """

    effective: float
    groups: int
    of_class: bool = False


def grouped_interval(
    values: NDArray[np.float64], groups: Sequence[Hashable], bootstrap: Bootstrap = DEFAULT
) -> Interval:
    """Bootstrap interval of the mean over cases, drawing whole groups with replacement.

    The cluster bootstrap of Field and Welsh (J. R. Stat. Soc. B 2007): each resample draws as many groups as there
    are, and takes the mean over all their cases. The ends are expanded percentiles (`Bootstrap.percentiles`), so they
    stay inside the range of the values. NaN values are left out first.

    No resampling can do better than the range of the group means, so fewer than six groups stay below 95 % coverage
    whatever is asked: 2 ** (1 - groups) is missed at least.

    Args:
        values: One per case, shape (n,).
        groups: One per case: the patient, sequence or examination it belongs to.
        bootstrap: Level and draws.

    Raises:
        ValueError: Lengths differ.
    """
    kept, member = _known(values, groups)
    return ratio_interval(np.bincount(member, weights=kept), np.bincount(member), bootstrap)


def ratio_interval(part: NDArray[np.number], whole: NDArray[np.number], bootstrap: Bootstrap = DEFAULT) -> Interval:
    """Bootstrap interval of a ratio of sums over groups, each drawn with its share of both sums.

    Args:
        part: What each group adds to the numerator, shape (groups,).
        whole: To the denominator, above 0; a group weighs by it.
        bootstrap: Level and draws.
    """
    if len(whole) < FEWEST_GROUPS:
        return _none(Support(0.0, len(whole)))
    return interval_of(_ratios(part, whole, bootstrap), Support(effective_groups(whole), len(whole)), bootstrap)


def paired_grouped_test(
    differences: NDArray[np.float64], groups: Sequence[Hashable], bootstrap: Bootstrap = DEFAULT
) -> PairedTest:
    """Test whether paired differences, one per case, are 0 on average, drawing whole groups with replacement.

    The interval is that of `grouped_interval`; p is the level at which it just reaches 0. Differences that are all 0,
    as between a run and itself, give p = 1 and no interval. NaN differences are left out first.

    Args:
        differences: Second model minus first, one per case, shape (n,).
        groups: One per case.
        bootstrap: Level and draws.

    Raises:
        ValueError: Lengths differ.
    """
    kept, member = _known(differences, groups)
    sizes = np.bincount(member)
    if not len(sizes):
        return PairedTest(_NAN, _NAN, _NAN, _NAN, 0)
    replicates = _ratios(np.bincount(member, weights=kept), sizes, bootstrap) if len(sizes) > 1 else np.empty(0)
    support = Support(effective_groups(sizes), len(sizes))
    return paired_test(float(kept.mean()), replicates, support, bootstrap, same=not kept.any())


def paired_test(
    difference: float,
    replicates: NDArray[np.float64],
    support: Support,
    bootstrap: Bootstrap,
    *,
    same: bool = False,
) -> PairedTest:
    """Test a difference from the values it takes in resamples.

    Args:
        difference: Over all cases.
        replicates: Of every resample, shape (resamples,); NaN where undefined.
        support: The groups it rests on.
        bootstrap: Level and draws.
        same: The two models gave the same everywhere: nothing to test, p = 1.
    """
    groups = support.groups
    if same:
        return PairedTest(0.0, _NAN, _NAN, 1.0, groups, "nothing differs")
    if np.isnan(difference):
        return PairedTest(difference, _NAN, _NAN, _NAN, groups)
    found = interval_of(replicates, support, bootstrap)
    if found.reason:
        alike = found.reason == ALL_EQUAL and difference == 0
        return PairedTest(difference, _NAN, _NAN, 1.0 if alike else _NAN, groups, found.reason)
    low, high = found.low, found.high
    p = two_sided_p(replicates[~np.isnan(replicates)], support.effective, groups)
    # Percentiles of few groups reach less far than the level asks, which p knows: then 0 cannot be excluded.
    if p > 1 - bootstrap.level:
        low, high = min(low, 0.0), max(high, 0.0)
    return PairedTest(difference, low, high, p, groups)


def grouped_statistic_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[Hashable],
    bootstrap: Bootstrap = DEFAULT,
    *,
    classes: Sequence[Hashable] | None = None,
) -> Interval:
    """Bootstrap interval of any statistic of rows, drawing whole groups with replacement.

    For the metrics of a classification, `classification_intervals` does the same for all at once and faster.

    Args:
        statistic: Gets row numbers, each as often as its group was drawn; returns a number, NaN where undefined.
        groups: One per row, shape (n,).
        bootstrap: Level and draws.
        classes: One per row, for a statistic that compares classes of rows, such as the AUC: the class of fewest
            groups decides how far the ends are expanded.

    Returns:
        NaN ends if the statistic is undefined for all rows together, or where `interval_of` gives none.

    Raises:
        ValueError: Lengths differ.
    """
    member = number_groups(groups)
    found = support(member, classes)
    rows = np.arange(len(member))
    if found.groups < FEWEST_GROUPS or np.isnan(statistic(rows)):
        return _none(found)
    values = [
        statistic(np.repeat(rows, weights.astype(np.intp))) for block in bootstrap.weights(member) for weights in block
    ]
    return interval_of(np.array(values, np.float64), found, bootstrap)


def interval_of(replicates: NDArray[np.float64], support: Support, bootstrap: Bootstrap) -> Interval:
    """Interval of a statistic that may be undefined (NaN) in some resamples: these are dropped and counted.

    There is none, and `Interval.reason` says why, where the bootstrap cannot tell how far the statistic could move:
    with a single group, where too many resamples have no value, and where all of them give the same one. An AUC of 1
    stays 1 however the cases are drawn: that all resamples agree says that none could differ, and not that the number
    is sure.
    """
    known = replicates[~np.isnan(replicates)]
    dropped = len(replicates) - len(known)
    if support.groups < FEWEST_GROUPS:
        return _none(support)
    if dropped > MOST_DROPPED * len(replicates):
        return Interval(_NAN, _NAN, support.groups, dropped, "not defined in too many resamples")
    low, high = bootstrap.percentiles(known, support.effective)
    if high - low <= _SAME * max(1.0, abs(low)):
        return Interval(_NAN, _NAN, support.groups, dropped, ALL_EQUAL)
    return Interval(low, high, support.groups, dropped)


def _none(support: Support) -> Interval:
    """No interval, for lack of groups; without any group there is no statistic either."""
    few = f"fewer than {FEWEST_GROUPS} groups{' of a class' if support.of_class else ''}"
    return Interval(_NAN, _NAN, support.groups, reason=few if 0 < support.groups < FEWEST_GROUPS else "")


def support(member: NDArray[np.intp], classes: Sequence[Hashable] | None = None) -> Support:
    """Say which groups a statistic rests on; of several classes, those of the class that has the fewest.

    Args:
        member: The number of each case's group, shape (n,).
        classes: One per case, for a statistic that compares them.

    Raises:
        ValueError: `classes` has another length than `member`.
    """
    if classes is None or not len(member):
        sizes = np.unique(member, return_counts=True)[1]
        return Support(effective_groups(sizes) if len(sizes) else 0.0, len(sizes))
    if len(classes) != len(member):
        raise ValueError(f"{len(member)} groups but {len(classes)} classes")
    kind = number_groups(classes)
    parts = [support(member[kind == k]) for k in range(int(kind.max()) + 1)]
    return Support(min(part.effective for part in parts), min(part.groups for part in parts), of_class=True)


def _known(values: NDArray[np.float64], groups: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values but {len(groups)} groups")
    known = ~np.isnan(values)
    return values[known], number_groups([group for group, keep in zip(groups, known, strict=True) if keep])


def _ratios(part: NDArray[np.number], whole: NDArray[np.number], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """The ratio of every resample, shape (resamples,)."""
    sums = bootstrap.sums(np.stack([part, whole]).astype(np.float64))
    return np.asarray(sums[0] / sums[1])
