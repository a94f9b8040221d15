"""The numbers of a classification: discrimination, decisions and calibration, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.classes.classification import check_scored, classification_metrics
from medformer.evaluation.classes.classification_intervals import classification_intervals
from medformer.evaluation.metrics import CLASSES
from medformer.evaluation.table import Row, distinct, has, numbers


class ClassificationNumbers:
    """The columns of a table, read once, and what they say about any part of it.

    Args:
        rows: One per case and repeat, with `label`, `score` and `prediction`.
        groups: The group that each row is resampled with.
        level: Coverage of the intervals.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        DataError: A column is missing, a cell is no number or not in its range, or the scores are decisions.
    """

    def __init__(self, rows: Sequence[Row], groups: Sequence[str], *, level: float, resamples: int, seed: int) -> None:
        columns = (numbers(rows, name) for name in ("label", "score", "prediction"))
        self._scored = check_scored(*columns, ids=[str(row.get("id", "A row")) for row in rows])
        self._groups = groups
        self._bootstrap: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
        self.thresholds = distinct(rows, "threshold") if has(rows, "threshold") else []

    def head(self) -> dict[str, Any]:
        """What stands before the blocks."""
        return {"thresholds": self.thresholds}

    def definitions(self) -> dict[str, Any]:
        """What each number means."""
        return {"metrics": {name: metric.definition for name, metric in CLASSES.items()}}

    def block(self, selected: NDArray[np.intp]) -> dict[str, Any]:
        """Every number of some rows."""
        groups = [self._groups[index] for index in selected]
        label, score, prediction = (column[selected] for column in self._scored)
        values = classification_metrics(label, score, prediction, part=True)
        intervals = classification_intervals(label, score, prediction, groups, **self._bootstrap)
        return {
            "n": len(selected),
            "groups": len(set(groups)),
            "positives": int(label.sum()),
            "metrics": {
                name: {"value": value, "low": intervals[name].low, "high": intervals[name].high}
                for name, value in values.items()
            },
        }
