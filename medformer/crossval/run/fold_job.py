"""One fold, whichever process it runs in: what a task does in it, and the journal kept around that."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Protocol

from medformer.crossval.plan import Fold
from medformer.crossval.run.contract import Context, Learner
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.journal import (
    FoldState,
    is_complete,
    predictions_digest,
    read_predictions,
    read_state,
    write_state,
)
from medformer.crossval.run.record import why
from medformer.errors import InterruptedRun, MedformerError, ResourceError
from medformer.files import write_csv, write_text
from medformer.progress import Reporter, SilentReporter


class FoldJob(Protocol):
    """What a task does in one fold.

    It trains on `fold.train`, selects on `fold.validation`, and leaves `folder/predictions.csv` with one row per id of
    `fold.test`: a column `id`, and whatever else the task predicts and measures. A fold without test ids needs no
    such file. With `resume`, an earlier attempt may have left training state in `folder` that it continues from.

    A job may run in another process: it must be picklable, and a reporter that it tells about its steps must be its
    attribute `reporter`, which is replaced there.
    """

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Do the work."""


class LearnerJob:
    """The fold job of a learner: fit it, then predict the test cases once.

    Args:
        learner: What is fitted.
        run: The run that it works in: the run itself, or a baseline or the canary inside it.
        seed: The run's seed.
        reporter: Receives the progress.
    """

    def __init__(self, learner: Learner, run: RunDirectory, seed: int, reporter: Reporter | None = None) -> None:
        self.learner = learner
        self.run = run
        self.seed = seed
        self.reporter = reporter or SilentReporter()

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave what the learner learned, and `predictions.csv` where the fold has test cases."""
        context = Context(fold, folder, self.run, self.seed, resume, self.reporter)
        predictor = self.learner.fit(context)
        if fold.test:
            rows = list(predictor.predict(self.learner.study, fold.test, self.run.path, self.reporter))
            write_csv(folder / "predictions.csv", rows, list(rows[0]))


def run_fold(fold: Fold, job: FoldJob, folder: Path, plan: str) -> None:
    """Run one fold: journal, job, check of what it left. A fold that is done stays as it is.

    The journal is read here and not before, because an attempt in another process may have come in between.

    Args:
        fold: Which.
        job: What to do.
        folder: The fold's own.
        plan: Digest of the plan that the fold belongs to.

    Raises:
        DataError: The job left incomplete predictions, or the folder belongs to another plan.
        Exception: Whatever the job raised.
    """
    state = read_state(folder, fold.index, plan)
    if is_complete(folder, fold, state):
        return
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
