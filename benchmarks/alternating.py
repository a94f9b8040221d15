"""Timing sides in one run, in turns, so that whatever else the machine does touches all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Call all sides in turns, the first to go changing each round, after one unmeasured round.

    Args:
        sides: What to call, by name.
        rounds: Measured rounds.
        clock: Such as `time.process_time`, which other work on the machine does not move.

    Returns:
        Seconds of each round of each side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides.items())
    for index in range(rounds + 1):
        for name, call in order:
            start = clock()
            call()
            elapsed = clock() - start
            if index:
                seconds[name].append(elapsed)
        order = order[1:] + order[:1]
    return seconds


def alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Time two sides as `turns` does.

    Returns:
        Median seconds of each side, and the median over rounds of the ratio ours / theirs.
    """
    seconds = turns({"theirs": theirs, "ours": ours}, rounds)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "ours_s": statistics.median(seconds["ours"]),
        "theirs_s": statistics.median(seconds["theirs"]),
        "ratio": statistics.median(ratios),
    }
