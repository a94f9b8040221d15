"""A trained model that classifies volumes, applied to new ones: predictions.csv, with the score by each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.cases import Case
from medformer.data.problems import Problem, quarantine
from medformer.data.training_range import outside_column
from medformer.data.volumes.prepare.prepare_case import Scan, check_image
from medformer.data.volumes.read.new_volumes import list_volumes
from medformer.files import write_csv
from medformer.tasks.baseline import load_classifier
from medformer.tasks.new_cases import PREDICTIONS, Request, Scored, class_rows, manifest_cases
from medformer.tasks.volume.predictor import BaselineScorer, VolumeScorer


def export_classes(request: Request, *, model: str = "") -> Scored:
    """Score volumes, and write the table: probability of class 1, decision, and the score by each fold.

    The probabilities of all folds are averaged; the threshold is the mean of those that they learned from their
    validation parts.

    Args:
        request: What scores which NIfTI files, folders of them, folders of one DICOM series, or CSV manifests.
        model: A baseline of the run in the place of its networks.

    Raises:
        CheckpointError: What a fold left is missing or damaged.
        ConfigError: There is no such baseline.
        DataError: No volume can be used, or the baseline cannot be fitted again.
        ResourceError: The device is not there, memory does not suffice, or the table cannot be written.
    """
    predictor = load_classifier(request, model, BaselineScorer.made)
    plan = cast(VolumeScorer | BaselineScorer, predictor.members[0][0]).plan
    cases, problems = complete_volumes(request.paths, len(plan.intensity), request.out)
    given = len(cases) + len(quarantine(problems))
    check = partial(check_image, plan=plan, trained_on=request.trained_on)
    good = request.usable(cases, check, problems, noun="volumes")
    outside = outside_column(problems)
    rows = class_rows(
        predictor,
        good,
        member_scores(predictor, {case.id: case for case in good}),
        request.trained.folders,
        [str(case.image) for case in good],
        [outside.get(case.id, "") for case in good],
    )
    write_csv(request.work / PREDICTIONS, rows, list(rows[0]))
    return Scored(given, problems, rows=rows, predictor=predictor)


def complete_volumes(
    paths: Sequence[Path], channels: int, without: Path | None = None
) -> tuple[list[Case], list[Problem]]:
    """The new volumes that have all their files, and what is wrong with others; see `list_volumes`.

    Args:
        paths: Volumes, folders of them, or CSV manifests.
        channels: That the network sees.
        without: A folder whose files are left out.

    Raises:
        ConfigError: Manifests and volumes are given together.
        DataError: There is no volume, or two have one id.
    """
    problems: list[Problem] = []
    cases = manifest_cases(paths) or list_volumes(paths, problems, channels=channels, without=without)
    return cases, problems


def member_scores(predictor: ClassPredictor, scans: Mapping[str, Scan]) -> NDArray[np.float64]:
    """Calibrated probabilities of class 1 of scans by id, by each fold, (folds, n)."""
    members = [(cast(Any, scorer), decision) for scorer, decision in predictor.members]
    return np.stack([decision.probabilities(scorer.scores(scans)) for scorer, decision in members])
