"""Which segmented cases failed, by rules that need no eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

FAILED_BELOW = 0.1
"""Dice below this is a failure even where something was marked."""


def failures(rows: Sequence[Row], target: str = "lesion") -> dict[str, list[Row]]:
    """Sort failed cases by how they failed; within each kind the largest error comes first.

    Args:
        rows: Scored cases.
        target: What is segmented.
    """
    found: dict[str, list[Row]] = {
        f"nothing marked on a {target}": [],
        f"something marked where there is no {target}": [],
        f"Dice below {FAILED_BELOW}": [],
    }
    missed, false_alarm, off_target = found.values()
    for row in rows:
        truth, marked = row.get("truth_px"), row.get("pred_px")
        if truth and marked == 0:
            missed.append(row)
        elif truth == 0 and marked:
            false_alarm.append(row)
        elif truth != 0 and row["dice"] < FAILED_BELOW:
            off_target.append(row)
    missed.sort(key=lambda row: (-row["truth_px"], str(row["id"])))
    false_alarm.sort(key=lambda row: (-row["pred_px"], str(row["id"])))
    off_target.sort(key=lambda row: (row["dice"], str(row["id"])))
    return found
