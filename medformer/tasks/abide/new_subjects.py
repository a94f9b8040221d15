"""A trained model applied to new subjects: predictions.csv, with the score by each fold, and who was left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.connectomes.check import cohort_traits
from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE, read_new
from medformer.data.connectomes.read.matrices import Values
from medformer.data.people import plain
from medformer.data.problems import Problem, quarantine, write_problems
from medformer.data.training_range import OUTSIDE, read_range
from medformer.errors import DataError
from medformer.files import write_csv
from medformer.progress import Reporter
from medformer.tasks.abide.features import read_trained_on
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.new_cases import PREDICTIONS, Scored, class_rows, require_all
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device

ADVICE = "Correct these, or leave them out."


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
    layouts, _ = read_trained_on(trained.folders[0])
    trained_on = {plain(name) for case in trained.known_cases or () for name in (case.id, case.group)}
    seen = read_range(trained.folders)
    known = 0
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    sources = list({source.resolve(): source for source in sources}.values())  # one that is given twice is read once
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
        if seen is not None:
            for name, traits in cohort_traits(cohort).items():
                problems += seen.problems(name, str(source), traits)
        study = AbideStudy(config=trained.config, data=cohort)
        known += sum(bool({plain(case.id), plain(case.group)} & trained_on) for case in cohort.cases)
        scores = predictor.scores(study, list(study.by_id))
        rows += class_rows(predictor, cohort.cases, scores, trained.folders, [str(source)] * len(cohort.cases))
    if not rows:
        require_all(problems, len(quarantine(problems)), "sources", ADVICE)
    outside = {(problem.path, problem.case_id): problem.detail for problem in problems if problem.reason == OUTSIDE}
    rows = [{**row, "outside": outside.get((row["source"], row["id"]), "")} for row in rows]
    write_csv(work / PREDICTIONS, rows, list(rows[0]))
    if problems:
        write_problems(work / EXCLUSIONS_FILE, problems)
    return Scored(rows, problems, predictor, known)
