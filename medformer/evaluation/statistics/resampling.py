"""Drawing whole groups with replacement, and reading interval ends and p-values from what the draws give."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

# Resampled numbers held at once; bounds memory, changes no result.
_CHUNK = 500_000


@dataclass(frozen=True)
class Bootstrap:
    """How intervals and p-values are drawn; the same settings give the same numbers.

    Attributes:
        level: Coverage of intervals, between 0 and 1.
        resamples: How often groups are drawn.
        seed: Of the draws.

    Raises:
        ValueError: A level or a number of resamples that no bootstrap has.
    """

    level: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0 or self.resamples < 1:
            raise ValueError(f"level must be in (0, 1) and resamples positive, got {self.level} and {self.resamples}")

    def over(self, units: str) -> str:
        """Say how intervals are drawn, over `groups` or over single cases."""
        drawn = f"{self.resamples} resamples, seed {self.seed}"
        return f"{self.level:.0%} bootstrap over {units} (expanded percentiles), {drawn}"

    def sums(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up what the groups of each resample have.

        Args:
            totals: k numbers of every group, shape (k, groups).

        Returns:
            Shape (k, resamples).
        """
        # einsum adds in a fixed order, which a threaded matrix product may not.
        counts = draw(totals.shape[1], self.resamples, self.seed)
        return np.asarray(np.einsum("rg,kg->kr", counts, totals))

    def weights(self, member: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
        """Yield, a block of resamples at a time, how often each case was drawn with its group.

        Args:
            member: The number of each case's group, shape (n,), from `number_groups`.

        Yields:
            Case weights, shape (some resamples, n).
        """
        counts = draw(int(member.max()) + 1, self.resamples, self.seed)
        step = max(1, _CHUNK // len(member))
        for start in range(0, self.resamples, step):
            yield counts[start : start + step, member].astype(np.float64)

    def percentiles(self, replicates: NDArray[np.float64], effective: float) -> tuple[float, float]:
        """Return the ends of the expanded percentile interval.

        Plain percentiles are too narrow for few groups: they use the normal where Student's t belongs, and a variance
        that divides by k instead of k - 1. Reading them further out corrects both (Hesterberg, The American
        Statistician 2015, section 5.3). With `effective` for k it also corrects for groups of unequal size.

        Args:
            replicates: The statistic of every resample, shape (resamples,).
            effective: From `effective_groups`.
        """
        share = ndtr(_stretch(effective) * stdtrit(_freedom(effective), (1 - self.level) / 2))
        low, high = np.quantile(replicates, [share, 1 - share])
        return float(low), float(high)


DEFAULT = Bootstrap()


def number_groups(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    """Number groups by first appearance, so that neither their names nor their types matter."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.intp)


@lru_cache(maxsize=4)
def draw(groups: int, resamples: int, seed: int) -> NDArray[np.unsignedinteger]:
    """Draw as many groups as there are, with replacement.

    The last draws are kept, because the metrics of one table all resample the same groups.

    Returns:
        How often each group was drawn, shape (resamples, groups), read-only.
    """
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, groups), np.min_scalar_type(groups))
    step = max(1, _CHUNK // groups)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        flat = generator.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(flat.ravel(), minlength=rows * groups).reshape(rows, groups)
    counts.setflags(write=False)
    return counts


def effective_groups(sizes: NDArray[np.number]) -> float:
    """Number of equally large groups that would carry as much as groups of these sizes (Kish 1965), never below 1.

    One patient with 200 frames beside nine with 10 makes the sample closer to two patients than to ten.
    """
    weights = np.asarray(sizes, np.float64)
    return float(weights.sum() ** 2 / (weights**2).sum())


def two_sided_p(replicates: NDArray[np.float64], effective: float, groups: int) -> float:
    """Return the p-value at which the interval of `Bootstrap.percentiles` just reaches 0.

    Where no resample reaches 0, the distance of their mean from it, in their standard deviations, says how rarely one
    would: a thousand resamples cannot be counted further than a thousandth. p is never below 2 ** (1 - groups):
    so often do all groups agree in sign by chance.
    """
    ordered = np.sort(replicates)
    share = min(_share_reaching_zero(ordered), _share_reaching_zero(-ordered[::-1]), 0.5)
    if not share:
        spread = float(ordered.std())
        beyond = float(ndtr(-abs(float(ordered.mean())) / spread)) if spread else 0.0
        share = min(beyond, 1 / (len(ordered) + 1))
    p = 2 * stdtr(_freedom(effective), ndtri(share) / _stretch(effective))
    return min(1.0, max(float(p), 2.0 ** (1 - groups)))


def _share_reaching_zero(ordered: NDArray[np.float64]) -> float:
    """Return the highest share whose quantile, interpolated as `np.quantile` does, is not above 0."""
    below = int(np.searchsorted(ordered, 0.0, side="right"))
    if below in (0, len(ordered)):
        return below / len(ordered)
    left, right = float(ordered[below - 1]), float(ordered[below])
    return (below - 1 - left / (right - left)) / (len(ordered) - 1)


def _freedom(effective: float) -> float:
    return max(effective, 2.0) - 1


def _stretch(effective: float) -> float:
    return math.sqrt(1 + 1 / _freedom(effective))
