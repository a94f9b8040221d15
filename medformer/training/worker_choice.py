"""How many loader processes a training takes, chosen by timing its own first batches.

An item depends on its epoch and number alone, so the number of processes decides when a batch arrives and never what it
holds; that makes it safe to change it between two steps. Which number is the fastest cannot be known beforehand: on a
GPU that waits, more are; where training keeps every core busy, a process that loads takes from it what it gives.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

_WAITING = 0.05
"""Share of the time that may be spent on waiting for batches."""

_WORTH = 3.0
"""Seconds that waiting must have cost before processes are tried, since to start them takes about as long; and that a
trial takes."""

_BATCHES = 8
"""Batches of a trial, at least."""

_BETTER = 0.95
"""What a batch takes must shrink to this share of the best so far."""


def cores() -> int:
    """Processors that this process may use, which a batch system may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class WorkerChoice:
    """Watches a training load its batches by itself, then with some loader processes, and keeps the best number.

    The first trial has as many as would keep up with the steps if they took no time from them; each further one doubles
    the number, as long as that helps and the training still waits.

    Attributes:
        limit: Most processes.
        workers: How many there should be now.
        decided: Whether that number stays.
        times: Seconds per batch with each number of processes that was tried.
    """

    limit: int
    workers: int = 0
    decided: bool = False
    times: dict[int, float] = field(default_factory=dict)
    _best: int = 0
    _skip: int = 2
    _count: int = 0
    _waited: float = 0.0
    _trained: float = 0.0

    def seen(self, waiting: float, training: float) -> bool:
        """Take in a batch.

        Args:
            waiting: Seconds until it was there.
            training: Seconds that its steps took.

        Returns:
            Whether the number of processes is another one from now on.
        """
        if self.decided:
            return False
        if self._skip:
            # The first batches are slow by themselves, and those after a change come from queues that were filled.
            self._skip -= 1
            return False
        self._count += 1
        self._waited += waiting
        self._trained += training
        # A GPU that is asked for its losses now and then makes some batches take what belongs to those before.
        spent = self._waited + (self._trained if self.workers else 0.0)
        if self._count < max(_BATCHES, 2 * self.workers) or spent < _WORTH:
            return False
        return self._judge()

    def described(self) -> str:
        """What was chosen, and why."""
        times = ", ".join(f"{seconds:.3g} s with {workers or 'none'}" for workers, seconds in self.times.items())
        return f"Loader processes: {self.workers or 'none'} (a batch takes {times})."

    def _judge(self) -> bool:
        now, spent = self.workers, self._waited + self._trained
        self.times[now] = spent / self._count
        better = now == self._best or self.times[now] < _BETTER * self.times[self._best]
        self._best = now if better else self._best
        if better and self._waited > _WAITING * spent and now < self.limit:
            needed = 2 * now or math.ceil(self._waited / max(self._trained, 1e-9))
            self.workers = min(needed, self.limit)
        else:
            self.workers, self.decided = self._best, True
        self._skip, self._count, self._waited, self._trained = 2 + 2 * self.workers, 0, 0.0, 0.0
        return self.workers != now
