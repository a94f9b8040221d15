"""The number of threads that a fold computes with, which decides the last digits of its results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Threads:
    """Threads of one process.

    Sums are split over threads, so another number adds in another order. A worker therefore takes over the numbers of
    the process that the run was started in, whatever its machine would choose.

    Attributes:
        torch: What torch uses within an operation.
        blas: What NumPy's and SciPy's linear algebra uses.
    """

    torch: int
    blas: int

    @classmethod
    def here(cls) -> Self:
        """The numbers of this process."""
        import torch
        from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

        threads = torch.get_num_threads()
        blas = [int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
        return cls(threads, max(blas, default=threads))

    def apply(self) -> None:
        """Make this process use them: libraries that are loaded, and through the environment those still to come."""
        for variable, threads in zip(_VARIABLES, (self.torch, self.torch, self.blas), strict=True):
            os.environ[variable] = str(threads)
        # Several folds may have more threads than there are processors, and those that wait must not keep one busy.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(self.torch)
        # Kept beyond this call: the process only works for us.
        threadpool_limits(self.blas, user_api="blas")
