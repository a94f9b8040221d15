"""Runs the folds of a plan that are not done yet, wherever an executor takes them."""

from __future__ import annotations

from contextlib import closing

from medformer.crossval.plan import Plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.executors.inline import InlineExecutor
from medformer.crossval.run.executors.protocol import Executor, Work, WorkerLostError, title
from medformer.crossval.run.fold_job import FoldJob
from medformer.crossval.run.journal import is_complete, read_state
from medformer.crossval.run.record import why
from medformer.errors import ConfigError, DataError, InterruptedRun, LeakageError, MedformerError, ResourceError
from medformer.progress import Reporter, SilentReporter

__all__ = ["FoldJob", "execute"]

# What would fail every fold.
_STOPPING = (InterruptedRun, ResourceError, ConfigError, LeakageError)


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
