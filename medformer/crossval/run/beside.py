"""What runs beside the model on the same folds: its failure is told by name and costs the model's results nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import why
from medformer.errors import DataError, InterruptedRun, MedformerError, ResourceError, exhaustion
from medformer.progress import Reporter


class BesideError(MedformerError):
    """The model's results are complete, and something beside it failed.

    Args:
        run: The run, whose results can be read.
        failures: By name.

    Attributes:
        run: See above.
        exit_code: That of the worst failure: a defect, then what the machine lacks, then the data.
    """

    def __init__(self, run: RunDirectory, failures: dict[str, Exception]) -> None:
        listed = " ".join(f"{name}: {why(error)}" for name, error in failures.items())
        super().__init__(
            f"The model's results are complete; {len(failures)} of what runs beside it failed. {listed} "
            "Remove the cause and run the same command with --resume, which tries again what failed."
        )
        self.run = run
        kinds = (ResourceError, DataError)
        if all(isinstance(error, MedformerError) for error in failures.values()):
            found = (kind.exit_code for kind in kinds if any(isinstance(error, kind) for error in failures.values()))
            self.exit_code = next(found, MedformerError.exit_code)


def run_beside(run: RunDirectory, parts: Iterable[tuple[str, Callable[[], None]]], reporter: Reporter) -> None:
    """Do each part, also when one before it failed.

    Args:
        run: Whose model is done.
        parts: Names, such as `Baseline prior_mask`, and what they do.
        reporter: Receives the name of each, and why it failed.

    Raises:
        BesideError: Some failed.
        InterruptedRun: A signal came.
    """
    failures: dict[str, Exception] = {}
    for name, work in parts:
        reporter.line(f"{name} on the same folds.")
        try:
            work()
        except InterruptedRun:
            raise
        except Exception as error:
            failures[name] = exhaustion(error) or error
            reporter.line(f"{name} failed: {why(failures[name])} The run goes on without it.")
    if failures:
        raise BesideError(run, failures)
