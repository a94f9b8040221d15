"""The numbers of a classification: discrimination, decisions and calibration, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.classes.classification import check_scored, classification_metrics
from medformer.evaluation.classes.intervals import classification_intervals
from medformer.evaluation.metrics import CLASSES
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.table import Contents, Row, distinct, has, numbers


def summarize_classes(rows: Sequence[Row], bootstrap: Bootstrap) -> Contents:
    """Read the columns of a table of classified cases once.

    Args:
        rows: One per case and repeat, with `label`, `score` and `prediction`.
        bootstrap: Level and draws of the intervals.

    Raises:
        DataError: A column is missing, a cell is no number or not in its range, or the scores are decisions.
    """
    columns = (numbers(rows, name) for name in ("label", "score", "prediction"))
    scored = check_scored(*columns, ids=[str(row.get("id", "A row")) for row in rows])

    def part(selected: NDArray[np.intp], groups: Sequence[str]) -> dict[str, Any]:
        label, score, prediction = (column[selected] for column in scored)
        values = classification_metrics(label, score, prediction, part=True)
        intervals = classification_intervals(label, score, prediction, groups, bootstrap)
        return {
            "positives": int(label.sum()),
            "metrics": {
                name: {"value": value, "low": intervals[name].low, "high": intervals[name].high}
                for name, value in values.items()
            },
        }

    thresholds = distinct(rows, "threshold") if has(rows, "threshold") else []
    definitions = {"metrics": {name: metric.definition for name, metric in CLASSES.items()}}
    return Contents({"thresholds": thresholds}, definitions, [part])
