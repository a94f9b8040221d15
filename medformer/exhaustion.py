"""A lack of memory or disk, in whatever form the system reports it, as one error that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medformer.errors import ResourceError

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
