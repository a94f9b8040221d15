"""Folds side by side in processes of this machine, each with a fixed number of threads.

The networks that are trained on connectomes keep one core busy with matrix products and random numbers, and gain little
from a second one. Several folds, each on its own core, gain all of it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, ModuleType
from typing import Any, Self

import torch

from medformer.crossval.plan import Fold
from medformer.crossval.run.execute import Executor, Outcomes, Work
from medformer.crossval.run.executors.session import POLL, RETRIES, Handle, Session, pickle_job
from medformer.crossval.run.executors.worker import Order, Threads, run_order
from medformer.errors import ConfigError, InterruptedRun
from medformer.progress import Reporter
from medformer.training.worker_choice import cores

_PATIENCE = 30.0
_GRACE = 10.0


class ProcessExecutor(Executor):
    """Runs folds in processes of this machine (see `Executor`).

    A fold computes with `cpus_per_fold` threads, whatever number this process has. So its results depend neither on the
    machine's number of cores nor on how many folds run at once; they are those of the inline executor with as many
    threads, bit for bit.

    Args:
        workers: Folds at once; None for one for every `cpus_per_fold` processors that this process may use, and no more
            than share a GPU.
        cpus_per_fold: Threads of a fold, rounded up.
        gpus_per_fold: Share of the GPU, which limits `workers` where these are not given.
        retries: How often a fold is started again because its process died.

    Raises:
        ConfigError: A fold asks for more than one GPU.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        cpus_per_fold: float = 1.0,
        gpus_per_fold: float = 0.0,
        retries: int = RETRIES,
    ) -> None:
        if gpus_per_fold > 1:
            raise ConfigError(
                f"execution.gpus_per_fold={gpus_per_fold:g}; with execution.executor=processes all folds share one "
                "GPU, so expected at most 1. Use --executor ray for several GPUs."
            )
        self.threads = max(1, math.ceil(cpus_per_fold))
        fitting = max(1, cores() // self.threads)
        if gpus_per_fold:
            fitting = min(fitting, math.floor(1 / gpus_per_fold + 1e-6))
        self.workers = workers or fitting
        self.shares = bool(gpus_per_fold)
        self.retries = retries
        self._pool: list[_Worker] = []
        self._kept = False
        self._said = False

    def __enter__(self) -> Self:
        self._kept = True
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        for worker in self._pool:
            worker.close()
        self._pool.clear()
        self._kept = False

    def run(self, work: Work, reporter: Reporter) -> Outcomes:
        """See `Executor`."""
        job, limit = pickle_job(work.job), min(self.workers, len(work.folds))
        if not self._said:
            reporter.line(f"Folds run in processes, {limit} at once, with {self.threads} thread(s) each.")
            if torch.cuda.is_available() and not self.shares and limit > 1:
                reporter.line(
                    "Note: folds that use the GPU all use the same one; --gpus-per-fold 0.5 lets two share it."
                )
            self._said = True
        session = _Session(work, reporter, self, job, limit)
        try:
            yield from session.outcomes()
        finally:
            session.stop()
            if not self._kept:
                self.__exit__()

    @property
    def processes(self) -> list[BaseProcess]:
        """Those that there are."""
        return [worker.process for worker in self._pool]

    def free_worker(self) -> _Worker:
        """A process that has nothing to do, started if there is none."""
        self._pool = [worker for worker in self._pool if worker.process.is_alive()]
        worker = next((worker for worker in self._pool if worker.free), None)
        if worker is None:
            worker = _Worker()
            self._pool.append(worker)
        return worker


class _Worker:
    """A process that runs one fold after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,))
        with _without_ctrl_c(), _without_main():
            self.process.start()
        there.close()
        self.free = True

    def close(self) -> None:
        """End the process, which has nothing to do, and wait for its end."""
        self.connection.close()
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Started:
    """A fold in a process, perhaps not the first that it is in."""

    def __init__(self, order: Order, worker: _Worker) -> None:
        self.order = order
        self.worker = worker
        self.retries = 0
        self.answer: Exception | None = None
        self.how = ""


class _Session(Session):
    """The folds of one call, in processes."""

    def __init__(self, work: Work, reporter: Reporter, executor: ProcessExecutor, job: bytes, limit: int) -> None:
        threads = Threads(executor.threads, executor.threads)
        super().__init__(work, reporter, limit=limit, threads=threads, patience=_PATIENCE, retries=executor.retries)
        self.executor = executor
        self.job = job
        self.stopping = False

    def start(self, order: Order) -> Handle:
        started = _Started(order, self.executor.free_worker())
        self._send(started)
        return started

    def ended(self, handles: Collection[Handle]) -> Collection[Handle]:
        # The end of a process is seen by itself too: processes that it started may hold its connection open.
        sources: dict[Any, _Started] = {handle.worker.connection: handle for handle in handles}
        sources |= {handle.worker.process.sentinel: handle for handle in handles}
        speaking = {sources[source] for source in wait(list(sources), POLL)}
        return [started for started in speaking if self._is_over(started)]

    def error(self, handle: Handle, fold: Fold) -> Exception | None:
        started: _Started = handle
        return self.lost(fold, started.how) if started.how else started.answer

    def cancel(self, handle: Handle, *, force: bool) -> None:
        self.stopping = True
        started: _Started = handle
        if force:
            started.worker.process.kill()
        else:
            started.worker.process.terminate()

    def _send(self, started: _Started) -> None:
        started.worker.free = False
        # One that died in this moment is seen when it is waited for.
        with suppress(OSError):
            started.worker.connection.send((started.order, self.job))

    def _is_over(self, started: _Started) -> bool:
        """Take the answer of a process, or start the fold again where there is none to come."""
        worker = started.worker
        try:
            if not worker.connection.poll():
                raise EOFError
            started.answer = worker.connection.recv()
            worker.free = True
            how = "it was asked to end" if isinstance(started.answer, InterruptedRun) else ""
        except (EOFError, OSError):
            worker.process.join(_GRACE)
            how = f"exit code {worker.process.exitcode}"
        if not how or self.stopping:
            return True
        if started.retries == self.retries:
            started.how = how
            return True
        started.retries += 1
        started.worker = self.executor.free_worker()
        self._send(started)
        return False


def _serve(connection: Connection) -> None:
    """Run the folds that come, and send back what each failed with, until nobody is at the other end."""
    if hasattr(os, "setsid"):
        # Ctrl-C is for the process that was started, which asks this one to save.
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            order, job = connection.recv()
            answer: Exception | None
            try:
                answer = run_order(order, job)
            except InterruptedRun as error:
                answer = error
            connection.send(answer)


def _end_with_driver() -> None:
    """End at once with the process that was started, as its folds do that run inline."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Let a process that is started inside not receive Ctrl-C until it asks for it; here it comes after the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Let a process that is started inside not run the program again whose main module this process began with.

    A script may begin the run when it is imported, and jobs travel by value.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
