"""The networks of a connectome model as one ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.columns import FeatureBlock
from medformer.connectome.measures import block_from_series
from medformer.crossval.run.classes import ClassPredictor
from medformer.errors import ConfigError
from medformer.inference.onnx.connectomes import NAME, FoldOfConnectomes, write_connectomes
from medformer.models.connectome.build import active_defects
from medformer.seeds import derive_seed
from medformer.tasks.abide.features import CohortFeatures
from medformer.tasks.abide.predictor import ConnectomeScorer, Subjects

COMPARED = 24
"""Subjects that are compared."""
_LENGTH = 120
"""Time points of made-up scans."""
_IN_NO_FILE = {
    "across_subjects": "makes a prediction depend on the other subjects of its batch",
    "noise_at_test": "draws noise for each prediction",
}


def write_onnx(
    predictor: ClassPredictor, folder: Path, study: Subjects | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Write `abide.onnx`; see `write_connectomes`.

    Args:
        predictor: What is exported.
        folder: Where to.
        study: Holds real subjects to compare; made-up ones are compared without it.
        names: Theirs.

    Raises:
        ConfigError: Its features or its defects need more than the connections of one subject.
    """
    scorers = [cast(ConnectomeScorer, scorer) for scorer, _ in predictor.members]
    first = scorers[0]
    for defect in sorted(active_defects(first.config.model) & _IN_NO_FILE.keys()):
        raise ConfigError(
            f"This run cannot be exported to ONNX: its defect {defect} {_IN_NO_FILE[defect]}. Export it without "
            "--onnx, or train without this defect."
        )
    columns = first.features.columns
    folds = [
        FoldOfConnectomes(scorer.features.pipelines, scorer.models, decision)
        for scorer, (_, decision) in zip(scorers, predictor.members, strict=True)
    ]
    names = list(names)[:COMPARED]
    if study is not None and names:
        rows = CohortFeatures(study.data, study.config, columns).rows(names)
    else:
        study, rows = None, _made_up(columns.blocks, len(columns.covariates))
    connections = {atlas: rows[:, columns.slice(atlas)] for atlas in columns.atlases}
    expected = np.mean(
        [_probabilities(fold, scorer, rows) for fold, scorer in zip(folds, scorers, strict=True)], axis=0
    )
    record = write_connectomes(
        folder / NAME,
        folds,
        columns.blocks,
        connections,
        expected,
        threshold=predictor.threshold,
        real=study is not None,
    )
    return [record]


def _probabilities(fold: FoldOfConnectomes, scorer: ConnectomeScorer, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a fold answers to raw features (n, width), (n,)."""
    return fold.decision.probabilities(scorer.scores(rows, [f"subject {row}" for row in range(len(rows))]))


def _made_up(blocks: Sequence[FeatureBlock], covariates: int) -> NDArray[np.float32]:
    """Raw features of subjects whose regions share some of their signal, always the same; covariates are 0."""
    generator = np.random.default_rng(derive_seed(0, "subjects"))
    rows: list[Any] = []
    for _ in range(COMPARED):
        parts: list[Any] = []
        for block in blocks:
            shared = generator.standard_normal((_LENGTH, 4)) @ generator.standard_normal((4, block.regions))
            series = (shared + 2.0 * generator.standard_normal((_LENGTH, block.regions))).astype(np.float32)
            parts.append(block_from_series(series, block.measure))
        rows.append(np.concatenate([*parts, np.zeros(covariates)]))
    return np.array(rows, np.float32)
