"""Sends a learning curve to a tracker: every number once, and a tracker that fails never stops the training."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from medformer.errors import ConfigError, InterruptedRun
from medformer.progress import Reporter

Ending = Literal["finished", "interrupted", "failed"]
Logged = set[tuple[str, int]]
"""(name, step) of the numbers that a tracker holds already."""


class Tracker:
    """Receives one training: `start`, any number of `log`, `close`; this base class tracks nothing.

    Any method may raise whatever its package raises (no server, no space): the training goes on without it, and `start`
    is called again before the next `log`.
    """

    def start(self, name: str, params: Mapping[str, str]) -> Logged:
        """Begin a training, or go on with the one that an earlier process began, and return what that one logged.

        Args:
            name: Of the training, such as `folds/2`.
            params: Its settings by dotted name.
        """
        return set()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one epoch, `step` counted from 1; they are safe when this returns."""

    def close(self, ending: Ending) -> None:
        """End the training; harmless when it never started."""


def require(module: str, tracker: str) -> Any:
    """Import a module of an optional package.

    Raises:
        ConfigError: It cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"training.tracker={tracker} needs a package that cannot be imported here ({error}). Run: "
            f"pip install 'medformer[{tracker}]', or set training.tracker=none; the learning curve is always written "
            "to history.csv."
        ) from error


PATIENCE = 10.0
"""A tracker that failed is left alone for this many times as long as its failing took: a server that never answers
costs a tenth of the training's time, one that refuses at once is tried after every epoch."""


class Tracking:
    """Gives a tracker the rows of the learning curve that it does not hold yet.

    The curve itself is the only memory: after a crash, a resume or a server's absence, the tracker says what it holds
    and receives the rest. Leaving the block ends the training for the tracker, with what happened to it.
    """

    def __init__(self, tracker: Tracker, name: str, settings: Mapping[str, Any], reporter: Reporter) -> None:
        """Store what to track; nothing is sent before the first `update`.

        Args:
            tracker: May fail in any way.
            name: Of the training.
            settings: Of the training, sections within sections.
            reporter: Receives one line when the tracker fails first.
        """
        self._tracker = tracker
        self._name = name
        self._params = flatten(settings)
        self._reporter = reporter
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._logged: Logged | None = None
        self._sent = 0
        self._noted = False
        self._rests_until = 0.0

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending: Ending = "finished" if error is None else "failed"
        if isinstance(error, (InterruptedRun, KeyboardInterrupt)):
            ending = "interrupted"
        if self._sent < len(self._rows):
            self._guard(self._send)
        self._guard(lambda: self._tracker.close(ending))

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send what is missing of the whole curve so far; empty cells are left out, `epoch` becomes the step."""
        self._rows = rows
        if time.monotonic() >= self._rests_until:
            self._guard(self._send)

    def _send(self) -> None:
        if self._logged is None:
            self._sent = 0
            self._logged = self._tracker.start(self._name, self._params)
        for row in self._rows[self._sent :]:
            step = int(row["epoch"])
            values = {
                name: float(value)
                for name, value in row.items()
                if name != "epoch" and value is not None and (name, step) not in self._logged
            }
            if values:
                self._tracker.log(step, values)
            self._sent += 1

    def _guard(self, action: Callable[[], None]) -> None:
        began = time.monotonic()
        # Whatever a tracking package raises, hours of training are worth more.
        try:
            action()
        except Exception as error:
            now = time.monotonic()
            self._rests_until = now + PATIENCE * (now - began)
            # It may have taken the row before it failed, so it is asked again what it holds.
            self._logged = None
            if not self._noted:
                self._noted = True
                self._reporter.line(
                    f"Note: the tracker fails ({_reason(error)}). Training goes on, and history.csv has the whole "
                    "curve. The tracker is tried again from time to time and then gets what it missed."
                )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as text by dotted name: `{"training": {"lr": 0.1}}` -> `{"training.lr": "0.1"}`."""
    result: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = str(value)
    return result


def _reason(error: Exception) -> str:
    """Return the first line of an error, without a password that its address may hold."""
    first = next(iter(str(error).strip().splitlines()), "")
    text = re.sub(r"//[^/@\s]*@", "//", first)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
