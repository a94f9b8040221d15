"""Runs the folds of a plan that are not done yet: in this process, or wherever another executor takes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Self

from medformer.crossval.plan import Fold, Plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.fold_job import FoldJob, run_fold
from medformer.crossval.run.journal import is_complete, read_state
from medformer.crossval.run.record import why
from medformer.errors import ConfigError, DataError, InterruptedRun, LeakageError, MedformerError, ResourceError
from medformer.progress import Reporter, SilentReporter

__all__ = ["FoldJob", "execute"]

# What would fail every fold.
_STOPPING = (InterruptedRun, ResourceError, ConfigError, LeakageError)


class WorkerLostError(ResourceError):
    """The process of one fold died again and again; unlike other lacks, it does not stop the other folds."""


@dataclass(frozen=True)
class Work:
    """The folds of a plan that are left to do.

    Attributes:
        folds: In the plan's order.
        total: Number of folds of the plan.
        plan: The plan's digest.
        job: What to do in each.
        run: The folder that the folds' folders are in.
    """

    folds: tuple[Fold, ...]
    total: int
    plan: str
    job: FoldJob
    run: RunDirectory


Outcomes = Generator[tuple[Fold, Exception | None], None, None]


class Executor(ABC):
    """Where folds run.

    Entering one keeps what it starts for several calls of `run`; without that, each call starts and ends its own.
    """

    @abstractmethod
    def run(self, work: Work, reporter: Reporter) -> Outcomes:
        """Run the folds, each through `run_fold`, and yield each as it ends, with the error of one that failed.

        Closing the generator ends the folds that still run, with their state saved.

        Raises:
            InterruptedRun: A signal came; the folds saved their state.
            KeyboardInterrupt: Likewise, between two folds.
            ConfigError: The executor cannot be had as asked for.
            ResourceError: Likewise, for reasons outside.
        """

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """End what was started."""


def title(fold: Fold, total: int) -> str:
    """Say which fold of how many."""
    return f"Fold {fold.index} ({fold.index + 1} of {total})"


def describe_parts(fold: Fold) -> str:
    """Say how many cases each part of a fold has."""
    return ", ".join(f"{len(ids)} {part}" for part, ids in fold.parts.items())


class InlineExecutor(Executor):
    """The executor that needs nothing: a laptop's, and the one whose results the others repeat."""

    def run(self, work: Work, reporter: Reporter) -> Outcomes:
        """See `Executor`."""
        for fold in work.folds:
            folder = work.run.fold(fold.index)
            continued = ", continued" if read_state(folder, fold.index, work.plan).attempts else ""
            reporter.line(f"{title(fold, work.total)}: {describe_parts(fold)}{continued}.")
            failure = None
            try:
                run_fold(fold, work.job, folder, work.plan)
            except InterruptedRun:
                raise
            except Exception as error:
                failure = error
            yield fold, failure

    def __exit__(self, *error: object) -> None:
        """Nothing was started."""


def execute(
    plan: Plan,
    job: FoldJob,
    run: RunDirectory,
    reporter: Reporter | None = None,
    executor: Executor | None = None,
) -> None:
    """Run every fold that is not done yet.

    A fold that fails on its own does not stop the others; the failure is raised once they are through. What would fail
    every fold (an interruption, the disk, memory, the config) stops at once. The journal is intact either way.

    Args:
        plan: The frozen plan.
        job: What to do in each fold.
        run: The folder to work in.
        reporter: Receives the progress.
        executor: Where the folds run; one after another in this process unless given.

    Raises:
        MedformerError: A fold failed; names each one and its reason.
    """
    reporter = reporter or SilentReporter()
    digest, left = plan.digest(), []
    total = len(plan.folds)
    for fold in plan.folds:
        folder = run.fold(fold.index)
        if is_complete(folder, fold, read_state(folder, fold.index, digest)):
            reporter.line(f"{title(fold, total)}: already done.")
        else:
            left.append(fold)
    if not left:
        return
    work = Work(tuple(left), total, digest, job, run)
    failures: dict[int, Exception] = {}
    with closing((executor or InlineExecutor()).run(work, reporter)) as outcomes:
        for fold, error in outcomes:
            if error is None:
                continue
            if isinstance(error, _STOPPING) and not isinstance(error, WorkerLostError):
                raise error
            failures[fold.index] = error
            reporter.line(f"{title(fold, total)}: failed. {why(error)}")
    if failures:
        raise _summary(dict(sorted(failures.items())), total)


def _summary(failures: dict[int, Exception], total: int) -> MedformerError:
    reasons = " ".join(f"Fold {index}: {why(error)}" for index, error in failures.items())
    kinds = (DataError, ResourceError)
    kind = next((kind for kind in kinds if all(isinstance(error, kind) for error in failures.values())), MedformerError)
    error = kind(
        f"{len(failures)} of {total} folds failed; the other {total - len(failures)} are done and kept. {reasons} "
        "Remove the cause and run the same command with --resume."
    )
    error.__cause__ = next(iter(failures.values()))
    return error
