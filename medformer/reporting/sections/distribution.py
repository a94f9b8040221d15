"""How Dice is spread over the images: a mean can hide a tail of failures."""

from __future__ import annotations

import math

import numpy as np

from medformer.reporting.blocks import Figure, Section, counted
from medformer.reporting.facts import Facts
from medformer.reporting.figures import histogram


def build(facts: Facts) -> Section | None:
    """Draw the histogram of Dice."""
    values = [float(row["dice"]) for row in facts.rows if math.isfinite(row["dice"])]
    if not values:
        return None
    mean, median = float(np.mean(values)), float(np.median(values))
    tail = sum(value < 0.5 for value in values)
    high = sum(value >= 0.9 for value in values)
    alt = (
        f"Histogram of Dice over {counted(len(values), 'image')}: mean {mean:.3f}, median {median:.3f}, "
        f"{tail} below 0.5, {high} at 0.9 or above."
    )
    svg = histogram("dice", values, xlabel="Dice of an image", marks={"mean": mean, "median": median})
    caption = f"{high} of {counted(len(values), 'image')} reach a Dice of 0.9; {tail} stay below 0.5."
    return Section("distribution", "Spread over images", [Figure(svg, alt, caption)])
