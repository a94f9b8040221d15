"""The numbers per fold, per repeat and pooled, and what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Listing, Section, Table, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.results import LABELS, cells, header, is_classification, label, value


def build(facts: Facts) -> Section:
    """Tabulate the metrics."""
    blocks: list[Block] = []
    for column, title in (("repeat", "Repeat"), ("fold", "Fold")):
        parts = facts.metrics.get(f"by_{column}") or {}
        if len(parts) > 1:
            blocks.append(_parts_table(facts, column, title, parts))
    pooled = facts.metrics["pooled"]
    if is_classification(facts.metrics):
        blocks.append(_values_table(facts, pooled))
    else:
        blocks.append(_means_table(facts, pooled))
    blocks.append(Listing(_meanings(facts), label="What the numbers mean"))
    return Section("results", "Results", blocks)


def _parts_table(facts: Facts, column: str, title: str, parts: Mapping[str, Any]) -> Table:
    rows = [[name, *cells(facts.metrics, part), *_threshold(facts, column, name)] for name, part in parts.items()]
    total = ["All", *cells(facts.metrics, facts.metrics["pooled"]), *_threshold(facts, column, None)]
    caption = f"Out-of-fold results per {column}: the test {facts.noun}s of each, and all of them together"
    last = ["Threshold"] if facts.thresholded else []
    return Table(caption, [title, *header(facts.metrics, facts.noun), *last], rows, total=total)


def _threshold(facts: Facts, column: str, name: str | None) -> list[str]:
    if not facts.thresholded:
        return []
    found = {
        row["threshold"] for row in facts.rows if "threshold" in row and (name is None or str(row.get(column)) == name)
    }
    return [number(found.pop(), 2) if len(found) == 1 else "per fold"]


def _means_table(facts: Facts, pooled: Mapping[str, Any]) -> Table:
    rows = []
    for name, part in pooled["metrics"].items():
        digits = 1 if name.startswith("hd95") else 3
        spread = [number(part.get(key), digits) for key in ("mean", "sd", "median", "q1", "q3")]
        rows.append([label(name, facts.metrics), number(part.get("n")), *spread, interval(part, digits)])
    for name in ("max_e", "mean_e"):
        if name in pooled:
            rows.append([LABELS[name], number(pooled["n"]), number(pooled[name]), *["–"] * 5])
    titles = ["Mean", "SD", "Median", "Lower quartile", "Upper quartile", "95% interval of the mean"]
    return Table(f"All test {facts.noun}s together", ["Metric", f"{facts.noun.capitalize()}s", *titles], rows)


def _values_table(facts: Facts, pooled: Mapping[str, Any]) -> Table:
    rows = [
        [label(name, facts.metrics), number(value(pooled, name)), interval(part)]
        for name, part in pooled["metrics"].items()
    ]
    return Table(f"All test {facts.noun}s together", ["Metric", "Value", "95% interval"], rows)


def _meanings(facts: Facts) -> list[str]:
    definitions = facts.metrics.get("definitions", {})
    described = {**definitions.get("metrics", {}), **{key: definitions.get(key) for key in ("max_e", "mean_e")}}
    items = [f"{label(name, facts.metrics)}: {text}." for name, text in described.items() if text]
    if isinstance(definitions.get("labels"), str):
        items.insert(0, f"Every number of one {facts.noun}: {definitions['labels']}.")
    if definitions.get("empty_policy"):
        policy = facts.metrics.get("empty_policy", "")
        items.append(f"Empty-mask policy “{policy}”, for Dice and IoU: {definitions['empty_policy']}.")
    if definitions.get("surface_empty_policy"):
        items.append(f"The same for HD95 and NSD: {definitions['surface_empty_policy']}.")
    if isinstance(definitions.get("interval"), str):
        items.append(f"95% interval: {definitions['interval']}.")
    return items
