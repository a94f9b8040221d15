"""Runs the folds of a plan one after another and keeps the journal that a resumed run continues from."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Protocol

from medformer.crossval.journal import (
    FoldState,
    is_complete,
    predictions_digest,
    read_predictions,
    read_state,
    write_state,
)
from medformer.crossval.plan import Fold, Plan
from medformer.crossval.run_directory import RunDirectory
from medformer.crossval.run_record import why
from medformer.errors import ConfigError, DataError, InterruptedRun, LeakageError, MedformerError, ResourceError
from medformer.files import write_text
from medformer.progress import Reporter, SilentReporter


class FoldJob(Protocol):
    """What a task does in one fold.

    It trains on `fold.train`, selects on `fold.validation`, and leaves `folder/predictions.csv` with one row per id of
    `fold.test`: a column `id`, and whatever else the task predicts and measures. A fold without test ids needs no
    such file. With `resume`, an earlier attempt may have left training state in `folder` that it continues from.
    """

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Do the work."""


def execute(plan: Plan, job: FoldJob, run: RunDirectory, reporter: Reporter | None = None) -> None:
    """Run every fold that is not done yet.

    A fold that fails on its own does not stop the others; the failure is raised once they are through. What would fail
    every fold (an interruption, the disk, memory, the config) stops at once. The journal is intact either way.

    Raises:
        MedformerError: A fold failed; names each one and its reason.
    """
    reporter = reporter or SilentReporter()
    failures: dict[int, Exception] = {}
    for fold in plan.folds:
        title = f"Fold {fold.index} ({fold.index + 1} of {len(plan.folds)})"
        folder = run.fold(fold.index)
        state = read_state(folder, fold.index, plan.digest())
        if is_complete(folder, fold, state):
            reporter.line(f"{title}: already done.")
            continue
        parts = ", ".join(f"{len(ids)} {part}" for part, ids in fold.parts.items())
        reporter.line(f"{title}: {parts}{', continued' if state.attempts else ''}.")
        try:
            run_fold(fold, job, folder, state)
        except (InterruptedRun, ResourceError, ConfigError, LeakageError):
            raise
        except Exception as error:
            failures[fold.index] = error
            reporter.line(f"{title}: failed. {why(error)}")
    if failures:
        raise _summary(failures, plan)


def run_fold(fold: Fold, job: FoldJob, folder: Path, state: FoldState) -> None:
    """Run one fold, whichever process it is in: journal, job, check of what it left.

    Raises:
        DataError: The job left incomplete predictions.
        Exception: Whatever the job raised.
    """
    resume = state.attempts > 0
    state = state.begin()
    write_state(folder, state)
    try:
        job(fold, folder, resume)
        read_predictions(folder, fold)
    except (InterruptedRun, KeyboardInterrupt) as error:
        write_state(folder, state.end("pending", why(error)))
        raise
    except Exception as error:
        _record_failure(folder, state, error)
        raise
    write_state(folder, state.end("done", predictions=predictions_digest(folder, fold)))


def _record_failure(folder: Path, state: FoldState, error: Exception) -> None:
    try:
        write_state(folder, state.end("failed", why(error)))
        if not isinstance(error, MedformerError):
            write_text(folder / "error.txt", "".join(traceback.format_exception(error)))
    except ResourceError:
        # The disk is full: the journal keeps saying "running", which a resumed run treats the same way.
        return


def _summary(failures: dict[int, Exception], plan: Plan) -> MedformerError:
    reasons = " ".join(f"Fold {index}: {why(error)}" for index, error in failures.items())
    done = len(plan.folds) - len(failures)
    kind = DataError if all(isinstance(error, DataError) for error in failures.values()) else MedformerError
    error = kind(
        f"{len(failures)} of {len(plan.folds)} folds failed; the other {done} are done and kept. {reasons} "
        "Mend the cause and run the same command with --resume."
    )
    error.__cause__ = next(iter(failures.values()))
    return error
