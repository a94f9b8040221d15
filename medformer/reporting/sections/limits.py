"""What the numbers do not say."""

from __future__ import annotations

from medformer.reporting.blocks import Block, Listing, Notice, Section
from medformer.reporting.facts import Facts

RESEARCH_ONLY = "Research use only; not a medical device. Not for diagnosis, treatment or any decision about a patient."


def limits(facts: Facts) -> list[str]:
    """Known limits that follow from how the numbers were made."""
    items = [
        "Cross-validation measures performance on patients like those in the data. Other hospitals, devices, protocols "
        "and populations need a test of their own.",
        *(_classification() if facts.classification else _segmentation(facts)),
        "Intervals come from resampling groups. They cover the choice of patients, not the choice of seed, data set or "
        "annotator.",
    ]
    if len(facts.sites) < 2:
        items.append("All data come from one site or the site is unknown: nothing here is evidence for another site.")
    if not facts.baselines:
        items.append("No baseline was run on the same folds: whether a simpler method would do as well is not known.")
    if facts.canary is None:
        items.append("No permuted labels were run: this report has no check of the whole pipeline for leaks.")
    return items


def build(facts: Facts) -> Section:
    """List the limits and the intended use."""
    blocks: list[Block] = [Listing(limits(facts)), Notice("warning", RESEARCH_ONLY)]
    return Section("limits", "Known limits", blocks)


def _segmentation(facts: Facts) -> list[str]:
    items = [
        "The reference outlines are drawn by people and differ between readers; a Dice of 1 is not to be expected."
    ]
    if facts.labels:
        items.append(
            "Dice and IoU weigh every voxel alike: a small label loses more from one voxel than a large one, and a "
            "mean over labels hides the hard one."
        )
    else:
        items.append(
            "Dice and IoU weigh every pixel alike; they do not say how many lesions were missed, and a small lesion "
            "loses more from one pixel than a large one."
        )
    if not any(row.get("truth_px") == 0 for row in facts.rows):
        items.append(
            f"Every {facts.noun} has foreground: false alarms on {facts.noun}s without a {facts.target} were not "
            "measured."
        )
    return items


def _classification() -> list[str]:
    return [
        "The labels are what was recorded, with the errors of whoever made the diagnosis; a model cannot be more right "
        "than they are.",
        "How often a positive score is right depends on how common the condition is. In the data it is as common as "
        "they were collected, which is rarely as common as among patients.",
    ]
