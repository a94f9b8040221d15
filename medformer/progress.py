"""How long work tells about itself, without knowing whether anyone is watching; and how to spell a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of one piece of work after another.

    Calls come in the order `start`, any number of `advance` and `line`, `finish`; then `start` may follow again.
    `line` is also allowed outside of a piece of work. Nothing that computes may depend on what a reporter does.
    """

    def start(self, label: str, total: int | None) -> None:
        """Begin a piece of work of `total` steps; None when the number is not known."""

    def advance(self, n: int = 1, **fields: float) -> None:
        """Report `n` more steps done, with the numbers worth seeing, such as `loss=0.31`."""

    def line(self, text: str) -> None:
        """Say one sentence that stays on the screen."""

    def finish(self) -> None:
        """End the piece of work; harmless when none is open."""


class SilentReporter:
    """Says nothing: the default of every function that takes a reporter."""

    def start(self, label: str, total: int | None) -> None:
        """Ignore the start."""

    def advance(self, n: int = 1, **fields: float) -> None:
        """Ignore the step."""

    def line(self, text: str) -> None:
        """Ignore the sentence."""

    def finish(self) -> None:
        """Ignore the end."""


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
