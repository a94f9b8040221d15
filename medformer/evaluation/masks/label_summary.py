"""The numbers of each label of a table of volumes: means over volumes, and how well volumes agree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from medformer.evaluation.masks.volumes import label_column, label_names
from medformer.evaluation.metrics import LABEL_MAPS
from medformer.evaluation.statistics.agreement import agreement, relative_error
from medformer.evaluation.statistics.spread import spread
from medformer.evaluation.table import Row, has, numbers


def summarize_labels(
    rows: Sequence[Row], groups: Sequence[str], *, level: float, resamples: int, seed: int
) -> dict[str, Any]:
    """Summarize each label over all rows.

    Args:
        rows: Of `medformer.evaluation.masks.volumes.volume_row`, one per volume and repeat.
        groups: The group that each row is resampled with.
        level: Coverage of the intervals.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        By name of the label; empty for a table without labels.

    Raises:
        DataError: A row lacks a label that another one has, or a cell is no number.
    """
    mean = partial(spread, groups=groups, level=level, resamples=resamples, seed=seed)
    found: dict[str, Any] = {}
    for label in label_names(rows):
        truth, marked = (numbers(rows, label_column(name, label)) for name in ("truth_ml", "pred_ml"))
        found[label] = {
            "n": len(rows),
            "present": int((truth > 0).sum()),
            "missed": int(((truth > 0) & (marked == 0)).sum()),
            "false_alarms": int(((truth == 0) & (marked > 0)).sum()),
            "metrics": {
                name: mean(numbers(rows, column))
                for name in LABEL_MAPS
                if has(rows, column := label_column(name, label))
            },
            "volume": {
                "truth_ml": mean(truth),
                "pred_ml": mean(marked),
                "relative_error": mean(relative_error(marked, truth)),
                "agreement": agreement(marked, truth, groups, level=level, resamples=resamples, seed=seed),
            },
        }
    return found
