"""From rows to the numbers of a report: pooled, and per fold, repeat, site and other subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medformer.errors import DataError
from medformer.evaluation.masks.label_summary import summarize_labels
from medformer.evaluation.masks.segmentation_summary import SegmentationNumbers
from medformer.evaluation.statistics import subgroups
from medformer.evaluation.table import Row, group_names, has

if TYPE_CHECKING:
    from medformer.evaluation.classes.classification_summary import ClassificationNumbers

FORMAT = "medformer-metrics/1"


def summarize(rows: Sequence[Row], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Summarize a scored table, in memory or as read back from CSV: both give the same numbers.

    A table with a column `score` is a classification, any other a segmentation. Every interval, that of the AUC too, is
    a bootstrap over groups: whole groups are drawn, with all their rows of all repeats.

    Args:
        rows: One per case and repeat, in any order: of `medformer.evaluation.masks.segmentation.case_row`, of
            `medformer.evaluation.masks.volumes.volume_row`, or with `label`, `score` and `prediction`. Optional
            columns: `fold`, `repeat`, `site`, `size`, `sex` and `age` split the summary
            (`medformer.evaluation.statistics.subgroups`); `group` names the patient or sequence for the intervals,
            without it every case stands for itself.
        level: Coverage of the intervals.
        resamples: Bootstrap draws over groups.
        seed: Of the bootstrap.

    Returns:
        The content of metrics.json, which `medformer.evaluation.schema` describes field by field. What cannot
        be computed is NaN.

    Raises:
        DataError: No rows, a missing column, a cell that is no number, or rows scored under different rules.
    """
    if not rows:
        raise DataError("There are no scored cases to summarize; expected at least one row.")
    kind = "classification" if has(rows, "score") else "segmentation"
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    table = _read(kind, rows, options)
    labels = summarize_labels(rows, group_names(rows), **options)
    parts = subgroups.splits(rows)
    return {
        "format": FORMAT,
        "kind": kind,
        "n": len(rows),
        **table.head(),
        "definitions": {
            **table.definitions(),
            **{name: text for name, text in subgroups.DEFINITIONS.items() if name in parts},
            "interval": f"{level:.0%} bootstrap over groups (expanded percentiles), {resamples} resamples, seed {seed}",
        },
        "pooled": table.block(np.arange(len(rows))),
        **({"by_label": labels} if labels else {}),
        **{
            f"by_{column}": {name: table.block(selected) for name, selected in split.items()}
            for column, split in parts.items()
        },
    }


def _read(kind: str, rows: Sequence[Row], options: Mapping[str, Any]) -> SegmentationNumbers | ClassificationNumbers:
    if kind == "segmentation":
        return SegmentationNumbers(rows, group_names(rows), **options)
    # scikit-learn takes a second to import, which a segmentation need not wait for.
    from medformer.evaluation.classes.classification_summary import ClassificationNumbers

    return ClassificationNumbers(rows, group_names(rows), **options)
