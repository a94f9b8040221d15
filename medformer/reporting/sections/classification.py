"""For a classification: how well scores rank cases, what the threshold makes of them, and whether 0.7 means 7 in 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medformer.errors import DataError
from medformer.evaluation.classes.classification import calibration_bins, pr_curve, roc_curve
from medformer.reporting.figures.charts import Line, Square, squares
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import written
from medformer.reporting.wording import number, thousands

Rows = Sequence[Mapping[str, Any]]
_DIAGONAL = ((0.0, 1.0), (0.0, 1.0))
_NAMED = ("auc", "average_precision", "calibration_slope", "calibration_intercept", "ece")


def ranking(run: FinishedRun) -> dict[str, Any]:
    """Draw the ROC, precision-recall and calibration curves, and count decisions."""
    problem, svg = "", ""
    bins: list[tuple[float, float]] = []
    folds = _by_fold(run.rows)
    prevalence = float(np.mean([row["label"] for row in run.rows]))
    try:
        svg, bins = _draw(run, folds, prevalence)
    except DataError as error:
        problem = str(error)
    return {
        "problem": problem,
        "svg": svg,
        "bins": bins,
        "several_folds": len(folds) > 1,
        "prevalence": prevalence,
        "named": {name: written(run, run.pooled, name) for name in _NAMED},
        "decisions": [_decided(run, run.positive, 1), _decided(run, "Negative", 0)],
    }


def _draw(run: FinishedRun, folds: Sequence[Rows], prevalence: float) -> tuple[str, list[tuple[float, float]]]:
    others = folds if len(folds) > 1 else []
    calibration = _calibration(run.rows)
    chance = ((0.0, 1.0), (prevalence, prevalence))
    roc, precision = [_roc(part) for part in others], [_precision(part) for part in others]
    panels = [
        Square("ROC", "1 − specificity", "sensitivity", _roc(run.rows), _DIAGONAL, roc),
        Square("Precision-recall", "sensitivity (recall)", "precision", _precision(run.rows), chance, precision),
        Square("Calibration", "mean score", "share of positives", calibration, _DIAGONAL, markers=True),
    ]
    return squares("ranking", panels), list(zip(*calibration, strict=True))


def _decided(run: FinishedRun, name: str, label: int) -> dict[str, str]:
    part = [row for row in run.rows if row["label"] == label]
    positive = sum(row["prediction"] == 1 for row in part)
    right = positive if label == 1 else len(part) - positive
    return {
        "label": name,
        "positive": thousands(positive),
        "negative": thousands(len(part) - positive),
        "right": number(right / len(part) if part else None),
    }


def _roc(rows: Rows) -> Line:
    curve = roc_curve(*_columns(rows))
    return curve.false_positive_rate.tolist(), curve.sensitivity.tolist()


def _precision(rows: Rows) -> Line:
    curve = pr_curve(*_columns(rows))
    return curve.recall.tolist(), curve.precision.tolist()


def _calibration(rows: Rows) -> Line:
    label, score = (np.asarray(column, dtype=np.float64) for column in _columns(rows))
    bins = calibration_bins(label, score)
    filled = np.isfinite(bins.score)
    return bins.score[filled].tolist(), bins.observed[filled].tolist()


def _columns(rows: Rows) -> tuple[list[float], list[float]]:
    return [float(row["label"]) for row in rows], [float(row["score"]) for row in rows]


def _by_fold(rows: Rows) -> list[Rows]:
    """The rows of each fold that has both classes."""
    parts: dict[object, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts.setdefault(row.get("fold"), []).append(row)
    return [part for part in parts.values() if len({row["label"] for row in part}) == 2]
