"""What runs the folds that are left to do, and what it says about each."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.fold_job import FoldJob
from medformer.errors import ResourceError
from medformer.progress import Reporter


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


class Executor(Protocol):
    """Where folds run.

    Entering one keeps what it starts for several calls of `run`; without that, each call starts and ends its own.
    """

    def run(self, work: Work, reporter: Reporter) -> Outcomes:
        """Run the folds, each through `run_fold`, and yield each as it ends, with the error of one that failed.

        Closing the generator ends the folds that still run, with their state saved.

        Raises:
            InterruptedRun: A signal came; the folds saved their state.
            KeyboardInterrupt: Likewise, between two folds.
            ConfigError: The executor cannot be had as asked for.
            ResourceError: Likewise, for reasons outside.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def title(fold: Fold, total: int) -> str:
    """Say which fold of how many."""
    return f"Fold {fold.index} ({fold.index + 1} of {total})"


def describe_parts(fold: Fold) -> str:
    """Say how many cases each part of a fold has."""
    return ", ".join(f"{len(ids)} {part}" for part, ids in fold.parts.items())
