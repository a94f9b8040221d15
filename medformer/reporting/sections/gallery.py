"""Best, median and worst cases with both outlines: numbers are believed after one has looked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medformer.reporting.blocks import Gallery, Picture, Section, Text, number
from medformer.reporting.facts import Facts
from medformer.reporting.pictures import CasePictures

SHOWN = 3
WORST_SHOWN = 6


def build(facts: Facts) -> Section | None:
    """Pick the cases by Dice and draw them."""
    ranked = sorted(
        (row for row in facts.rows if math.isfinite(row["dice"])), key=lambda row: (row["dice"], str(row["id"]))
    )
    if not ranked:
        return None
    pictures = CasePictures(facts)
    chosen = {
        "Worst": ranked[:WORST_SHOWN],
        "Around the median": _middle(ranked, SHOWN),
        "Best": ranked[::-1][:SHOWN],
    }
    galleries = [Gallery(title, [_picture(pictures, row) for row in rows]) for title, rows in chosen.items()]
    explanation = (
        "Yellow is the prediction, blue the reference, each with a dark rim; a yellow line along the edge means that "
        "the prediction reaches it. The cases are picked by Dice alone, not by eye."
    )
    return Section("gallery", "Cases", [Text(explanation), *galleries])


def _middle(ranked: Sequence[Mapping[str, Any]], count: int) -> Sequence[Mapping[str, Any]]:
    start = max(0, (len(ranked) - count) // 2)
    return ranked[start : start + count]


def _picture(pictures: CasePictures, row: Mapping[str, Any]) -> Picture:
    source, missing = pictures.overlay(row)
    name = str(row["id"])
    numbers = f"Dice {number(row['dice'])}, IoU {number(row.get('iou'))}"
    place = [f"fold {row['fold']}" if "fold" in row else "", str(row.get("site") or "")]
    fraction = row.get("truth_fraction")
    if isinstance(fraction, (int, float)):
        place.append(f"lesion {100 * fraction:.1f}% of the image" if fraction > 0 else "no lesion")
    alt = (
        f"No picture of {name}: {missing}." if missing else f"{name} with predicted and reference outlines; {numbers}."
    )
    return Picture(source, alt, name, [numbers, " · ".join(filter(None, place))])
