"""Scores as metrics.json and oof.csv hold them: values, intervals, columns that tables share, and failed cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from medformer.evaluation.table import Row
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import interval, number

FAILED_BELOW = 0.1
"""Dice below this is a failure even where something was marked."""

_MASKS = ("mean dice", "median dice", "mean iou", "median hd95_px", "median hd95_mm", "mean nsd_px", "mean nsd_mm")
_CLASSES = ("auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity", "brier")


def summary_of(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The entry of a metric in one part of metrics.json; empty when it has none."""
    entry = part.get("metrics", {}).get(name)
    return entry if isinstance(entry, Mapping) else {} if entry is None else {"value": entry}


def value(part: Mapping[str, Any], name: str) -> float:
    """A metric of one part: its mean over cases or, where it is not a mean, its value; NaN when it has none."""
    entry = summary_of(part, name)
    found = entry.get("mean", entry.get("value"))
    return nan if found is None else float(found)


def estimate(part: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """The value of a metric and both ends of its interval; NaN where there is none."""
    low, high = (summary_of(part, name).get(end) for end in ("low", "high"))
    return value(part, name), nan if low is None else float(low), nan if high is None else float(high)


def written(run: FinishedRun, part: Mapping[str, Any], name: str) -> dict[str, str]:
    """The value of a metric and its interval as text."""
    digits = run.metric_table[name].digits
    return {"value": number(value(part, name), digits), "interval": interval(summary_of(part, name), digits)}


def result_columns(run: FinishedRun, part: Mapping[str, Any]) -> dict[str, Any]:
    """The cells that one part of metrics.json has in every table of results, by the title of their column."""
    cells: dict[str, Any] = {f"{run.noun.capitalize()}s": part.get("n")}
    if run.groups != run.cases:
        cells["Groups"] = part.get("groups")
    if run.classification:
        cells["Positive"] = part.get("positives")
    for column in _CLASSES if run.classification else _MASKS:
        statistic, _, name = column.rpartition(" ")
        if name not in run.pooled["metrics"]:
            continue
        digits = run.metric_table[name].digits
        found = summary_of(part, name).get(statistic) if statistic else value(part, name)
        title = f"{statistic.capitalize()} {run.label(name)}" if statistic else run.title(name)
        cells[title] = number(found, digits)
        if name == run.primary.name and statistic != "median":
            cells["95% interval"] = interval(summary_of(part, name), digits)
    return cells


def failures(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Sort failed cases of a segmentation by how they failed; within each kind the largest error comes first.

    Returns:
        By kind: `missed`, nothing was marked although there is foreground; `false_alarm`, something was marked without
        foreground; `low_dice`, Dice is below `FAILED_BELOW`.
    """
    found: dict[str, list[Row]] = {"missed": [], "false_alarm": [], "low_dice": []}
    for row in rows:
        truth, marked = row.get("truth_px"), row.get("pred_px")
        if truth and marked == 0:
            found["missed"].append(row)
        elif truth == 0 and marked:
            found["false_alarm"].append(row)
        elif truth != 0 and row["dice"] < FAILED_BELOW:
            found["low_dice"].append(row)
    found["missed"].sort(key=lambda row: (-row["truth_px"], str(row["id"])))
    found["false_alarm"].sort(key=lambda row: (-row["pred_px"], str(row["id"])))
    found["low_dice"].sort(key=lambda row: (row["dice"], str(row["id"])))
    return found
