"""One fold after another, in this process."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from medformer.crossval.run.executors.protocol import Outcomes, Work, describe_parts, title
from medformer.crossval.run.fold_job import run_fold
from medformer.crossval.run.journal import read_state
from medformer.errors import InterruptedRun
from medformer.progress import Reporter


class InlineExecutor:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was started."""
