"""Best, median, worst and every failed case with both outlines: numbers are believed after one has looked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medformer.evaluation.masks.volumes import label_column, label_names
from medformer.reporting.blocks import Block, Gallery, Listing, Picture, Section, Table, Text, counted, number
from medformer.reporting.facts import Facts
from medformer.reporting.failures import FAILED_BELOW, failures
from medformer.reporting.figures.overlays import CasePictures

Row = Mapping[str, Any]
SHOWN = 3
WORST_SHOWN = 6
WRONG_SHOWN = 30
MOST_LABELS = 6

MOST_PICTURES = 200
MOST_BYTES = 9_000_000
"""Of all pictures together, so that the whole file stays below 15 MB and opens on any machine."""


def build(facts: Facts) -> Section | None:
    """Pick the cases by their scores and draw them."""
    return _wrong(facts) if facts.classification else _overlays(facts)


def _overlays(facts: Facts) -> Section | None:
    ranked = sorted(
        (row for row in facts.first_rows if math.isfinite(row["dice"])), key=lambda row: (row["dice"], str(row["id"]))
    )
    failed = failures(facts.first_rows, facts.target)
    if not ranked and not failed:
        return None
    pictures = CasePictures(facts)
    chosen = {
        "Worst": ranked[:WORST_SHOWN],
        "Around the median": _middle(ranked, SHOWN),
        "Best": ranked[::-1][:SHOWN],
    }
    blocks: list[Block] = [Text(f"{pictures.legend} The cases are picked by their scores alone, not by eye.")]
    shown: set[str] = set()
    for title, rows in chosen.items():
        if rows:
            blocks.append(Gallery(title, [_picture(pictures, row) for row in rows], pictures.wide))
            shown |= {str(row["id"]) for row in rows}
    blocks += _failures(facts, pictures, failed, shown)
    return Section("gallery", "Cases", blocks)


def _failures(
    facts: Facts, pictures: CasePictures, failed: Mapping[str, Sequence[Row]], shown: set[str]
) -> list[Block]:
    every = [row for rows in failed.values() for row in rows]
    again = sum(str(row["id"]) in shown for row in every)
    rule = (
        f"A failure is a case with a {facts.target} where nothing was marked, a case without one where anything was "
        f"marked, or a Dice below {FAILED_BELOW}."
    )
    if not every:
        return [Text(f"{rule} There is none.")]
    above = f"; {again} of them {'is' if again == 1 else 'are'} shown above and not repeated" if again else ""
    if again == len(every):
        above = ", shown above" if again == 1 else ", all shown above"
    blocks: list[Block] = [Text(f"{rule} There {'is' if len(every) == 1 else 'are'} {len(every):,}{above}.")]
    left_out: list[str] = []
    for title, rows in failed.items():
        drawn = []
        for row in rows:
            if str(row["id"]) in shown:
                continue
            if pictures.count >= MOST_PICTURES or pictures.size >= MOST_BYTES:
                left_out.append(str(row["id"]))
            else:
                drawn.append(_picture(pictures, row))
        if drawn:
            blocks.append(Gallery(f"Failures: {title}", drawn, pictures.wide))
    if left_out:
        blocks.append(
            Text(
                f"{counted(len(left_out), 'failure')} {'is' if len(left_out) == 1 else 'are'} not shown: this page "
                f"holds at most {MOST_PICTURES} pictures and {MOST_BYTES // 1_000_000} MB of them. All overlays are in "
                "the folder overlays of the run, their numbers in oof.csv."
            )
        )
        blocks.append(Listing(left_out, label="The failures that are not shown"))
    return blocks


def _middle(ranked: Sequence[Row], count: int) -> Sequence[Row]:
    start = max(0, (len(ranked) - count) // 2)
    return ranked[start : start + count]


def _picture(pictures: CasePictures, row: Row) -> Picture:
    source, missing = pictures.overlay(row)
    name = str(row["id"])
    numbers = f"Dice {number(row['dice'])}, IoU {number(row.get('iou'))}"
    labels = [f"{name} {number(row[label_column('dice', name)])}" for name in label_names([row])]
    place = [f"fold {row['fold']}" if "fold" in row else "", str(row.get("site") or "")]
    fraction = row.get("truth_fraction")
    if isinstance(fraction, (int, float)):
        place.append(f"lesion {100 * fraction:.1f}% of the image" if fraction > 0 else "no lesion")
    if row.get("pred_px") == 0:
        place.append("nothing marked")
    alt = (
        f"No picture of {name}: {missing}." if missing else f"{name} with predicted and reference outlines; {numbers}."
    )
    lines = [
        numbers,
        f"Dice of {', '.join(labels[:MOST_LABELS])}" if len(labels) > 1 else "",
        " · ".join(filter(None, place)),
    ]
    return Picture(source, alt, name, [line for line in lines if line])


def _wrong(facts: Facts) -> Section:
    """A classified case has no picture that would say much; those that are most wrong are worth looking up."""
    wrong = sorted(
        (row for row in facts.first_rows if row["prediction"] != row["label"]),
        key=lambda row: (-abs(row["score"] - row["label"]), str(row["id"])),
    )
    text = (
        f"{counted(len(wrong), facts.noun)} of {len(facts.first_rows):,} {'is' if len(wrong) == 1 else 'are'} on the "
        "wrong side of the threshold. Those whose score is farthest from their label come first: look for wrong "
        "labels, poor recordings or an unusual course."
    )
    header = ["Case", "Site", "Label", "Score", "Threshold", "Fold"]
    rows = [
        [
            str(row["id"]),
            str(row.get("site") or "–"),
            number(row["label"], 0),
            number(row["score"]),
            number(row.get("threshold"), 2),
            str(row.get("fold", "–")),
        ]
        for row in wrong[:WRONG_SHOWN]
    ]
    caption = "Wrong with most confidence" + (
        f": the first {WRONG_SHOWN} of {len(wrong):,}; oof.csv has all" if len(wrong) > WRONG_SHOWN else ""
    )
    blocks: list[Block] = [Text(text), *([Table(caption, header, rows, text_columns=2)] if rows else [])]
    return Section("gallery", "Cases", blocks)
