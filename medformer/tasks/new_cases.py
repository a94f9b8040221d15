"""What applying a trained model to new files takes in every task: which are listed, left to do, readable, unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.cases import Case
from medformer.data.manifest import read_manifest
from medformer.data.problems import Problem, first_ten, quarantine
from medformer.errors import ConfigError, DataError
from medformer.inference.export_table import ExportTable
from medformer.progress import Reporter

Say = Callable[[str], None]
"""Receives sentences that the user must see, before the work begins."""

PREDICTIONS = "predictions.csv"
"""Table of the scores of a classifier."""

TRY_AGAIN = "Correct these, or leave them out; with --resume, what is done is not computed again."
"""What to do about inputs of a prediction that cannot be used."""

_OF_A_CASE = ("id", "site", "label", "score", "threshold", "prediction")


class Scored(NamedTuple):
    """What came of cases that were to be classified.

    Attributes:
        rows: Of the table.
        problems: Why others could not be used, and warnings.
        predictor: What scored them.
        known: Of the rows, those of people whom the model was trained on.
    """

    rows: Sequence[Mapping[str, Any]]
    problems: Sequence[Problem]
    predictor: ClassPredictor
    known: int = 0

    @property
    def left_out(self) -> int:
        """Cases that could not be used."""
        return len(quarantine(self.problems))

    @property
    def positive(self) -> int:
        """Rows of the positive class."""
        return sum(row["prediction"] for row in self.rows)

    @property
    def calibration(self) -> str:
        """Whether the scores are probabilities, in a sentence."""
        decisions = [decision for _, decision in self.predictor.members]
        calibrated = sum(decision.scaling is not None for decision in decisions)
        if calibrated == len(decisions):
            return "Scores are calibrated probabilities."
        why = next((f": {decision.uncalibrated}" for decision in decisions if decision.uncalibrated), "")
        return f"Scores are outputs of the networks, of which {calibrated or 'none'} is calibrated{why}."


def class_rows(
    predictor: ClassPredictor,
    cases: Sequence[Case],
    scores: NDArray[np.float64],
    folders: Sequence[Path],
    sources: Sequence[str],
) -> list[dict[str, Any]]:
    """The rows of a table of scores: where a case is from, the mean score with the decision, and each fold's score.

    Args:
        predictor: What scored them.
        cases: Those that were scored.
        scores: Theirs by each member, (members, n).
        folders: Of the members' folds.
        sources: Where each case is from.
    """
    rows = []
    for row, by_fold, source in zip(predictor.rows(cases, scores), scores.T, sources, strict=True):
        each = {f"score_fold_{fold.name}": float(score) for fold, score in zip(folders, by_fold, strict=True)}
        rows.append({"source": source, **{name: row[name] for name in _OF_A_CASE}, **each})
    return rows


def manifest_cases(given: Sequence[Path]) -> list[Case]:
    """The cases of CSV manifests that are given in the place of images; empty where images are given.

    Raises:
        ConfigError: Manifests and images are given together.
        DataError: A manifest cannot be read, or two have one id.
    """
    tables = [path for path in given if path.suffix.lower() == ".csv" and path.is_file()]
    if tables and len(tables) < len(given):
        raise ConfigError(f"Got {tables[0]} beside other paths; expected manifests alone, or images and folders alone.")
    once = {table.resolve(): table for table in tables}.values()
    cases = [case for table in once for case in read_manifest(table, ungrouped="each").cases]
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
