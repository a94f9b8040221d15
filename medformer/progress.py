"""How long work reports its progress, without knowing where it is shown; and how to spell a time and a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")


class Reporter:
    """Receives the progress of one piece of work after another; this base class says nothing.

    Calls come in the order `start`, any number of `advance` and `line`, `finish`; then `start` may follow again.
    `line` is also allowed outside of a piece of work. Nothing that computes may depend on what a reporter does.
    """

    def start(self, label: str, total: int | None) -> None:
        """Begin a piece of work of `total` steps; None when the number is not known."""

    def advance(self, n: int = 1, **fields: float) -> None:
        """Report `n` more steps done, with numbers that hold for all steps so far, such as a mean `loss=0.31`.

        The last ones end the piece of work, where a number of the last step alone would read as its result.
        """

    def line(self, text: str) -> None:
        """Say one sentence that stays on the screen."""

    def finish(self) -> None:
        """End the piece of work; harmless when none is open."""

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield items as one piece of work: a step is done when the next item is asked for.

        The piece of work ends however the loop is left.

        Args:
            items: What is worked on.
            label: What is done to them.
            total: How many there are; by default their length, if they have one.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        self.start(label, total)
        try:
            for item in items:
                yield item
                self.advance()
        finally:
            self.finish()


class SilentReporter(Reporter):
    """Says nothing, by this name: the default of every function that takes a reporter."""


class LineReporter(Reporter):
    """Writes a line now and then; where lines go is said by `line`, which a subclass has.

    Args:
        interval: Shortest time between two lines of the same piece of work, s.
        clock: Returns seconds that never decrease.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._label = ""

    def start(self, label: str, total: int | None) -> None:
        """Note the label; the first line comes after the first interval."""
        self.finish()
        self._label, self._total, self._done = label, total, 0
        self._fields: dict[str, float] = {}
        self._began = self._written = self._clock()

    def advance(self, n: int = 1, **fields: float) -> None:
        """Write a line if the last one is old enough."""
        if not self._label:
            return
        self._done += n
        self._fields |= fields
        now = self._clock()
        if now - self._written >= self._interval:
            self._written = now
            self.line(self._described(self._times(now - self._began)))

    def finish(self) -> None:
        """End the piece of work without a line."""
        self._label = ""

    def _times(self, spent: float) -> str:
        """What a line says of the seconds that a piece of work has taken."""
        return ""

    def _described(self, times: str) -> str:
        count = f"{self._done}/{self._total}" if self._total else f"{self._done}"
        numbers = "".join(f", {name} {value:.4g}" for name, value in self._fields.items())
        return f"{self._label} {count}{times}{numbers}"


def duration(seconds: float) -> str:
    """Spell a span of time in its two largest units, e.g. `3 min 20 s`; below ten seconds with a decimal."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (unit, size), (lesser, small) in pairwise((("d", 86400), ("h", 3600), ("min", 60), ("s", 1))):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"


def age(moment: str, until: datetime | None = None) -> float | None:
    """Return the seconds from a moment in ISO form until another or now, not less than 0; None for anything else."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, ((until or datetime.now(UTC)) - then).total_seconds())


def now() -> str:
    """This moment in ISO form, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
