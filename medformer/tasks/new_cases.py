"""What applying a trained model to new files takes in every task: which are listed, left to do, readable, unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from medformer.data.manifest import Case, read_manifest
from medformer.data.problems import Problem, first_ten, quarantine
from medformer.errors import ConfigError, DataError
from medformer.inference.export_table import ExportTable
from medformer.progress import Reporter

Say = Callable[[str], None]
"""Receives sentences that the user must see, before the work begins."""

TRY_AGAIN = "Correct these, or leave them out; with --resume, what is done is not computed again."
"""What to do about inputs of a prediction that cannot be used."""


def manifest_cases(given: Sequence[Path]) -> list[Case]:
    """The cases of CSV manifests that are given in the place of images; empty where images are given.

    Raises:
        ConfigError: Manifests and images are given together.
        DataError: A manifest cannot be read, or two have one id.
    """
    tables = [path for path in given if path.suffix.lower() == ".csv" and path.is_file()]
    if tables and len(tables) < len(given):
        raise ConfigError(f"Got {tables[0]} beside other paths; expected manifests alone, or images and folders alone.")
    cases = [case for table in tables for case in read_manifest(table, ungrouped="each").cases]
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} id(s), such as '{twice[0]}', occur in two of the manifests. Predict one at a time."
        )
    return cases


def left_to_do(export: ExportTable, cases: Sequence[Case], say: Say) -> list[Case]:
    """The cases that an earlier call did not export, or not as this one would."""
    left = [case for case in cases if not export.done(case.id, case.images)]
    if export.outdated:
        say(
            f"{len(export.outdated)} cases were made from other images, by another run or with other settings, such as "
            f"'{export.outdated[0]}': they are made again."
        )
    if export.of_others:
        say(
            f"note: {export.table} also lists {export.of_others} cases that this call was not given, and that another "
            "run or another threshold made (column run_sha256). They stay."
        )
    return left


def readable(
    cases: Sequence[Case], read: Callable[[Case], object], say: Say, reporter: Reporter
) -> tuple[list[Case], list[Problem]]:
    """Read every input before the work on the first one begins, and say which cannot be used.

    Args:
        cases: The inputs.
        read: Reads one. A list that it returns holds warnings; any other result is not kept.
        say: Receives each problem.
        reporter: Receives one step per input.

    Returns:
        The inputs that can be read, and a problem for each of the others, besides the warnings.
    """
    problems: list[Problem] = []
    for case in reporter.track(cases, "checking"):
        try:
            found = read(case)
            problems += found if isinstance(found, list) else ()
        except DataError as error:
            problems.append(unusable(case, error))
    for problem in problems:
        say(str(problem))
    bad = set(quarantine(problems))
    return [case for case in cases if case.id not in bad], problems


def unusable(case: Case, error: DataError) -> Problem:
    """The problem that an error is."""
    return Problem(case.id, str(case.image), "corrupt", str(error))


def require_all(problems: Sequence[Problem], count: int, what: str, advice: str = TRY_AGAIN) -> None:
    """End a prediction whose work is done but for inputs that cannot be used.

    Raises:
        DataError: There are such inputs; names the first ten.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    bad = len(quarantine(errors))
    if bad:
        rest = "one is" if count - bad == 1 else f"{count - bad} are"
        done = f"the other {rest} done" if bad < count else "nothing was written"
        raise DataError(f"{bad} of {count} {what} cannot be used; {done}:{first_ten(errors)}\n{advice}")
