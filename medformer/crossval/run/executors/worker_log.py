"""What a fold in another process says, through a file in its folder: folds/<k>/worker.log."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from medformer.errors import ResourceError
from medformer.files import write_text
from medformer.progress import LineReporter

NAME = "worker.log"


class LogReporter(LineReporter):
    """Appends progress to the file, long pieces of work with a line now and then.

    A file in the run folder needs no connection between the processes, survives both, and can be read later. What came
    of a piece of work is said by those who did it, so that its end has no line.

    Args:
        folder: The fold's.
        interval: Least time between two lines about the same piece of work, s.
        clock: Seconds that only grow.
    """

    def __init__(self, folder: Path, interval: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(interval, clock)
        self._path = folder / NAME

    def line(self, text: str) -> None:
        """Write the sentence."""
        # Progress is worth less than the fold: a full disk ends it where results are written, not here.
        with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
            file.write(" ".join(text.split("\n")) + "\n")


class WorkerLog:
    """The driver's end: begins the file, and reads what was added to it.

    Args:
        folder: The fold's.
        token: First line of the file, by which a worker knows that it sees the same folder as the driver.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._path = folder / NAME
        write_text(self._path, token + "\n")
        self._read = self._path.stat().st_size

    def new_lines(self) -> list[str]:
        """Return the lines that were completed since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self._read += len(complete)
        return complete.decode("utf-8", errors="replace").splitlines()


def check_same_folder(folder: Path, token: str, *, patience: float, where: str) -> None:
    """Make sure that this process sees the fold's folder that the driver sees.

    Args:
        folder: The fold's.
        token: What the driver wrote.
        patience: How long to wait for a network file system to show it, s.
        where: This machine, for the message.

    Raises:
        ResourceError: It does not.
    """
    until = time.monotonic() + patience
    while True:
        with suppress(OSError), open(folder / NAME, encoding="utf-8") as file:
            if file.readline() == token + "\n":
                return
        if time.monotonic() >= until:
            raise ResourceError(
                f"The worker on {where} does not see {folder} as the machine that started the run does. The run folder "
                "must lie on a file system that all machines share, under the same path on each. Choose such a folder "
                "with --out, or use --executor inline."
            )
        time.sleep(min(1.0, patience / 10))
