"""A trained model that classifies volumes, applied to new ones: predictions.csv, with the score by each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.problems import Problem, quarantine
from medformer.data.training_range import outside_column, read_range
from medformer.data.volumes.prepare.prepare_case import Scan, check_image
from medformer.data.volumes.read.new_volumes import list_volumes
from medformer.files import write_csv
from medformer.progress import Reporter
from medformer.tasks.new_cases import PREDICTIONS, Say, Scored, class_rows, manifest_cases, readable, require_all
from medformer.tasks.trained import Trained
from medformer.tasks.volume.predictor import VolumeScorer
from medformer.training.devices import choose_device


def export_classes(
    trained: Trained,
    images: Sequence[Path],
    work: Path,
    *,
    out: Path,
    device: str = "auto",
    say: Say,
    reporter: Reporter,
) -> Scored:
    """Score volumes, and write the table: probability of class 1, decision, and the score by each fold.

    The probabilities of all folds are averaged; the threshold is the mean of those that they learned from their
    validation parts.

    Args:
        trained: What scores them.
        images: NIfTI files, folders of them, folders of one DICOM series, or CSV manifests.
        work: Folder to write into.
        out: Where the results will be; volumes below it are no input.
        device: Where to compute.
        say: Receives what the user must see before the work begins.
        reporter: Receives the progress.

    Raises:
        CheckpointError: What a fold left is missing or damaged.
        DataError: No volume can be used.
        ResourceError: The device is not there, memory does not suffice, or the table cannot be written.
    """
    predictor = cast(ClassPredictor, trained.load(choose_device(device)))
    plan = cast(VolumeScorer, predictor.members[0][0]).plan
    listed: list[Problem] = []
    cases = manifest_cases(images) or list_volumes(images, listed, channels=len(plan.intensity), without=out)
    for problem in listed:
        say(str(problem))
    check = partial(check_image, plan=plan, trained_on=read_range(trained.folders))
    good, problems = readable(cases, check, say, reporter)
    outside = outside_column(problems)
    problems += listed
    if not good:
        require_all(problems, len(quarantine(problems)), "volumes")
    scores = member_scores(predictor, {case.id: case for case in good})
    rows = class_rows(predictor, good, scores, trained.folders, [str(case.image) for case in good])
    rows = [{**row, "outside": outside.get(row["id"], "")} for row in rows]
    write_csv(work / PREDICTIONS, rows, list(rows[0]))
    return Scored(rows, problems, predictor)


def member_scores(predictor: ClassPredictor, scans: Mapping[str, Scan]) -> NDArray[np.float64]:
    """Calibrated probabilities of class 1 of scans by id, by each fold, (folds, n)."""
    found = [decision.probabilities(cast(VolumeScorer, scorer).scores(scans)) for scorer, decision in predictor.members]
    return np.stack(found)
