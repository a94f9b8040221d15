"""How the scores are spread over the cases: a mean can hide a tail of failures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medformer.reporting.blocks import Block, Figure, Section, counted
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import histogram

SURFACE = {"hd95_px": "px", "hd95_mm": "mm"}
NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def build(facts: Facts) -> Section | None:
    """Draw the histograms of Dice and of the surface distance."""
    if facts.classification:
        return None
    blocks: list[Block] = []
    dice = [float(row["dice"]) for row in facts.first_rows if math.isfinite(row["dice"])]
    if dice:
        blocks.append(_dice(dice, facts.noun))
    for column, unit in SURFACE.items():
        if all(column in row for row in facts.first_rows):
            known = [float(row[column]) for row in facts.first_rows if math.isfinite(row[column])]
            if known:
                blocks.append(_distance(column, unit, known, facts))
    return Section("distribution", f"Spread over {facts.noun}s", blocks) if blocks else None


def _dice(values: Sequence[float], noun: str) -> Figure:
    mean, median = float(np.mean(values)), float(np.median(values))
    tail = sum(value < 0.5 for value in values)
    high = sum(value >= 0.9 for value in values)
    alt = (
        f"Histogram of Dice over {counted(len(values), noun)}: mean {mean:.3f}, median {median:.3f}, "
        f"{tail} below 0.5, {high} at 0.9 or above."
    )
    svg = histogram(
        "dice", values, xlabel=f"Dice of one {noun}", ylabel=f"{noun}s", marks={"mean": mean, "median": median}
    )
    return Figure(svg, alt, f"{high} of {counted(len(values), noun)} reach a Dice of 0.9; {tail} stay below 0.5.")


def _distance(column: str, unit: str, values: Sequence[float], facts: Facts) -> Figure:
    median, upper = (float(value) for value in np.percentile(values, [50, 75]))
    without = len(facts.first_rows) - len(values)
    alt = (
        f"Histogram of HD95 over {counted(len(values), facts.noun)}: median {median:.1f} {unit}, upper quartile "
        f"{upper:.1f} {unit}, largest {max(values):.1f} {unit}."
    )
    svg = histogram(
        column.replace("_", "-"),
        values,
        xlabel=f"HD95 of one {facts.noun} ({unit})",
        ylabel=f"{facts.noun}s",
        marks={"median": median, "upper quartile": upper},
        high=_nice(max(values)),
        digits=1,
    )
    meaning = facts.metrics.get("definitions", {}).get("metrics", {}).get(column, "")
    caption = f"HD95: {meaning}." if meaning else ""
    if without:
        caption += (
            f" {counted(without, facts.noun)} without a distance {'is' if without == 1 else 'are'} not in the figure."
        )
    return Figure(svg, alt, caption)


def _nice(value: float) -> float:
    """The end of an axis that holds `value`."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return power * next(step for step in NICE if value <= power * step)
