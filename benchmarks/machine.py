"""What numbers were measured on, the peak memory of this process, and a clock of CPU time for trainings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import process_time
from unittest.mock import patch

from medformer.freed_memory import keep_freed_memory
from medformer.tasks.bench.machine import describe_machine as machine
from medformer.tasks.bench.passes import resident as peak_bytes
from medformer.training import optimizer

# As the command line does; peers in the same process gain from it alike.
keep_freed_memory()

__all__ = ["cpu_clock", "machine", "peak_bytes"]


@contextmanager
def cpu_clock() -> Iterator[None]:
    """Let trainings inside count the CPU time of this process, so that other work on the machine takes none of it.

    Right for one thread on a CPU: more threads count once each, and a GPU works while this clock stands still.
    """
    with patch.object(optimizer, "monotonic", process_time):
        yield
