"""What becomes of memory that is freed: the C library of Linux gives large blocks back, and asks for others at once."""

from __future__ import annotations

import ctypes
import os
import sys

# By glibc's <malloc.h>; its variables of the environment, which reach the processes that this one starts; the value.
_TRIM_THRESHOLD = (-1, "MALLOC_TRIM_THRESHOLD_", -1)
_TOP_PAD = (-2, "MALLOC_TOP_PAD_", 2**26)
_MMAP_MAX = (-4, "MALLOC_MMAP_MAX_", 0)


def keep_freed_memory() -> bool:
    """Let this process, and those that it starts, keep the memory that they free until they end.

    A map of more than 32 MB is otherwise a block of its own. The system takes it back when it is freed, and clears it
    page by page when it is asked for again, in the next layer: up to a third of a network's time on a CPU. The price is
    that a process stays as large as it ever was. It is for programs that own their process, before they compute.

    Returns:
        Whether that is so from now on: not where the C library is another one, or the user has set how glibc allocates.
    """
    settings = (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX)
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for _, name, _ in settings)
    if sys.platform != "linux" or tuned:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not all([mallopt(number, value) for number, _, value in settings]):
        return False
    for _, name, value in settings:
        os.environ[name] = str(value % 2**64)
    return True
