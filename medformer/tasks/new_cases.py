"""What applying a trained model to new files takes in every task: which are listed, left to do, readable, unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.contract import Predictor
from medformer.data.cases import Case, image_hash
from medformer.data.manifest import read_manifest
from medformer.data.problems import LISTED, Problem, first_ten, quarantine
from medformer.data.training_range import TrainingRange, read_range
from medformer.errors import ConfigError, DataError
from medformer.inference.export_table import ExportTable
from medformer.progress import Reporter
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device

Say = Callable[[str], None]
"""Receives sentences that the user must see, before the work begins."""

PREDICTIONS = "predictions.csv"
"""Table of the scores of a classifier."""

LEAVE_OUT = "Correct these, or leave them out."
TRY_AGAIN = f"{LEAVE_OUT[:-1]}; with --resume, what is done is not computed again."
"""What to do about cases that cannot be used; the second where an earlier call can be continued."""

_OF_A_CASE = ("id", "site", "label", "score", "threshold", "prediction")


@dataclass(frozen=True)
class Made:
    """What came of new cases.

    Attributes:
        given: How many there were.
        problems: What was wrong before the work on the first one began; `Request.usable` has said it.
        late: What was found while they were predicted.
    """

    given: int
    problems: Sequence[Problem] = ()
    late: Sequence[Problem] = ()

    @property
    def left_out(self) -> int:
        """Cases that could not be used."""
        return len(quarantine([*self.problems, *self.late]))

    @property
    def done(self) -> int:
        """Cases whose prediction is there now."""
        return self.given - self.left_out


@dataclass(frozen=True, kw_only=True)
class Scored(Made):
    """What came of cases that were to be classified.

    Attributes:
        rows: Of the table.
        predictor: What scored them.
        known: Of the rows, those of people whom the model was trained on.
    """

    rows: Sequence[Mapping[str, Any]]
    predictor: ClassPredictor
    known: int = 0

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
        return f"Scores are outputs of the models, of which {calibrated or 'none'} is calibrated{why}."


@dataclass(frozen=True)
class Request:
    """What a call of `predict` asks for, whatever the task.

    Attributes:
        trained: What predicts.
        paths: New cases, as the user names them.
        work: Folder to write into.
        out: Where the results will be; files below it are no input.
        say: Receives what the user must see before the work begins.
        reporter: Receives the progress.
        device: Where to compute.
        resume: Keep what an earlier call left, as far as this one would make the same.
    """

    trained: Trained
    paths: Sequence[Path]
    work: Path
    out: Path
    say: Say
    reporter: Reporter
    device: str = "auto"
    resume: bool = False

    def load(self) -> Predictor:
        """Load what predicts, on the device.

        Raises:
            CheckpointError: What a fold left is missing or damaged.
            ResourceError: The device is not there.
        """
        return self.trained.load(choose_device(self.device))

    @property
    def trained_on(self) -> TrainingRange | None:
        """The range of the training cases, where it is known."""
        return read_range(self.trained.folders)

    def usable(
        self,
        cases: Sequence[Case],
        read: Callable[[Case], Sequence[Problem]],
        problems: list[Problem],
        *,
        noun: str,
        export: ExportTable | None = None,
    ) -> list[Case]:
        """Read every case that is left to do before the work on the first one begins, and say what is wrong.

        What the error at the end lists (see `require_all`) is only counted here, so that nothing is said twice.

        Args:
            cases: Those that are complete.
            read: Reads one, and returns warnings.
            problems: What is wrong with others; receives what is found.
            noun: What the cases are called.
            export: Lists what an earlier call did.

        Returns:
            The cases to predict.

        Raises:
            DataError: No case can be used, and none was done by an earlier call.
        """
        given = len(cases) + len(quarantine(problems))
        left = cases if export is None else _left_to_do(export, cases, self.say)
        bad = set()
        for case in self.reporter.track(left, "checking"):
            try:
                problems += read(case)
            except DataError as error:
                problems.append(unusable(case, error))
                bad.add(case.id)
        good = [case for case in left if case.id not in bad]
        if not (good or (export is not None and export.rows)):
            require_all(Made(given, late=problems), noun, LEAVE_OUT)
        count, many = len(quarantine(problems)), _too_many(problems)
        for problem in problems:
            if many or problem.severity == "warning":
                self.say(str(problem))
        if count and not many:
            self.say(f"note: {count} of {given} {noun} cannot be used; the others come first, and the end says why.")
        seen = self.trained.seen_files()
        known = sum(image_hash(case.images) in seen for case in good) if seen else 0
        if known:
            self.say(
                f"note: {self.trained.path.name} was trained on {known} of {given} {noun}, whose predictions are no "
                "test of it."
                + f" {self.trained.scores} has their scores by networks that had not seen them."
                * (self.trained.scores is not None)
            )
        return good


def class_rows(
    predictor: ClassPredictor,
    cases: Sequence[Case],
    scores: NDArray[np.float64],
    folders: Sequence[Path],
    sources: Sequence[str],
    outside: Sequence[str],
) -> list[dict[str, Any]]:
    """The rows of a table of scores: where a case is from, the mean score with the decision, and each fold's score.

    Args:
        predictor: What scored them.
        cases: Those that were scored.
        scores: Theirs by each member, (members, n).
        folders: Of the members' folds.
        sources: Where each case is from.
        outside: How each is unlike the training cases; empty where it is not.
    """
    rows = []
    found = zip(predictor.rows(cases, scores), scores.T, sources, outside, strict=True)
    for row, by_fold, source, unlike in found:
        each = {f"score_fold_{fold.name}": float(score) for fold, score in zip(folders, by_fold, strict=True)}
        rows.append({"source": source, **{name: row[name] for name in _OF_A_CASE}, **each, "outside": unlike})
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


def _left_to_do(export: ExportTable, cases: Sequence[Case], say: Say) -> list[Case]:
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


def unusable(case: Case, error: DataError) -> Problem:
    """The problem that an error is."""
    return Problem(case.id, str(case.image), "corrupt", str(error))


def require_all(made: Made, noun: str, advice: str) -> None:
    """End a prediction whose work is done but for cases that cannot be used.

    Args:
        made: What came of it.
        noun: What the cases are called.
        advice: What to do about them.

    Raises:
        DataError: There are such cases; names the first ten that were not named before the work.
    """
    if not made.left_out:
        return
    many = _too_many(made.problems)
    unsaid = [one for one in ([] if many else made.problems) if one.severity == "error"]
    unsaid += [one for one in made.late if one.severity == "error"]
    done = (
        f"the other {'one is' if made.done == 1 else f'{made.done} are'} done" if made.done else "nothing was written"
    )
    raise DataError(
        f"{made.left_out} of {made.given} {noun} cannot be used{', as listed above' * many}; {done}"
        f"{f':{first_ten(unsaid)}' if unsaid else '.'}\n{advice}"
    )


def _too_many(problems: Sequence[Problem]) -> bool:
    """Whether there are more errors than one message lists, so that each is said when it is found."""
    return sum(problem.severity == "error" for problem in problems) > LISTED
