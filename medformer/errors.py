"""The errors a user can meet, each with the exit code the command line returns for it.

A message says what was found, what was expected, which case it concerns, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class MedformerError(Exception):
    """Base of every error that the user can repair; never shown with a traceback."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # By its message, so that an error whose constructor takes something else also comes back from other processes.
        return _restored, (type(self), str(self))


class ConfigError(MedformerError):
    """A command line, configuration or name that does not make sense."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that no table lists."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        options = sorted(known)
        near = get_close_matches(name, options, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        super().__init__(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(options)}.")


class DataError(MedformerError):
    """An image, mask, manifest, checkpoint or prediction that cannot be used."""

    exit_code = 3


class CheckpointError(DataError):
    """Weights or training state that do not fit, or that are not what their name says."""


class DivergenceError(DataError):
    """A loss that became NaN or infinite."""


class LeakageError(MedformerError):
    """The same patient, sequence, file or picture on both sides of a split."""

    exit_code = 4


class ResourceError(MedformerError):
    """Memory, disk, device or permission that was not there."""

    exit_code = 5


class InterruptedRun(MedformerError):
    """SIGINT or SIGTERM; everything finished so far is on disk and `--resume` continues."""

    exit_code = 130


def _restored(kind: type[MedformerError], message: str) -> MedformerError:
    return kind.__new__(kind, message)
