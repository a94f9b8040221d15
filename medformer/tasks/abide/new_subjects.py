"""A trained model applied to new subjects: predictions.csv, with the score by each fold, and who was left out."""

from __future__ import annotations

from itertools import chain
from typing import Any

from medformer.data.connectomes.check import cohort_traits
from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE, read_new
from medformer.data.connectomes.read.matrices import Values
from medformer.data.people import plain
from medformer.data.problems import Problem, quarantine, write_problems
from medformer.data.training_range import outside_column
from medformer.errors import DataError
from medformer.files import write_csv
from medformer.tasks.abide.features import read_trained_on
from medformer.tasks.abide.predictor import BaselineScorer
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.baseline import load_classifier
from medformer.tasks.new_cases import LEAVE_OUT, PREDICTIONS, Made, Request, Scored, class_rows, require_all


def export_scores(
    request: Request,
    *,
    model: str = "",
    threshold: float | None = None,
    pipeline: str | None = None,
    strategy: str | None = None,
    values: Values = "auto",
) -> Scored:
    """Score subjects, and write the table: probability of the positive class, decision, and the score by each fold.

    The probabilities of all folds are averaged. The threshold is the mean of those that the folds learned from their
    validation parts, unless one is given.

    Args:
        request: What scores whom; see `read_new` for what its paths may be.
        model: A baseline of the run in the place of its networks.
        threshold: From which a subject is positive.
        pipeline: Of time series; the only one that is there when not given.
        strategy: Of time series; the only one that is there when not given.
        values: What matrices hold.

    Raises:
        CheckpointError: What a fold left is missing or damaged.
        ConfigError: There is no such baseline.
        DataError: Atlases are not those of the model, or no subject can be used.
        ResourceError: The device is not there, or a file cannot be written.
    """
    trained = request.trained
    predictor = load_classifier(request, model, BaselineScorer.made)
    if threshold is not None:
        predictor.threshold = threshold
    layouts, _ = read_trained_on(trained.folders[0])
    trained_on = {plain(name) for case in trained.known_cases or () for name in (case.id, case.group)}
    seen = request.trained_on
    known = 0
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    # One that is given twice is read once.
    sources = list({source.resolve(): source for source in request.paths}.values())
    for number, source in enumerate(sources):
        try:
            cohort, found = read_new(
                source,
                atlases=layouts,
                out=request.work / "cohorts" / str(number),
                pipeline=pipeline,
                strategy=strategy,
                values=values,
                reporter=request.reporter,
            )
            study = AbideStudy(config=trained.config, data=cohort)
            scores = predictor.scores(study, list(study.by_id))
        except DataError as error:
            if len(sources) == 1:
                raise
            problems.append(Problem(str(source), str(source), "corrupt", str(error)))
            continue
        if seen is not None:
            unlike = (seen.problems(name, str(source), traits) for name, traits in cohort_traits(cohort).items())
            found = (*found, *chain.from_iterable(unlike))
        problems += found
        outside = outside_column(found)
        known += sum(bool({plain(case.id), plain(case.group)} & trained_on) for case in cohort.cases)
        rows += class_rows(
            predictor,
            cohort.cases,
            scores,
            trained.folders,
            [str(source)] * len(cohort.cases),
            [outside.get(case.id, "") for case in cohort.cases],
        )
    if not rows:
        require_all(Made(len(quarantine(problems)), late=problems), "sources", LEAVE_OUT)
    write_csv(request.work / PREDICTIONS, rows, list(rows[0]))
    if problems:
        write_problems(request.work / EXCLUSIONS_FILE, problems)
    given = len(rows) + len(quarantine(problems))
    return Scored(given, late=problems, rows=rows, predictor=predictor, known=known)
