"""The numbers per fold and pooled, and what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Listing, Section, Table, Text, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.results import HEADER, LABELS, cells, with_policy


def build(facts: Facts) -> Section:
    """Tabulate the metrics."""
    pooled = facts.metrics["pooled"]
    blocks: list[Block] = []
    parts = facts.metrics.get("by_fold", {})
    if len(parts) > 1:
        rows = [_fold_row(facts, name, part) for name, part in parts.items()]
        rows.append(_fold_row(facts, "all", pooled))
        caption = with_policy("Out-of-fold results: each fold's test images, and all of them together", facts.metrics)
        blocks.append(Table(caption, ["Fold", *HEADER, "Threshold"], rows))
    blocks.append(_pooled_table(pooled, with_policy("All test images together", facts.metrics)))
    definitions = facts.metrics.get("definitions", {})
    described = {**definitions.get("metrics", {}), **{key: definitions.get(key) for key in ("max_e", "mean_e")}}
    blocks.append(Text("What the numbers mean:"))
    items = [f"{LABELS.get(name, name)}: {text}." for name, text in described.items() if text]
    if definitions.get("empty_policy"):
        policy = facts.metrics.get("empty_policy", "")
        items.append(f"Empty-mask policy {policy}, for Dice and IoU: {definitions['empty_policy']}.")
    blocks.append(Listing(items))
    return Section("results", "Results", blocks)


def _fold_row(facts: Facts, name: str, part: Mapping[str, Any]) -> list[str]:
    thresholds = {
        row["threshold"] for row in facts.rows if "threshold" in row and name in ("all", str(row.get("fold")))
    }
    return [
        "All folds" if name == "all" else name,
        *cells(part),
        number(thresholds.pop(), 2) if len(thresholds) == 1 else "per fold",
    ]


def _pooled_table(pooled: Mapping[str, Any], caption: str) -> Table:
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
    return Table(caption, header, rows)
