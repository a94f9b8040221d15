"""One thread for linear algebra, so that a fitted estimator does not depend on how many cores its worker has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP to one thread inside the block.

    Threads change the order in which numbers are added, and so the last digits of what is fitted: the same fold would
    differ between a laptop and a worker that a cluster gave one core.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=1):
        yield
