"""Folds in other processes: which wait, run and have ended, whatever it is that starts and watches the processes."""

from __future__ import annotations

import copy
import pickle
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from joblib import wrap_non_picklable_objects  # type: ignore[import-untyped]

from medformer.crossval.plan import Fold
from medformer.crossval.run.execute import FoldJob, Outcomes, Work, WorkerLostError
from medformer.crossval.run.executors.worker import Order, Threads, WorkerLog
from medformer.crossval.run.journal import JournalState, read_state, write_state
from medformer.errors import ConfigError, InterruptedRun
from medformer.progress import Reporter, SilentReporter
from medformer.training.signals import stop_on_signals

RETRIES = 3
"""How often a fold is started again because its process died."""

POLL = 0.2
_GRACE = 120.0

Handle = Any
"""What stands for a fold that was started; hashable."""


class Session(ABC):
    """The folds of one call of an executor.

    Args:
        work: The folds, and what to do in each.
        reporter: Receives what the folds say.
        limit: Folds at once.
        threads: What each fold computes with.
        patience: How long a worker waits to see the run folder, s.
        retries: See `RETRIES`.
    """

    def __init__(
        self, work: Work, reporter: Reporter, *, limit: int, threads: Threads, patience: float, retries: int
    ) -> None:
        self.work = work
        self.reporter = reporter
        self.limit = limit
        self.threads = threads
        self.patience = patience
        self.retries = retries
        self.waiting = deque(work.folds)
        self.running: dict[Handle, Fold] = {}
        self.logs: dict[int, WorkerLog] = {}

    @abstractmethod
    def start(self, order: Order) -> Handle:
        """Start a fold in another process."""

    @abstractmethod
    def ended(self, handles: Collection[Handle]) -> Collection[Handle]:
        """Wait for at most `POLL` seconds, and return those that ended."""

    @abstractmethod
    def error(self, handle: Handle, fold: Fold) -> Exception | None:
        """What a fold that ended failed with."""

    @abstractmethod
    def cancel(self, handle: Handle, *, force: bool) -> None:
        """Ask a fold to save its state and end, or end it."""

    def outcomes(self) -> Outcomes:
        """Start the folds, and yield each as it ends (see `Executor.run`)."""
        with stop_on_signals() as stop:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.limit:
                    self._submit(self.waiting.popleft())
                ended = self.ended(list(self.running))
                self._relay()
                if stop:
                    raise InterruptedRun(
                        f"{stop.name}: the folds that ran saved their state. Run the same command with --resume."
                    )
                for handle in ended:
                    fold = self.running.pop(handle)
                    yield fold, self.error(handle, fold)

    def stop(self) -> None:
        """Cancel what runs, if anything does, and wait for it to save its state."""
        if not self.running:
            return
        self.reporter.line(f"Stopping; folds that run save their state first: {_listed(self.running.values())}.")
        for handle in self.running:
            self.cancel(handle, force=False)
        left, until = set(self.running), time.monotonic() + _GRACE
        try:
            while left and time.monotonic() < until:
                left -= set(self.ended(left))
                self._relay()
        finally:
            # Too slow, or somebody lost patience.
            for handle in left:
                self.cancel(handle, force=True)
            for fold in self.running.values():
                self._settle(fold, "pending", "stopped with the run")

    def lost(self, fold: Fold, how: str) -> WorkerLostError:
        """Journal that a fold lost its process too often, and return the error."""
        reason = (
            f"Its process ended early ({how}), also when it was started again {self.retries} times. Look for a lack of "
            "memory on the machine it ran on, lower training.batch_size or raise execution.cpus_per_fold so that fewer "
            "folds share a machine."
        )
        self._settle(fold, "failed", reason)
        return WorkerLostError(reason)

    def _submit(self, fold: Fold) -> None:
        folder = self.work.run.fold(fold.index).absolute()
        token = f"medformer {uuid.uuid4()}"
        self.logs[fold.index] = WorkerLog(folder, token)
        order = Order(fold, self.work.plan, folder, Path.cwd(), token, self.patience, self.threads)
        self.running[self.start(order)] = fold

    def _relay(self) -> None:
        for index, log in self.logs.items():
            for line in log.new_lines():
                self.reporter.line(f"Fold {index}: {line}")

    def _settle(self, fold: Fold, state: JournalState, reason: str) -> None:
        """Journal the end of an attempt that could not do it itself."""
        folder = self.work.run.fold(fold.index)
        found = read_state(folder, fold.index, self.work.plan)
        if found.state == "running":
            write_state(folder, found.end(state, reason))


def pickle_job(job: FoldJob) -> bytes:
    """Pickle a job without its reporter, which stays in this process. What no module holds travels by value.

    Raises:
        ConfigError: The job holds something that cannot be copied to another process.
    """
    if hasattr(job, "reporter"):
        job = copy.copy(job)
        job.reporter = SilentReporter()
    try:
        return pickle.dumps(wrap_non_picklable_objects(job, keep_wrapper=False))
    except Exception as error:
        raise ConfigError(
            f"The fold job cannot be copied to other processes: {error}. Keep open files, locks and the like out of "
            "it, or use --executor inline."
        ) from error


def _listed(folds: Iterable[Fold]) -> str:
    return ", ".join(str(fold.index) for fold in folds)
