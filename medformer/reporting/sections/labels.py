"""How well each label is found: a mean over labels hides the hard one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Figure, Section, Table, Text, interval, number, signed
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import forest
from medformer.reporting.results import empty_rule, span, value
from medformer.reporting.sections.agreement import digits


def build(facts: Facts) -> Section | None:
    """Tabulate the metrics of each label, and draw Dice."""
    if not facts.labels:
        return None
    blocks: list[Block] = []
    drawn = {name: part for name, part in facts.labels.items() if number(value(part, "dice")) != "–"}
    if len(drawn) > 1:
        blocks.append(_figure(facts, drawn))
    rule = empty_rule(facts.metrics)
    tolerance = facts.metrics.get("nsd_tolerance", {}).get("mm")
    header = [
        "Label",
        f"{facts.noun.capitalize()}s with it",
        f"Mean Dice{rule}",
        "95% interval",
        f"Median Dice{rule}",
        "Median HD95 (mm)",
        "Mean NSD" + (f" ({tolerance:g} mm)" if isinstance(tolerance, (int, float)) else ""),
        "Volume bias (ml)",
        "Missed",
        "Marked without it",
    ]
    rows = [_row(name, part) for name, part in facts.labels.items()]
    blocks.append(Table(f"Each label over all test {facts.noun}s", header, rows))
    blocks.append(
        Text(
            f"Missed: {facts.noun}s that have the label and on which none of it was marked. Marked without it: "
            f"{facts.noun}s without the label on which it was marked. Volume bias: mean of predicted minus reference "
            "volume, more of which is under Volume agreement."
        )
    )
    return Section("labels", "Labels", blocks)


def _row(name: str, part: Mapping[str, Any]) -> list[str]:
    metrics = part["metrics"]
    return [
        name,
        number(part["present"]),
        number(value(part, "dice")),
        interval(metrics["dice"]),
        number(metrics["dice"]["median"]),
        number(metrics.get("hd95_mm", {}).get("median"), 1),
        number(value(part, "nsd_mm")),
        signed(part["volume"]["agreement"]["bias"]["value"], digits(part["volume"])),
        number(part["missed"]),
        number(part["false_alarms"]),
    ]


def _figure(facts: Facts, parts: Mapping[str, Any]) -> Figure:
    rows = [(name, value(part, "dice"), *span(part, "dice")) for name, part in parts.items()]
    whole = value(facts.metrics["pooled"], "dice")
    said = "; ".join(
        f"{name} {number(value(part, 'dice'))}, interval {interval(part['metrics']['dice'])}"
        for name, part in parts.items()
    )
    caption = (
        f"Mean Dice of each label with its 95% interval; the dashed line is the mean over labels ({number(whole)})."
    )
    return Figure(
        forest("by-label", rows, xlabel="mean Dice", reference=whole), f"Mean Dice by label: {said}.", caption
    )
