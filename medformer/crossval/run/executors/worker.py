"""One fold in the process of a Ray worker, as in the one that asked for it, and what it says: folds/<k>/worker.log."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

import medformer
from medformer.crossval.plan import Fold
from medformer.crossval.run.execute import FoldJob, describe_parts, run_fold
from medformer.crossval.run.journal import read_state
from medformer.crossval.run.record import why
from medformer.errors import ConfigError, InterruptedRun, MedformerError, ResourceError, exhaustion
from medformer.files import write_text
from medformer.progress import LineReporter

LOG = "worker.log"

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
        token: First line of the log.
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
        return portable(exhaustion(error) or error)
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


class LogReporter(LineReporter):
    """Appends progress to the file, long pieces of work with a line now and then.

    A file in the run folder needs no connection between the processes, survives both, and can be read later. What came
    of a piece of work is said by those who did it, so that its end has no line.

    Args:
        folder: The fold's.
        interval: Least time between two lines about the same piece of work, s.
        clock: Seconds that only grow.
    """

    def __init__(self, folder: Path, interval: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(interval, clock)
        self._path = folder / LOG

    def line(self, text: str) -> None:
        """Write the sentence."""
        # Progress is worth less than the fold: a full disk ends it where results are written, not here.
        with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
            file.write(" ".join(text.split("\n")) + "\n")


class WorkerLog:
    """The driver's end: begins the file, and reads what was added to it.

    Args:
        folder: The fold's.
        token: First line of the file, by which a worker knows that it sees the same folder as the driver.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._path = folder / LOG
        write_text(self._path, token + "\n")
        self._read = self._path.stat().st_size

    def new_lines(self) -> list[str]:
        """Return the lines that were completed since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self._read += len(complete)
        return complete.decode("utf-8", errors="replace").splitlines()


def check_same_folder(folder: Path, token: str, *, patience: float, where: str) -> None:
    """Make sure that this process sees the fold's folder that the driver sees.

    Args:
        folder: The fold's.
        token: What the driver wrote.
        patience: How long to wait for a network file system to show it, s.
        where: This machine, for the message.

    Raises:
        ResourceError: It does not.
    """
    until = time.monotonic() + patience
    while True:
        with suppress(OSError), open(folder / LOG, encoding="utf-8") as file:
            if file.readline() == token + "\n":
                return
        if time.monotonic() >= until:
            raise ResourceError(
                f"The worker on {where} does not see {folder} as the machine that started the run does. The run folder "
                "must lie on a file system that all machines share, under the same path on each. Choose such a folder "
                "with --out, or use --executor inline."
            )
        time.sleep(min(1.0, patience / 10))
