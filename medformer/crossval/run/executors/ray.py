"""Folds as Ray tasks: several at once, on this machine or a cluster, continued elsewhere when their process dies."""

from __future__ import annotations

import copy
import math
import time
import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

from medformer.crossval.plan import Fold
from medformer.crossval.run.execute import Executor, FoldJob, Outcomes, Work, WorkerLostError, title
from medformer.crossval.run.executors.ray_cluster import check_size, import_ray, ray_cluster
from medformer.crossval.run.executors.worker import Order, Threads, WorkerLog, run_order
from medformer.crossval.run.journal import JournalState, read_state, write_state
from medformer.errors import ConfigError, InterruptedRun, ResourceError
from medformer.progress import Reporter, SilentReporter
from medformer.training.signals import stop_on_signals

RETRIES = 3
"""How often a fold is started again because its process died."""

_POLL = 0.2
_GRACE = 120.0


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
        pickled, threads = pickle_job(self._ray, work.job), Threads.here()
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
            session = _Session(self._ray, self, work, pickled, threads, reporter)
            try:
                yield from session.outcomes()
            finally:
                session.stop()

    def _cluster(self) -> AbstractContextManager[None]:
        return ray_cluster(self._ray, self.address, processors=math.ceil((self.workers or 0) * self.cpus_per_fold))


class _Session:
    """The folds of one call: waiting, running, and ended."""

    def __init__(
        self, ray: Any, executor: RayExecutor, work: Work, pickled: bytes, threads: Threads, reporter: Reporter
    ) -> None:
        self.ray = ray
        self.work = work
        self.reporter = reporter
        self.limit = executor.workers or len(work.folds)
        self.patience = executor.patience
        self.threads = threads
        self.job = ray.put(pickled)
        self.task = ray.remote(run_order).options(
            num_cpus=executor.cpus_per_fold,
            num_gpus=executor.gpus_per_fold,
            max_retries=RETRIES,
            # A fold interrupted by others than us, such as the node's scheduler, saved its state and goes on elsewhere.
            retry_exceptions=[InterruptedRun],
        )
        self.waiting = deque(work.folds)
        self.running: dict[Any, Fold] = {}
        self.logs: dict[int, WorkerLog] = {}

    def outcomes(self) -> Outcomes:
        with stop_on_signals() as stop:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.limit:
                    self._submit(self.waiting.popleft())
                ended, _ = self.ray.wait(list(self.running), timeout=_POLL)
                self._relay()
                if stop:
                    raise InterruptedRun(
                        f"{stop.name}: the folds that ran saved their state. Run the same command with --resume."
                    )
                for ref in ended:
                    fold = self.running.pop(ref)
                    yield fold, self._error(ref, fold)

    def _submit(self, fold: Fold) -> None:
        folder = self.work.run.fold(fold.index).absolute()
        token = f"medformer {uuid.uuid4()}"
        self.logs[fold.index] = WorkerLog(folder, token)
        order = Order(fold, self.work.plan, folder, Path.cwd(), token, self.patience, self.threads)
        self.running[self.task.remote(order, self.job)] = fold

    def _relay(self) -> None:
        for index, log in self.logs.items():
            for line in log.new_lines():
                self.reporter.line(f"Fold {index}: {line}")

    def _error(self, ref: Any, fold: Fold) -> Exception | None:
        """What a fold that ended failed with."""
        errors = self.ray.exceptions
        try:
            error: Exception | None = self.ray.get(ref)
        except errors.RayTaskError as failure:
            if not isinstance(failure, InterruptedRun):
                # Not the fold, which returns its error, but what surrounds it.
                return ResourceError(
                    f"{title(fold, self.work.total)} could not run in its worker: "
                    f"{str(failure).strip().splitlines()[-1]}. medformer and what it needs must be installed there."
                )
            error = self._lost(fold, "it was asked to end")
        except errors.RayError as failure:
            error = self._lost(fold, type(failure).__name__)
        return error

    def _lost(self, fold: Fold, how: str) -> WorkerLostError:
        reason = (
            f"Its process ended early ({how}), also when it was started again {RETRIES} times. Look for a lack of "
            "memory on the machine it ran on, lower training.batch_size or raise execution.cpus_per_fold so that fewer "
            "folds share a machine."
        )
        self._settle(fold, "failed", reason)
        return WorkerLostError(reason)

    def stop(self) -> None:
        """Cancel what runs, if anything does, and wait for it to save its state."""
        if not self.running:
            return
        self.reporter.line(f"Stopping; folds that run save their state first: {_listed(self.running.values())}.")
        for ref in self.running:
            self.ray.cancel(ref)
        left, until = list(self.running), time.monotonic() + _GRACE
        try:
            while left and time.monotonic() < until:
                _, left = self.ray.wait(left, num_returns=len(left), timeout=_POLL)
                self._relay()
        finally:
            # Too slow, or somebody lost patience.
            for ref in left:
                self.ray.cancel(ref, force=True)
            for fold in self.running.values():
                self._settle(fold, "pending", "stopped with the run")

    def _settle(self, fold: Fold, state: JournalState, reason: str) -> None:
        """Journal the end of an attempt that could not do it itself."""
        folder = self.work.run.fold(fold.index)
        found = read_state(folder, fold.index, self.work.plan)
        if found.state == "running":
            write_state(folder, found.end(state, reason))


def pickle_job(ray: Any, job: FoldJob) -> bytes:
    """Pickle a job without its reporter, which stays in this process.

    Raises:
        ConfigError: The job holds something that cannot be copied to another process.
    """
    if hasattr(job, "reporter"):
        job = copy.copy(job)
        job.reporter = SilentReporter()
    try:
        return bytes(ray.cloudpickle.dumps(job))
    except Exception as error:
        raise ConfigError(
            f"The fold job cannot be copied to Ray's workers: {error}. Keep open files, locks and the like out of it, "
            "or use --executor inline."
        ) from error


def _listed(folds: Iterable[Fold]) -> str:
    return ", ".join(str(fold.index) for fold in folds)
