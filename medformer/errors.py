"""The errors a user can meet, each with the exit code the command line returns for it.

A message says what was found, what was expected, which case it concerns, and what to do next. What the
machine lacks (memory, disk, permission) becomes one of them, in whatever form the system reports it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal


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


class DamagedFileError(DataError, ValueError):
    """A table or JSON file that is cut off, edited into something else, or of another kind."""


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


class SharedMemoryError(ResourceError):
    """/dev/shm was full: loading goes on without loader processes."""


class InterruptedRun(MedformerError):
    """SIGINT or SIGTERM; everything finished so far is on disk and `--resume` continues."""

    exit_code = 130


def counted(count: int, noun: str, plural: str = "") -> str:
    """Spell a count with its noun: `1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _restored(kind: type[MedformerError], message: str) -> MedformerError:
    return kind.__new__(kind, message)


_WRITE_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to"),
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ELOOP), "Check that every folder of the path is one"
    ),
    errno.EISDIR: "Choose a name that no folder has",
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ), "Choose another name"),
}


def write_advice(error: OSError) -> str:
    """What to do about a file that could not be written, a sentence without its full stop."""
    return _WRITE_ADVICE.get(error.errno or 0, "Check the disk, or choose another folder")


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
    except Exception as error:
        if _lack(error) != "memory":
            raise
        raise ResourceError(f"{advice()} Reported: {_reason(error)}") from error


def exhaustion(error: BaseException) -> ResourceError | None:
    """Return the error with advice for what the machine lacks or forbids; None for any other error.

    That is memory, of a processor or a GPU, shared memory, disk, open files, a loader process that was killed, or
    permission.
    """
    lack, reason = _lack(error), _reason(error)
    if lack == "shared memory":
        return SharedMemoryError(
            f"The shared memory in /dev/shm, in which loader processes hand over their batches, is full ({reason}). "
            "Set data.workers=0, or make it larger: docker run --shm-size=2g."
        )
    return ResourceError(_ADVICE[lack].format(reason=reason)) if lack else None


_Lack = Literal["shared memory", "memory", "files", "disk", "loader", "permission"]

_ADVICE: dict[_Lack, str] = {
    "memory": "Out of memory ({reason}). Lower training.batch_size, inference.batch_size or data.image_size, or set "
    "model.checkpointing=true.",
    "disk": "The disk is full ({reason}). Free some space and continue with --resume.",
    "files": "Too many files are open ({reason}). Lower data.workers, or allow more (ulimit -n 4096), and continue "
    "with --resume.",
    "loader": "A loader process ended early ({reason}). Look for a lack of memory on this machine, lower data.workers, "
    "or set data.workers=0, and continue with --resume.",
    "permission": "No permission ({reason}). Change the permissions or choose another place.",
}

# PyTorch and OpenCV report what is lacking as a plain error, in words. Lower case, and spaces for underscores.
_WORDS: dict[_Lack, tuple[str, ...]] = {
    "shared memory": ("shared memory object", "shared memory(shm)", "out of shared memory", "</torch ", "bus error"),
    "disk": ("no space left on device", "disk quota exceeded"),
    "files": ("too many open files", "items of ancdata"),
    "memory": (
        "out of memory",
        "outofmemory",
        "not enough memory",
        "insufficient memory",
        "can't allocate memory",
        "cannot allocate memory",
        "unable to allocate",
        "failed to allocate",
        "unable to mmap",
        "alloc failed",
        "allocfailed",
        "allocation failed",
        "bad alloc",
        "rocblas status memory error",
        "invalid buffer size",
        "excessive memory usage",
        "killed by signal: killed",
    ),
    "loader": ("dataloader worker",),
}
_NUMBERS: dict[int, _Lack] = {
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
}


def _lack(error: BaseException) -> _Lack | None:
    """What an error says is lacking."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno is not None:
        found = _NUMBERS.get(error.errno)
        return "shared memory" if found == "disk" and str(error.filename).startswith("/dev/shm") else found
    if not isinstance(error, (RuntimeError, OSError)) and type(error).__module__ != "cv2":
        return None
    words = str(error).lower().replace("_", " ")
    return next((lack for lack, phrases in _WORDS.items() if any(phrase in words for phrase in phrases)), None)


def _reason(error: BaseException) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
