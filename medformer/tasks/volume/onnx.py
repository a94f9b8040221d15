"""The networks of a volume model as ONNX files with a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.cases import Case
from medformer.inference.onnx.volumes import write_classified_volumes, write_volumes
from medformer.tasks.volume.predictor import VolumePredictor, VolumeScorer

COMPARED = 3
"""Volumes that are compared."""


def write_onnx(
    predictor: VolumePredictor | ClassPredictor, folder: Path, cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Write `recipe.json` and the networks that it names; see `write_volumes`.

    Args:
        predictor: What is exported.
        folder: Where to.
        cases: Real ones to compare; made-up windows are compared where there are none.
    """
    cases = cases[:COMPARED]
    if isinstance(predictor, VolumePredictor):
        return [write_volumes(folder, predictor.segmenter, cases)]
    scorers = [(cast(VolumeScorer, scorer), decision) for scorer, decision in predictor.members]
    members = [(scorer.model, scorer.plan, decision) for scorer, decision in scorers]
    return [write_classified_volumes(folder, members, predictor.threshold, cases)]
