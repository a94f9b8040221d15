"""From rows to the numbers of a report: pooled, and per fold, repeat, site and other subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation import subgroups
from medformer.evaluation.masks.summary import summarize_labels, summarize_masks
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.evaluation.table import Row, group_names, has

FORMAT = "medformer-metrics/1"


def summarize(rows: Sequence[Row], bootstrap: Bootstrap = DEFAULT) -> dict[str, Any]:
    """Summarize a scored table, in memory or as read back from CSV: both give the same numbers.

    A table with a column `score` is a classification, any other a segmentation. Every interval, that of the AUC too, is
    a bootstrap over groups: whole groups are drawn, with all their rows of all repeats.

    Args:
        rows: One per case and repeat, in any order: of `medformer.evaluation.masks.segmentation.case_row`, of
            `medformer.evaluation.masks.volumes.volume_row`, or with `label`, `score` and `prediction`. Optional
            columns: `fold`, `repeat`, `site`, `size`, `sex` and `age` split the summary
            (`medformer.evaluation.subgroups`); `group` names the patient or sequence for the intervals,
            without it every case stands for itself.
        bootstrap: Level and draws of the intervals.

    Returns:
        The content of metrics.json, which `medformer.evaluation.schema` describes field by field. What cannot be
        computed is NaN.

    Raises:
        DataError: No rows, a missing column, a cell that is no number, or rows scored under different rules.
    """
    if not rows:
        raise DataError("There are no scored cases to summarize; expected at least one row.")
    kind, summarize_kind = "segmentation", summarize_masks
    if has(rows, "score"):
        # scikit-learn takes a second to import, which a segmentation need not wait for.
        from medformer.evaluation.classes.summary import summarize_classes

        kind, summarize_kind = "classification", summarize_classes
    groups = group_names(rows)
    found = summarize_kind(rows, bootstrap)
    labels = summarize_labels(rows, groups, bootstrap)
    parts = subgroups.splits(rows)

    def block(selected: NDArray[np.intp]) -> dict[str, Any]:
        chosen = [groups[index] for index in selected]
        whole = {"n": len(chosen), "groups": len(set(chosen))}
        return whole | {key: value for part in found.parts for key, value in part(selected, chosen).items()}

    return {
        "format": FORMAT,
        "kind": kind,
        "n": len(rows),
        **found.head,
        "definitions": {
            **found.definitions,
            **{name: text for name, text in subgroups.DEFINITIONS.items() if name in parts},
            "interval": str(bootstrap),
        },
        "pooled": block(np.arange(len(rows))),
        **({"by_label": labels} if labels else {}),
        **{
            f"by_{column}": {name: block(selected) for name, selected in split.items()}
            for column, split in parts.items()
        },
    }
