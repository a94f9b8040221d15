"""The numbers of a segmentation: means over images or volumes, lesions found, false alarms, and those per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.masks.lesions import RULE, detection
from medformer.evaluation.masks.overlap import EMPTY_POLICIES, check_policy
from medformer.evaluation.masks.saliency import max_and_mean_e
from medformer.evaluation.masks.segmentation import SIZES, e_curve
from medformer.evaluation.masks.surface import SURFACE_POLICIES
from medformer.evaluation.masks.volumes import MEAN_OVER_LABELS, label_column, label_names
from medformer.evaluation.metrics import LABEL_MAPS, MASKS, in_summary
from medformer.evaluation.statistics.agreement import RULE as AGREEMENT
from medformer.evaluation.statistics.agreement import agreement, relative_error
from medformer.evaluation.statistics.bootstrap import grouped_interval
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.table import Contents, Part, Row, distinct, has, numbers, one_value

# Without these a table is not a scored one; other metrics are left out when no row has them.
_ESSENTIAL = ("dice", "iou")

_LESIONS = ("lesions_true", "lesions_pred", "lesions_hit")


def summarize_masks(rows: Sequence[Row], bootstrap: Bootstrap) -> Contents:
    """Read the columns of a table of masks or label maps once.

    Args:
        rows: One per image or volume and repeat.
        bootstrap: Level and draws of the intervals.

    Raises:
        DataError: A column is missing, a cell is no number, or rows were scored under different rules.
    """
    policy = check_policy(one_value(rows, "empty_policy", "empty-mask policies"))
    tolerance = {
        unit: float(one_value(rows, f"nsd_tolerance_{unit}", "tolerances of the NSD"))
        for unit in ("px", "mm")
        if has(rows, f"nsd_tolerance_{unit}")
    }
    head: dict[str, Any] = {"empty_policy": policy}
    # A label map is the most probable label of each voxel: no threshold made it.
    if has(rows, "threshold"):
        head["thresholds"] = distinct(rows, "threshold")
    if tolerance:
        head["nsd_tolerance"] = tolerance

    labels = bool(label_names(rows))
    means = {name: numbers(rows, name) for name in in_summary(MASKS) if name in _ESSENTIAL or has(rows, name)}
    metrics = {name: (LABEL_MAPS if labels else MASKS)[name].definition for name in means}
    for unit, size in tolerance.items():
        metrics[f"nsd_{unit}"] += f", {size:g} {unit}"
    parts: list[Part] = [
        lambda at, groups: {"metrics": {name: _mean(of[at], groups, bootstrap) for name, of in means.items()}}
    ]
    texts: dict[str, Any] = {
        "metrics": metrics,
        "empty_policy": EMPTY_POLICIES[policy],
        "size": SIZES if has(rows, "size") else None,
        "labels": MEAN_OVER_LABELS if labels else None,
        "agreement": AGREEMENT if labels else None,
        "surface_empty_policy": SURFACE_POLICIES[policy] if tolerance else None,
    }
    if has(rows, "e_curve"):
        curves = np.stack([e_curve(row) for row in rows])
        parts.append(lambda at, _: dict(zip(in_summary(MASKS, "block"), max_and_mean_e(curves[at]), strict=True)))
    if has(rows, *_LESIONS):
        lesions = np.stack([numbers(rows, name) for name in _LESIONS])
        texts["lesions"] = RULE
        parts.append(lambda at, groups: {"lesions": detection(lesions[:, at], groups, bootstrap)})
    if has(rows, "truth_px", "pred_px"):
        truth, marked = numbers(rows, "truth_px"), numbers(rows, "pred_px")
        texts["missed"] = f"{'volumes with a label' if labels else 'images with a lesion'} and nothing marked"
        parts.append(lambda at, _: {"missed": int(((truth[at] > 0) & (marked[at] == 0)).sum())})
        areas = {name: numbers(rows, name) for name in in_summary(MASKS, "negatives") if has(rows, name)}
        if areas:
            texts["negatives"] = "images without a lesion, and what was marked on them (px of an image, ml of a volume)"
            parts.append(
                lambda at, groups: {
                    "negatives": {
                        "n": int((truth[at] == 0).sum()),
                        "images_with_false_positive": int(((truth[at] == 0) & (marked[at] > 0)).sum()),
                        **{name: _mean(area[at], groups, bootstrap) for name, area in areas.items()},
                    }
                }
            )
    if has(rows, "e_curve"):
        texts |= {name: metric.definition for name, metric in in_summary(MASKS, "block").items()}
    return Contents(head, {name: text for name, text in texts.items() if text}, parts)


def summarize_labels(rows: Sequence[Row], groups: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """Summarize each label over all rows: means over volumes, and how well the volumes agree in milliliters.

    Args:
        rows: Of `medformer.evaluation.masks.volumes.volume_row`, one per volume and repeat.
        groups: The group that each row is resampled with.
        bootstrap: Level and draws of the intervals.

    Returns:
        By name of the label; empty for a table without labels.

    Raises:
        DataError: A row lacks a label that another one has, or a cell is no number.
    """
    found: dict[str, Any] = {}
    for label in label_names(rows):
        truth, marked = (numbers(rows, label_column(name, label)) for name in ("truth_ml", "pred_ml"))
        columns = {name: label_column(name, label) for name in LABEL_MAPS}
        found[label] = {
            "n": len(rows),
            "present": int((truth > 0).sum()),
            "missed": int(((truth > 0) & (marked == 0)).sum()),
            "false_alarms": int(((truth == 0) & (marked > 0)).sum()),
            "metrics": {
                name: _mean(numbers(rows, column), groups, bootstrap)
                for name, column in columns.items()
                if has(rows, column)
            },
            "volume": {
                "truth_ml": _mean(truth, groups, bootstrap),
                "pred_ml": _mean(marked, groups, bootstrap),
                "relative_error": _mean(relative_error(marked, truth), groups, bootstrap),
                "agreement": agreement(marked, truth, groups, bootstrap),
            },
        }
    return found


def _mean(values: NDArray[np.float64], groups: Sequence[str], bootstrap: Bootstrap) -> dict[str, float | int]:
    """Count, mean, standard deviation and quartiles of the values that are not NaN, and the interval of their mean."""
    known = values[~np.isnan(values)]
    nan = float("nan")
    q1, median, q3 = np.percentile(known, [25, 50, 75]) if known.size else (nan, nan, nan)
    interval = grouped_interval(values, groups, bootstrap)
    return {
        "n": int(known.size),
        "mean": float(known.mean()) if known.size else nan,
        "sd": float(known.std(ddof=1)) if known.size > 1 else nan,
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
        **interval.to_json(),
    }
