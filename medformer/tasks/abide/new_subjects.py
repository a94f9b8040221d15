"""A trained model applied to new subjects: predictions.csv, with the score by each fold, and who was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE, read_new
from medformer.data.connectomes.read.matrices import Values
from medformer.data.people import plain
from medformer.data.problems import Problem, quarantine, write_problems
from medformer.errors import DataError
from medformer.files import write_csv
from medformer.progress import Reporter
from medformer.tasks.abide.features import read_trained_on
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.new_cases import require_all
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device

PREDICTIONS = "predictions.csv"
ADVICE = "Correct these, or leave them out."

_OWN = ("id", "site", "label", "score", "threshold", "prediction")


class Scored(NamedTuple):
    """What came of subjects.

    Attributes:
        rows: Of the table.
        problems: Why others could not be used, and warnings.
        known: Subjects whom the model was trained on.
        threshold: From which a subject is positive.
        positive: What the positive class is called.
        calibration: Whether the scores are probabilities, in a sentence.
    """

    rows: Sequence[Mapping[str, Any]]
    problems: Sequence[Problem]
    known: int
    threshold: float
    positive: str
    calibration: str

    @property
    def left_out(self) -> int:
        """Subjects who could not be used."""
        return len(quarantine(self.problems))


def export_scores(
    trained: Trained,
    sources: Sequence[Path],
    work: Path,
    *,
    device: str = "auto",
    threshold: float | None = None,
    pipeline: str | None = None,
    strategy: str | None = None,
    values: Values = "auto",
    reporter: Reporter,
) -> Scored:
    """Score subjects, and write the table: probability of the positive class, decision, and the score by each fold.

    The probabilities of all folds are averaged. The threshold is the mean of those that the folds learned from their
    validation parts, unless one is given.

    Args:
        trained: What scores them.
        sources: Data of new subjects; see `read_new`.
        work: Folder to write into.
        device: Where to compute.
        threshold: From which a subject is positive.
        pipeline: Of time series; the only one that is there when not given.
        strategy: Of time series; the only one that is there when not given.
        values: What matrices hold.
        reporter: Receives the progress.

    Raises:
        CheckpointError: What a fold left is missing or damaged.
        DataError: Atlases are not those of the model, or no subject can be used.
        ResourceError: The device is not there, or a file cannot be written.
    """
    predictor = cast(ClassPredictor, trained.load(choose_device(device)))
    if threshold is not None:
        predictor.threshold = threshold
    layouts, names = read_trained_on(trained.folders[0])
    trained_on = {plain(name) for case in trained.known_cases or () for name in (case.id, case.group)}
    known = 0
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for number, source in enumerate(sources):
        try:
            cohort, refused = read_new(
                source,
                atlases=layouts,
                out=work / "cohorts" / str(number),
                pipeline=pipeline,
                strategy=strategy,
                values=values,
                reporter=reporter,
            )
        except DataError as error:
            if len(sources) == 1:
                raise
            problems.append(Problem(str(source), str(source), "corrupt", str(error)))
            continue
        problems += refused
        study = AbideStudy(config=trained.config, data=cohort)
        known += sum(bool({plain(case.id), plain(case.group)} & trained_on) for case in cohort.cases)
        scores = predictor.scores(study, list(study.by_id))
        for row, by_fold in zip(predictor.rows(study, list(study.by_id), scores), scores.T, strict=True):
            each = {f"score_fold_{one.name}": float(score) for one, score in zip(trained.folders, by_fold, strict=True)}
            rows.append({"source": str(source), **{name: row[name] for name in _OWN}, **each})
    if not rows:
        require_all(problems, len(quarantine(problems)), "sources", ADVICE)
    write_csv(work / PREDICTIONS, rows, list(rows[0]))
    if problems:
        write_problems(work / EXCLUSIONS_FILE, problems)
    return Scored(rows, problems, known, predictor.threshold, names.get(1, "positive"), describe_scores(predictor))


def describe_scores(predictor: ClassPredictor) -> str:
    """Whether a model's scores are probabilities, in a sentence."""
    decisions = [decision for _, decision in predictor.members]
    calibrated = sum(decision.scaling is not None for decision in decisions)
    if calibrated == len(decisions):
        return "Scores are calibrated probabilities."
    why = next((f": {decision.uncalibrated}" for decision in decisions if decision.uncalibrated), "")
    return f"Scores are outputs of the networks, of which {calibrated or 'none'} is calibrated{why}."
