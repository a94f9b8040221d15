"""Folds as Ray tasks: several at once, on this machine or a cluster, continued elsewhere when their process dies."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

from medformer.crossval.plan import Fold
from medformer.crossval.run.execute import Executor, Outcomes, Work, title
from medformer.crossval.run.executors.ray_cluster import check_size, import_ray, ray_cluster
from medformer.crossval.run.executors.session import POLL, RETRIES, Handle, Session, pickle_job
from medformer.crossval.run.executors.worker import Order, Threads, run_order
from medformer.errors import ConfigError, InterruptedRun, ResourceError
from medformer.progress import Reporter


class RayExecutor(Executor):
    """Runs folds through Ray (see `Executor`).

    Results are those of the inline executor bit for bit where the machines compute alike: a fold depends on its seed
    and on the number of threads, and workers take over the number of this process.

    Args:
        address: Of a cluster; None starts Ray on this machine.
        workers: Folds at once; None for what fits.
        cpus_per_fold: Processors that Ray reserves for a fold; a reservation, not a limit.
        gpus_per_fold: Share of a GPU, or number of GPUs.
        patience: How long a worker waits to see the run folder, s.
        retries: How often a fold is started again because its process died.

    Raises:
        ConfigError: Ray is not installed, or cannot reserve that share of GPUs.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_fold: float = 1.0,
        gpus_per_fold: float = 0.0,
        patience: float = 30.0,
        retries: int = RETRIES,
    ) -> None:
        if gpus_per_fold > 1 and gpus_per_fold != int(gpus_per_fold):
            raise ConfigError(
                f"execution.gpus_per_fold={gpus_per_fold:g}; expected a share of one GPU, such as 0.5, or a whole "
                "number of them."
            )
        self._ray = import_ray()
        self.address = address
        self.workers = workers
        self.cpus_per_fold = cpus_per_fold
        self.gpus_per_fold = gpus_per_fold
        self.patience = patience
        self.retries = retries
        self._stack = ExitStack()
        self._checked = False

    def __enter__(self) -> Self:
        self._stack.enter_context(self._cluster())
        return self

    def __exit__(self, *error: object) -> None:
        """End Ray where it was started, or leave the cluster."""
        self._stack.close()

    def run(self, work: Work, reporter: Reporter) -> Outcomes:
        """See `Executor`."""
        pickled, threads = pickle_job(work.job), Threads.here()
        with self._cluster():
            if not self._checked:
                check_size(self._ray, self.address, self.cpus_per_fold, self.gpus_per_fold, reporter)
                self._checked = True
                if threads.torch > self.cpus_per_fold:
                    reporter.line(
                        f"Note: each fold computes with {threads.torch} threads, as this process would, so that "
                        f"results are the same; Ray reserves {self.cpus_per_fold:g} CPU for it. OMP_NUM_THREADS sets "
                        "another number."
                    )
            limit = self.workers or len(work.folds)
            session = _Session(self._ray, self, work, reporter, pickled, limit=limit, threads=threads)
            try:
                yield from session.outcomes()
            finally:
                session.stop()

    def _cluster(self) -> AbstractContextManager[None]:
        return ray_cluster(self._ray, self.address, least=math.ceil((self.workers or 0) * self.cpus_per_fold))


class _Session(Session):
    """The folds of one call, as tasks of Ray."""

    def __init__(self, ray: Any, executor: RayExecutor, work: Work, reporter: Reporter, job: bytes, **how: Any) -> None:
        super().__init__(work, reporter, retries=executor.retries, patience=executor.patience, **how)
        self.ray = ray
        self.job = ray.put(job)
        self.task = ray.remote(run_order).options(
            num_cpus=executor.cpus_per_fold,
            num_gpus=executor.gpus_per_fold,
            max_retries=self.retries,
            # A fold interrupted by others than us, such as the node's scheduler, saved its state and goes on elsewhere.
            retry_exceptions=[InterruptedRun],
        )

    def start(self, order: Order) -> Handle:
        return self.task.remote(order, self.job)

    def ended(self, handles: Collection[Handle]) -> Collection[Handle]:
        found: list[Handle] = self.ray.wait(list(handles), timeout=POLL)[0]
        return found

    def error(self, handle: Handle, fold: Fold) -> Exception | None:
        errors = self.ray.exceptions
        try:
            error: Exception | None = self.ray.get(handle)
        except errors.RayTaskError as failure:
            if not isinstance(failure, InterruptedRun):
                # Not the fold, which returns its error, but what surrounds it.
                return ResourceError(
                    f"{title(fold, self.work.total)} could not run in its worker: "
                    f"{str(failure).strip().splitlines()[-1]}. medformer and what it needs must be installed there."
                )
            error = self.lost(fold, "it was asked to end")
        except errors.RayError as failure:
            error = self.lost(fold, type(failure).__name__)
        return error

    def cancel(self, handle: Handle, *, force: bool) -> None:
        self.ray.cancel(handle, force=force)
