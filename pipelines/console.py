"""Progress of long work: bars on a terminal, timed plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from medformer.names import shown
from medformer.progress import LineReporter, Reporter, duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_open: list[Reporter] = []


def say(text: str) -> None:
    """Print one line of result to standard output, at once."""
    print(shown(text), flush=True)


def make_reporter() -> Reporter:
    """Return the reporter that suits standard error."""
    return RichReporter() if sys.stderr.isatty() else PlainReporter()


def stop() -> None:
    """Close every open bar, so that an error message appears below it and the cursor comes back."""
    while _open:
        with suppress(Exception):
            _open.pop().finish()


class PlainReporter(LineReporter):
    """Writes lines with counts and times: for log files, pipes and batch systems.

    Args:
        stream: Where the lines go; standard error unless given.
        interval: Shortest time between two lines of the same piece of work, s.
        clock: Returns seconds that never decrease.
    """

    def __init__(
        self, stream: TextIO | None = None, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(interval, clock)
        self._stream = stream or sys.stderr

    def line(self, text: str) -> None:
        """Write the sentence."""
        print(shown(text), file=self._stream, flush=True)

    def finish(self) -> None:
        """Write the number of steps and how long they took."""
        if self._label:
            self.line(self._described(f" in {duration(self._clock() - self._began)}"))
        super().finish()

    def _times(self, spent: float) -> str:
        left = ""
        if self._total and self._done:
            left = f", about {duration(spent / self._done * (self._total - self._done))} left"
        return f" after {duration(spent)}{left}"


class RichReporter(Reporter):
    """Shows a bar with count, times and the latest numbers."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._fields: dict[str, float] = {}

    def start(self, label: str, total: int | None) -> None:
        """Open a bar; without a total it only pulses."""
        from rich import progress as rich

        self.finish()
        self._progress = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
        )
        self._fields = {}
        self._task = self._progress.add_task(label, total=total, numbers="")
        self._progress.start()
        _open.append(self)

    def advance(self, n: int = 1, **fields: float) -> None:
        """Move the bar and show the numbers behind it."""
        if self._progress is not None and self._task is not None:
            self._fields |= fields
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in self._fields.items())
            self._progress.update(self._task, advance=n, numbers=numbers)

    def line(self, text: str) -> None:
        """Print the sentence above the bar."""
        self._console.print(shown(text), markup=False, highlight=False)

    def finish(self) -> None:
        """Leave the bar as it is and continue below it."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self in _open:
            _open.remove(self)
