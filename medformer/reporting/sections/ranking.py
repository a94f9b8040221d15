"""For a classification: how well scores rank cases, what the threshold makes of them, and whether 0.7 means 7 in 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medformer.errors import DataError
from medformer.evaluation.classes.classification import calibration_bins, pr_curve, roc_curve
from medformer.reporting.blocks import Block, Figure, Notice, Section, Table, counted, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import Square, squares
from medformer.reporting.results import value

Rows = Sequence[Mapping[str, Any]]
Line = tuple[list[float], list[float]]
DIAGONAL = ((0.0, 1.0), (0.0, 1.0))


def build(facts: Facts) -> Section | None:
    """Draw the ROC, precision-recall and calibration curves, and count decisions."""
    if not facts.classification:
        return None
    blocks: list[Block] = []
    try:
        blocks.append(_figure(facts))
    except DataError as error:
        blocks.append(Notice("warning", f"The curves cannot be drawn: {error}"))
    blocks.append(_decisions(facts))
    return Section("ranking", "ROC, precision and calibration", blocks)


def _figure(facts: Facts) -> Figure:
    pooled = facts.metrics["pooled"]
    folds = [part for part in _by_fold(facts.rows) if len({row["label"] for row in part}) == 2]
    prevalence = float(np.mean([row["label"] for row in facts.rows]))
    roc, precision, calibration = _roc(facts.rows), _precision(facts.rows), _calibration(facts.rows)
    others = folds if len(folds) > 1 else []
    panels = [
        Square(
            "ROC", "1 − specificity", "sensitivity", *roc, reference=DIAGONAL, others=[_roc(part) for part in others]
        ),
        Square(
            "Precision-recall",
            "sensitivity (recall)",
            "precision",
            *precision,
            reference=((0.0, 1.0), (prevalence, prevalence)),
            others=[_precision(part) for part in others],
        ),
        Square("Calibration", "mean score", "share of positives", *calibration, reference=DIAGONAL, markers=True),
    ]
    named = {
        name: f"{number(value(pooled, name))} (95% interval {interval(pooled['metrics'].get(name))})"
        for name in ("auc", "average_precision", "calibration_slope", "calibration_intercept", "ece")
    }
    points = ", ".join(f"{y:.2f} at {x:.2f}" for x, y in zip(*calibration, strict=True))
    alt = (
        f"Three curves over {counted(len(facts.rows), 'row')} of the out-of-fold table. ROC: AUC {named['auc']}. "
        f"Precision-recall: average precision {named['average_precision']}, with {prevalence:.0%} positive. "
        f"Calibration, share of positives at mean score: {points}; slope {named['calibration_slope']}."
    )
    thin = ", thin lines are single folds" if others else ""
    caption = (
        f"The thick line is all folds together{thin}; dashed is a score that knows nothing (left and middle) or that "
        f"means what it says (right). AUC {named['auc']}; average precision {named['average_precision']}; calibration "
        f"slope {named['calibration_slope']}, intercept {named['calibration_intercept']}, calibration error "
        f"{named['ece']}."
    )
    return Figure(squares("ranking", panels), alt, caption)


def _decisions(facts: Facts) -> Table:
    rows = []
    for name, label, right in (("Positive", 1, 1), ("Negative", 0, 0)):
        part = [row for row in facts.rows if row["label"] == label]
        called = sum(row["prediction"] == 1 for row in part)
        good = called if right == 1 else len(part) - called
        share = number(good / len(part) if part else None)
        rows.append([name, f"{called:,}", f"{len(part) - called:,}", share])
    per_case = " (each case once per repeat)" if facts.repeats > 1 else ""
    return Table(
        f"Decisions at the threshold{per_case}",
        ["Label", "Called positive", "Called negative", "Share called rightly"],
        rows,
        sortable=False,
    )


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
    parts: dict[object, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts.setdefault(row.get("fold"), []).append(row)
    return list(parts.values())
