"""What a training tells a tracker."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from medformer.errors import ConfigError

Ending = Literal["finished", "interrupted", "failed"]
Logged = set[tuple[str, int]]
"""(name, step) of the numbers that a tracker holds already."""


class Tracker(Protocol):
    """Receives one training: `start`, any number of `log`, `close`.

    Any method may raise whatever its package raises (no server, no space): the training goes on without it, and `start`
    is called again before the next `log`.
    """

    def start(self, name: str, params: Mapping[str, str]) -> Logged:
        """Begin a training, or go on with the one that an earlier process began, and return what that one logged.

        Args:
            name: Of the training, such as `folds/2`.
            params: Its settings by dotted name.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one epoch, `step` counted from 1; they are safe when this returns."""

    def close(self, ending: Ending) -> None:
        """End the training; harmless when it never started."""


class NoTracker:
    """Tracks nothing."""

    def start(self, name: str, params: Mapping[str, str]) -> Logged:
        """Ignore the start."""
        return set()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore the numbers."""

    def close(self, ending: Ending) -> None:
        """Ignore the end."""


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
