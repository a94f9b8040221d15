"""The columns that every table of results shares, the names of the metrics, and which of them stands for the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from medformer.reporting.blocks import interval, number

LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "mean_dice_256": "Mean Dice (256 thresholds)",
    "mean_iou_256": "Mean IoU (256 thresholds)",
    "weighted_f": "Weighted F",
    "s_measure": "S-measure",
    "mae": "MAE",
    "max_e": "Max E-measure",
    "mean_e": "Mean E-measure",
    "hd95_px": "HD95 (px)",
    "hd95_mm": "HD95 (mm)",
    "nsd_px": "NSD (px)",
    "nsd_mm": "NSD (mm)",
    "auc": "AUC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "specificity": "Specificity",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "ece": "Calibration error (ECE)",
}

COUNTED = ("sensitivity", "precision")
"""In a segmentation these two count pixels or voxels, which a reader must not take for patients."""

EMPTY_RULES = {"one": "both empty:\u00a01", "zero": "both empty:\u00a00", "nan": "both empty: left out"}
"""What two empty masks score, in the words of a column header."""


@dataclass(frozen=True)
class Column:
    """A column of a table of results.

    Attributes:
        title: Its header.
        cell: The text for one part of a summary.
    """

    title: str
    cell: Callable[[Mapping[str, Any]], str]


def is_classification(metrics: Mapping[str, Any]) -> bool:
    """Whether these are the numbers of a classification."""
    return metrics.get("kind") == "classification" or "auc" in metrics["pooled"]["metrics"]


def primary(metrics: Mapping[str, Any]) -> str:
    """The metric that stands for the run where there is room for one."""
    return "auc" if is_classification(metrics) else "dice"


def label(name: str, metrics: Mapping[str, Any]) -> str:
    """A metric's name as a reader sees it, with the rule for empty masks where that changes the number."""
    shown = LABELS.get(name, name)
    if not is_classification(metrics):
        element = "Voxel" if metrics.get("by_label") else "Pixel"
        shown = f"{element} {name}" if name in COUNTED else shown
    if name in ("dice", "iou"):
        shown += empty_rule(metrics)
    return shown


def headline(metrics: Mapping[str, Any]) -> str:
    """The name of the primary metric in a sentence or on an axis."""
    name = primary(metrics)
    return LABELS[name] if name == "auc" else f"mean {LABELS[name]}"


def empty_rule(metrics: Mapping[str, Any]) -> str:
    """`" (both empty: 1)"`: no column of Dice or IoU is read without it."""
    policy = metrics.get("empty_policy")
    return f" ({EMPTY_RULES.get(policy, policy)})" if policy else ""


def value(part: Mapping[str, Any], name: str) -> float:
    """The number of a metric in one part of a summary: its mean over cases or, where it is not a mean, its value."""
    entry = part.get("metrics", {}).get(name)
    found = entry.get("mean", entry.get("value")) if isinstance(entry, Mapping) else entry
    return nan if found is None else float(found)


def span(part: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Both ends of a metric's interval; NaN where there is none."""
    entry = part.get("metrics", {}).get(name)
    ends = [entry.get("low"), entry.get("high")] if isinstance(entry, Mapping) else [None, None]
    low, high = (nan if end is None else float(end) for end in ends)
    return low, high


def columns(metrics: Mapping[str, Any], noun: str = "image") -> Sequence[Column]:
    """The shared columns that this run's numbers fill."""
    counts = [
        Column(f"{noun.capitalize()}s", lambda part: number(part.get("n"))),
        Column("Groups", lambda part: number(part.get("groups"))),
    ]
    if is_classification(metrics):
        chosen = ["auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity", "brier"]
        return [
            *counts,
            Column("Positive", lambda part: number(part.get("positives"))),
            _estimate("auc", LABELS["auc"]),
            _interval("auc"),
            *(_estimate(name, LABELS[name]) for name in chosen[1:] if name in metrics["pooled"]["metrics"]),
        ]
    rule = empty_rule(metrics)
    surface = [
        Column(f"Median {LABELS[name]}", _entry(name, "median"))
        for name in ("hd95_px", "hd95_mm")
        if name in metrics["pooled"]["metrics"]
    ]
    surface += [
        _estimate(name, f"Mean {LABELS[name]}") for name in ("nsd_px", "nsd_mm") if name in metrics["pooled"]["metrics"]
    ]
    return [
        *counts,
        _estimate("dice", f"Mean Dice{rule}"),
        _interval("dice"),
        Column(f"Median Dice{rule}", _entry("dice", "median")),
        _estimate("iou", f"Mean IoU{rule}"),
        *surface,
    ]


def header(metrics: Mapping[str, Any], noun: str = "image") -> list[str]:
    """The titles of `columns`."""
    return [column.title for column in columns(metrics, noun)]


def cells(metrics: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    """The cells below `header` for one part of a summary."""
    return [column.cell(part) for column in columns(metrics)]


def _estimate(name: str, title: str) -> Column:
    return Column(title, lambda part: number(value(part, name), 1 if name.startswith("hd95") else 3))


def _entry(name: str, key: str) -> Callable[[Mapping[str, Any]], str]:
    digits = 1 if name.startswith("hd95") else 3
    return lambda part: number(part["metrics"].get(name, {}).get(key), digits)


def _interval(name: str) -> Column:
    return Column("95% interval", lambda part: interval(part["metrics"].get(name)))
