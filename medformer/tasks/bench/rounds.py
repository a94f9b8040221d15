"""Timing sides in turns, so that whatever else the machine does touches all alike, and ratios with intervals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_RESAMPLES = 2000


class Ratio(NamedTuple):
    """A ratio of times over rounds.

    Attributes:
        median: Over rounds.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def turns(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Call all sides in turns, the first to go changing each round, after unmeasured rounds.

    Args:
        sides: What to call, by name; a call must wait for its device.
        rounds: Measured rounds.
        clock: Gives seconds. `time.process_time` counts the CPU time of this process alone, right for one thread.
        warm_up: Unmeasured rounds.

    Returns:
        Seconds of each round of each side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides.items())
    for index in range(rounds + warm_up):
        for name, call in order:
            start = clock()
            call()
            elapsed = clock() - start
            if index >= warm_up:
                seconds[name].append(elapsed)
        order = order[1:] + order[:1]
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median over rounds of ours / theirs, with an interval from resampled rounds.

    Args:
        ours: Seconds of each round.
        theirs: Of the same rounds.
    """
    each = np.asarray(ours) / np.asarray(theirs)
    drawn = np.random.default_rng(0).integers(0, len(each), (_RESAMPLES, len(each)))
    low, high = np.quantile(np.median(each[drawn], axis=1), (0.025, 0.975))
    return Ratio(statistics.median(each.tolist()), float(low), float(high))
