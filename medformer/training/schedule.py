"""The learning rate as a function of how much of the run has passed, counted in steps or in seconds."""

from __future__ import annotations

import math
from time import monotonic
from typing import Literal


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


def learning_rate_factor(
    progress: float,
    warmup: float,
    *,
    schedule: Literal["cosine", "exponential", "constant"] = "cosine",
    epoch: int = 0,
    decay: float = 1.0,
) -> float:
    """Return the share of the peak learning rate: a linear rise from 0 over `warmup`, times what the schedule says.

    `cosine` falls to 0 over the rest of the run, `exponential` is multiplied by `decay` after every epoch from the
    first on, whatever the warm-up, `constant` stays at 1.

    Args:
        progress: Part of the run that has passed, in [0, 1].
        warmup: Part of the run spent warming up, in [0, 1].
        schedule: How the rate falls.
        epoch: Epochs completed, for `exponential`.
        decay: Its factor per epoch.
    """
    rise = progress / warmup if progress < warmup else 1.0
    if schedule == "exponential":
        return rise * decay**epoch
    if schedule == "constant" or progress < warmup or warmup >= 1.0:
        return rise
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


class Clock:
    """Seconds spent on a run; a resumed run starts where the saved one stopped."""

    def __init__(self, already: float = 0.0) -> None:
        self._start = monotonic() - already

    def elapsed(self) -> float:
        """Seconds so far, pauses between a stop and its resume left out."""
        return monotonic() - self._start
