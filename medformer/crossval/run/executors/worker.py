"""What happens in the process of a Ray worker: one fold, as it would have run in the process that asked for it."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

import medformer
from medformer.crossval.plan import Fold
from medformer.crossval.run.execute import describe_parts
from medformer.crossval.run.executors.worker_log import LogReporter, check_same_folder
from medformer.crossval.run.fold_job import FoldJob, run_fold
from medformer.crossval.run.journal import read_state
from medformer.crossval.run.record import why
from medformer.errors import ConfigError, InterruptedRun, MedformerError, ResourceError

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


@dataclass(frozen=True)
class Order:
    """One fold to run elsewhere.

    Attributes:
        fold: Which.
        plan: Digest of the plan that the fold belongs to.
        folder: The fold's own, absolute.
        directory: The driver's working directory, which paths in a config may be relative to.
        token: What `worker_log` has as its first line.
        patience: How long to wait for the folder to appear, s.
        threads: What to compute with.
        version: The driver's medformer.
    """

    fold: Fold
    plan: str
    folder: Path
    directory: Path
    token: str
    patience: float
    threads: Threads
    version: str = medformer.__version__


def run_order(order: Order, pickled_job: bytes) -> Exception | None:
    """Run a fold and return the error that it failed with.

    Returning it keeps a failed fold apart from a dead worker, which is what Ray tries again.

    Raises:
        InterruptedRun: The fold was cancelled, or this process was asked to end; its state is saved.
    """
    try:
        with _interruptible():
            _run(order, pickled_job)
    except InterruptedRun:
        raise
    except KeyboardInterrupt as error:
        raise InterruptedRun(f"Fold {order.fold.index} was {why(error)}.") from None
    except Exception as error:
        return portable(error)
    return None


def portable(error: Exception) -> Exception:
    """Return an error that survives the way to another process: itself if it does, else one with the same reason."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    return error if type(copy) is type(error) and str(copy) == str(error) else MedformerError(why(error))


def _run(order: Order, pickled_job: bytes) -> None:
    where = socket.gethostname()
    if medformer.__version__ != order.version:
        raise ConfigError(
            f"The worker on {where} has medformer {medformer.__version__}, the run was started with {order.version}. "
            "Install the same version on every machine."
        )
    check_same_folder(order.folder, order.token, patience=order.patience, where=where)
    try:
        os.chdir(order.directory)
    except OSError as error:
        raise ResourceError(
            f"The worker on {where} cannot enter {order.directory}, where the run was started ({error.strerror}). "
            "Paths may be relative to it: start the run in a folder that all machines share."
        ) from error
    order.threads.apply()
    try:
        job: FoldJob = pickle.loads(pickled_job)
    except (ImportError, AttributeError) as error:
        raise ResourceError(
            f"The worker on {where} cannot load the fold job ({error}). Install what the run needs on every machine."
        ) from error
    reporter = LogReporter(order.folder)
    if hasattr(job, "reporter"):
        job.reporter = reporter
    before = read_state(order.folder, order.fold.index, order.plan)
    continued = "" if not before.attempts else ", continued"
    if before.state == "running":
        continued = f", continued after process {before.pid} on {before.host} died"
    reporter.line(f"{describe_parts(order.fold)}; process {os.getpid()} on {where}{continued}.")
    run_fold(order.fold, job, order.folder, order.plan)
    reporter.line("done.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a cancellation, which comes as SIGINT, and SIGTERM unwind the fold as Ctrl-C does in a run without Ray.

    Without it, SIGINT is ignored where the driver was started in the background of a script, and Ray's handler for
    SIGTERM leaves the journal behind.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
