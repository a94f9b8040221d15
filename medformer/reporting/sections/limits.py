"""What the numbers do not say."""

from __future__ import annotations

from medformer.reporting.blocks import Block, Listing, Notice, Section
from medformer.reporting.facts import Facts

RESEARCH_ONLY = "Research use only; not a medical device. Not for diagnosis, treatment or any decision about a patient."


def limits(facts: Facts) -> list[str]:
    """Known limits that follow from how the numbers were made."""
    items = [
        "Cross-validation measures performance on patients like those in the data. Other hospitals, endoscopes, "
        "preparations and populations need a test of their own.",
        "The reference outlines are drawn by people and differ between readers; a Dice of 1 is not to be expected.",
        "Dice and IoU weigh every pixel alike; they do not say how many lesions were missed, and a small lesion loses "
        "more from one pixel than a large one.",
        "Intervals come from resampling groups. They cover the choice of patients, not the choice of seed, data set or "
        "annotator.",
    ]
    if len(facts.sites) < 2:
        items.append("All data come from one site or the site is unknown: nothing here is evidence for another site.")
    if not any(row.get("truth_px") == 0 for row in facts.rows):
        items.append("Every image has foreground: false alarms on images without a lesion were not measured.")
    return items


def build(facts: Facts) -> Section:
    """List the limits and the intended use."""
    blocks: list[Block] = [Listing(limits(facts)), Notice("warning", RESEARCH_ONLY)]
    return Section("limits", "Known limits", blocks)
