"""The errors a user can meet, each with the exit code the command line returns for it.

A message says what was found, what was expected, which case it concerns, and what to do next. A lack of memory or disk
becomes one of them, in whatever form the system reports it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


# On a CPU, PyTorch reports a failed allocation as a plain RuntimeError, and so is a loader process that was killed.
_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "unable to mmap",
    "bus error",
    "killed by signal: killed",
)
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def enough_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turn a lack of memory inside the block into an error with advice.

    Args:
        advice: Gives the message, to which the system's own words are added; called only on failure.

    Raises:
        ResourceError: An allocation inside the block failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_memory(error):
            raise
        raise ResourceError(f"{advice()} Reported: {_reason(error)}") from error


def exhaustion(error: BaseException) -> ResourceError | None:
    """Return the error with general advice for a lack of memory or disk; None for any other error."""
    if _is_memory(error):
        return ResourceError(
            f"Out of memory ({_reason(error)}). "
            "Lower training.batch_size, inference.batch_size or data.image_size, or set model.checkpointing=true."
        )
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return ResourceError(f"The disk is full ({error}). Free some space and continue with --resume.")
    return None


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # PyTorch's own error is a RuntimeError with these words too, so that it need not be imported here.
    words = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)
    return isinstance(error, MemoryError) or words


def _reason(error: BaseException) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
