"""The learning rate as a function of how much of the run has passed, counted in steps or in seconds."""

from __future__ import annotations

import math
from time import monotonic


def run_progress(step: int, total_steps: int, elapsed: float, budget: float | None) -> float:
    """Return how much of the run has passed, in [0, 1].

    Args:
        step: Optimizer steps already taken.
        total_steps: Steps of the whole run; not used with a budget.
        elapsed: Seconds already spent, earlier parts of a resumed run included.
        budget: Seconds the run may take; None counts steps. By steps, a step stands at the middle of its share, so
            that neither the first nor the last one is spent on a learning rate of zero.
    """
    share = (step + 0.5) / total_steps if budget is None else elapsed / budget
    return min(max(share, 0.0), 1.0)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Return the share of the peak learning rate: linear from 0 to 1 over `warmup`, then a cosine down to 0.

    Args:
        progress: Part of the run that has passed, in [0, 1].
        warmup: Part of the run spent warming up, in [0, 1].
    """
    if progress < warmup:
        return progress / warmup
    if warmup >= 1.0:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


class Clock:
    """Seconds spent on a run; a resumed run starts where the saved one stopped."""

    def __init__(self, already: float = 0.0) -> None:
        self._start = monotonic() - already

    def elapsed(self) -> float:
        """Seconds so far, pauses between a stop and its resume left out."""
        return monotonic() - self._start
