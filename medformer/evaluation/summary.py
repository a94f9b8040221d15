"""From rows to the numbers of a report: pooled, and per fold, site and lesion size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation.bootstrap import grouped_interval
from medformer.evaluation.overlap import EMPTY_POLICIES, check_policy
from medformer.evaluation.saliency import max_and_mean_e
from medformer.evaluation.segmentation import METRICS, SIZES, e_curve

# A summary is split by each of these columns that the rows have.
SPLITS: tuple[str, ...] = ("fold", "site", "size")

# The metrics that get a confidence interval.
_WITH_INTERVAL: tuple[str, ...] = ("dice", "iou")


def summarize(
    rows: Sequence[Mapping[str, Any]], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Summarize rows of `case_row`, in memory or as read back from CSV: both give the same numbers.

    Args:
        rows: One per image, in any order. Optional columns: `fold` and `site` split the summary; `group` names the
            patient or sequence for the intervals, without it every row stands for itself.
        level: Coverage of the intervals.
        resamples: Bootstrap draws over groups.
        seed: Of the bootstrap.

    Returns:
        `n`, `empty_policy`, `thresholds` (those used), `definitions`, `pooled`, and `by_fold`, `by_site`, `by_size`
        for the columns that are there. `pooled`, and every part of a split, hold `n`, `groups`, `metrics` (per
        metric: n, mean, sd, median, q1, q3, and for Dice and IoU the interval `low`, `high`), `max_e` and `mean_e`.
        What cannot be computed is NaN.

    Raises:
        DataError: No rows, a missing column, a cell that is no number, or rows scored under different rules for
            empty masks.
    """
    if not rows:
        raise DataError("There are no scored cases to summarize; expected at least one row.")
    policies = {str(_cell(row, "empty_policy")) for row in rows}
    if len(policies) > 1:
        raise DataError(
            f"The rows were scored under different empty-mask policies ({', '.join(sorted(policies))}); "
            "expected one. Score all cases again with the same policy."
        )
    policy = policies.pop()
    check_policy(policy)
    columns = {name: np.array([_number(row, name) for row in rows]) for name in METRICS}
    curves = np.stack([e_curve(row) for row in rows])
    groups = [
        f"row {index}" if row.get("group") in (None, "") else f"group {row['group']}" for index, row in enumerate(rows)
    ]

    def block(selected: NDArray[np.intp]) -> dict[str, Any]:
        members = [groups[index] for index in selected]
        metrics: dict[str, dict[str, float | int]] = {}
        for name, values in columns.items():
            metrics[name] = _describe(values[selected])
            if name in _WITH_INTERVAL:
                interval = grouped_interval(values[selected], members, level=level, resamples=resamples, seed=seed)
                metrics[name] |= {"low": interval.low, "high": interval.high}
        highest, average = max_and_mean_e(curves[selected])
        return {
            "n": len(selected),
            "groups": len(set(members)),
            "metrics": metrics,
            "max_e": highest,
            "mean_e": average,
        }

    summary: dict[str, Any] = {
        "n": len(rows),
        "empty_policy": policy,
        "thresholds": sorted({_number(row, "threshold") for row in rows}),
        "definitions": {
            "metrics": METRICS,
            "size": SIZES,
            "empty_policy": EMPTY_POLICIES[policy],  # type: ignore[index]
            "interval": f"{level:.0%} percentile bootstrap over groups, {resamples} resamples, seed {seed}",
            "max_e": "PraNet protocol: E-measure, how alike the masks are by pixel and as a whole (Fan et al., IJCAI "
            "2018): averaged over images at each of 256 thresholds, the highest of these averages",
            "mean_e": "PraNet protocol: the mean of these averages",
        },
        "pooled": block(np.arange(len(rows))),
    }
    for column in SPLITS:
        if all(row.get(column) not in (None, "") for row in rows):
            values = np.array([str(row[column]) for row in rows])
            parts = sorted(set(values.tolist()), key=_order)
            summary[f"by_{column}"] = {part: block(np.flatnonzero(values == part)) for part in parts}
    return summary


def _describe(values: NDArray[np.float64]) -> dict[str, float | int]:
    known = values[~np.isnan(values)]
    nan = float("nan")
    if not known.size:
        return {"n": 0, "mean": nan, "sd": nan, "median": nan, "q1": nan, "q3": nan}
    q1, median, q3 = np.percentile(known, [25, 50, 75])
    return {
        "n": int(known.size),
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if known.size > 1 else nan,
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
    }


def _order(name: str) -> tuple[int, int, str]:
    """Sizes from none to large, then numbers by value, then names."""
    if name in SIZES:
        return 0, list(SIZES).index(name), name
    return (1, int(name), name) if name.isdecimal() else (2, 0, name)


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise DataError(f"{row.get('id', 'A row')} has no column '{column}'. Expected the columns of a scored table.")
    return row[column]


def _number(row: Mapping[str, Any], column: str) -> float:
    value = _cell(row, column)
    if value in (None, ""):
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{row.get('id', 'A row')}: column '{column}' holds {value!r}, expected a number.") from None
