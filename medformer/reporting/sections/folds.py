"""The numbers per fold and pooled, and what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Listing, Section, Table, Text, interval, number
from medformer.reporting.facts import Facts

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
}


def build(facts: Facts) -> Section:
    """Tabulate the metrics."""
    pooled = facts.metrics["pooled"]
    blocks: list[Block] = []
    parts = facts.metrics.get("by_fold", {})
    if len(parts) > 1:
        rows = [_fold_row(facts, name, part) for name, part in parts.items()]
        rows.append(_fold_row(facts, "all", pooled))
        header = ["Fold", "Images", "Groups", "Mean Dice", "95% interval", "Median Dice", "Mean IoU"]
        header += ["Sensitivity", "Precision", "Threshold"]
        blocks.append(Table("Out-of-fold results: each fold's test images, and all of them together", header, rows))
    blocks.append(_pooled_table(pooled))
    definitions = facts.metrics.get("definitions", {})
    described = {**definitions.get("metrics", {}), **{key: definitions.get(key) for key in ("max_e", "mean_e")}}
    blocks.append(Text("What the numbers mean:"))
    items = [f"{LABELS.get(name, name)}: {text}." for name, text in described.items() if text]
    if definitions.get("empty_policy"):
        items.append(f"Empty masks: {definitions['empty_policy']}.")
    blocks.append(Listing(items))
    return Section("results", "Results", blocks)


def _fold_row(facts: Facts, name: str, part: Mapping[str, Any]) -> list[str]:
    metrics = part["metrics"]
    thresholds = {
        row["threshold"] for row in facts.rows if "threshold" in row and name in ("all", str(row.get("fold")))
    }
    return [
        "All folds" if name == "all" else name,
        number(part["n"]),
        number(part["groups"]),
        number(metrics["dice"]["mean"]),
        interval(metrics["dice"]),
        number(metrics["dice"]["median"]),
        number(metrics["iou"]["mean"]),
        number(metrics["sensitivity"]["mean"]),
        number(metrics["precision"]["mean"]),
        number(thresholds.pop(), 2) if len(thresholds) == 1 else "per fold",
    ]


def _pooled_table(pooled: Mapping[str, Any]) -> Table:
    rows = []
    for name, part in pooled["metrics"].items():
        spread = [number(part[key]) for key in ("mean", "sd", "median", "q1", "q3")]
        rows.append([LABELS.get(name, name), number(part["n"]), *spread, interval(part)])
    for name in ("max_e", "mean_e"):
        if name in pooled:
            rows.append([LABELS[name], number(pooled["n"]), number(pooled[name]), *["–"] * 5])
    header = [
        "Metric",
        "Images",
        "Mean",
        "SD",
        "Median",
        "Lower quartile",
        "Upper quartile",
        "95% interval of the mean",
    ]
    return Table("All test images together", header, rows)
