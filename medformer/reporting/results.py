"""The columns that every table of results shares, and the names of the metrics in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import interval, number

LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Pixel sensitivity",
    "precision": "Pixel precision",
    "mean_dice_256": "Mean Dice (256 thresholds)",
    "mean_iou_256": "Mean IoU (256 thresholds)",
    "weighted_f": "Weighted F",
    "s_measure": "S-measure",
    "mae": "MAE",
    "max_e": "Max E-measure",
    "mean_e": "Mean E-measure",
}

HEADER = (
    "Images",
    "Groups",
    "Mean Dice",
    "95% interval",
    "Median Dice",
    "Mean IoU",
    LABELS["sensitivity"],
    LABELS["precision"],
)


def cells(part: Mapping[str, Any]) -> list[str]:
    """The cells below `HEADER` for one part of a summary."""
    metrics = part["metrics"]
    return [
        number(part["n"]),
        number(part["groups"]),
        number(metrics["dice"]["mean"]),
        interval(metrics["dice"]),
        number(metrics["dice"]["median"]),
        number(metrics["iou"]["mean"]),
        number(metrics["sensitivity"]["mean"]),
        number(metrics["precision"]["mean"]),
    ]


def with_policy(caption: str, metrics: Mapping[str, Any]) -> str:
    """Add the rule for empty masks by name, so that no table of results is read without it."""
    policy = metrics.get("empty_policy")
    return f"{caption} (empty-mask policy: {policy})" if policy else caption
