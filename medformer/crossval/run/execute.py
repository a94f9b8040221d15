"""Runs the folds of a plan: the work of one fold with the journal around it, and what takes those that are not done."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from medformer.crossval.plan import Fold, Plan
from medformer.crossval.run.contract import Context, Learner, Recalling
from medformer.crossval.run.directory import RECALL, RunDirectory
from medformer.crossval.run.journal import (
    FoldState,
    is_complete,
    read_predictions,
    read_state,
    write_state,
)
from medformer.crossval.run.record import why
from medformer.crossval.run.start.source import Start
from medformer.data.training_range import Traits, write_range
from medformer.errors import (
    ConfigError,
    DataError,
    InterruptedRun,
    LeakageError,
    MedformerError,
    ResourceError,
    exhaustion,
)
from medformer.files import write_csv, write_json, write_text
from medformer.inference.export_table import Exports
from medformer.names import file_stems
from medformer.progress import Reporter, SilentReporter
from medformer.training.banks import remembered_cases, require_unremembered
from medformer.training.job import WEIGHTS

RECALLED = 4
"""Test cases of a fold, at most, of which that is said."""

# What would fail every fold.
_STOPPING = (InterruptedRun, ResourceError, ConfigError, LeakageError)


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
        folds: Of the plan; those from a fold on are still to be done. 0 where what they take was said already.
        start: The network of another run that training starts from.
        traits: Of cases by id, whose range over the training cases a fold leaves too.
    """

    def __init__(
        self,
        learner: Learner,
        run: RunDirectory,
        seed: int,
        reporter: Reporter | None = None,
        *,
        folds: int = 1,
        start: Start | None = None,
        traits: Mapping[str, Traits] | None = None,
    ) -> None:
        self.learner = learner
        self.run = run
        self.seed = seed
        self.reporter = reporter or SilentReporter()
        self.folds = folds
        self.start = start
        self.traits = traits or {}

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave what the learner learned, and `predictions.csv` where the fold has test cases."""
        left = max(1, self.folds - fold.index) if self.folds else 0
        context = Context(fold, folder, self.run, self.seed, resume, self.reporter, left, self.start)
        predictor = self.learner.fit(context)
        write_range(folder, [self.traits[name] for name in fold.train if name in self.traits])
        require_unremembered(folder, fold.parts)
        if fold.test:
            study = self.learner.study
            # Each repeat tests every case again.
            repeat = f"repeat-{fold.repeat}" if study.crossval.repeats > 1 else ""
            out = Exports(self.run.path, file_stems(study.by_id, repeat))
            rows = list(predictor.predict(study, fold.test, out, self.reporter))
            if isinstance(predictor, Recalling) and (stored := _stored(folder)):
                # A few, from all over the table: neighbors there are often of one patient.
                some = fold.test[:: -(-len(fold.test) // RECALLED)]
                write_json(folder / RECALL, {"cases": predictor.recall(study, some, stored)})
            write_csv(folder / "predictions.csv", rows, list(rows[0]))


def _stored(folder: Path) -> dict[int, str]:
    return remembered_cases(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}


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
        ResourceError: The machine lacks something, in whatever form the job reported it.
        Exception: Whatever else the job raised.
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
        found = exhaustion(error)
        _record_failure(folder, state, error, found or error)
        if found is not None:
            raise found from error
        raise
    write_state(folder, state.done(folder, fold))


def _record_failure(folder: Path, state: FoldState, error: Exception, reason: Exception) -> None:
    try:
        write_state(folder, state.end("failed", why(reason)))
        if not isinstance(error, MedformerError):
            write_text(folder / "error.txt", "".join(traceback.format_exception(error)))
    except ResourceError:
        # The disk is full: the journal keeps saying "running", which a resumed run treats the same way.
        return


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
    ours = all(isinstance(error, MedformerError) for error in failures.values())
    # One kind for all of them: a defect first, then what the machine lacks, then the data.
    kinds = (ResourceError, DataError) if ours else ()
    kind = next((kind for kind in kinds if any(isinstance(error, kind) for error in failures.values())), MedformerError)
    error = kind(
        f"{len(failures)} of {total} folds failed; the other {total - len(failures)} are done and kept. {reasons} "
        "Remove the cause and run the same command with --resume."
    )
    error.__cause__ = next(iter(failures.values()))
    return error
