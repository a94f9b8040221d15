"""Timing two sides in one run, in turns, so that whatever else the machine does touches both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Call both sides in turns, the first to go changing each round, after one unmeasured round.

    Returns:
        Median seconds of each side, and the median over rounds of the ratio ours / theirs.
    """
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = [("ours", ours), ("theirs", theirs)]
    for index in range(rounds + 1):
        for name, call in sides if index % 2 else sides[::-1]:
            start = time.perf_counter()
            call()
            elapsed = time.perf_counter() - start
            if index:
                seconds[name].append(elapsed)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "ours_s": statistics.median(seconds["ours"]),
        "theirs_s": statistics.median(seconds["theirs"]),
        "ratio": statistics.median(ratios),
    }
