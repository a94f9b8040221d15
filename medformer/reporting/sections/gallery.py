"""Best, median, worst and every failed case with both outlines; for a classification, the most confident errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medformer.evaluation.masks.volumes import label_column, label_names
from medformer.evaluation.table import Row
from medformer.missing import known
from medformer.reporting.figures.pictures import CasePictures
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import FAILED_BELOW, failures
from medformer.reporting.wording import label_title, number, percent

SHOWN = 3
WORST_SHOWN = 6
WRONG_SHOWN = 30
MOST_LABELS = 6

MOST_PICTURES = 200
MOST_BYTES = 9_000_000
"""Of all pictures together, so that the whole file stays below 15 MB and opens on any machine."""


def gallery(run: FinishedRun) -> dict[str, Any]:
    """Pick cases by their scores alone; draw those of a segmentation, and list those of a classification."""
    if run.classification:
        return _wrong(run)
    return _without_pictures(run) if run.shared else _pictures(run)


def _without_pictures(run: FinishedRun) -> dict[str, Any]:
    lowest = [
        {**row, "site": known(row.get("site")), "dice": number(row["dice"]), "iou": number(row.get("iou"))}
        for row in _ranked(run)[:WORST_SHOWN]
    ]
    kinds = {kind: len(rows) for kind, rows in failures(run.first_rows).items()}
    return {"lowest": lowest, "kinds": kinds, "failed_below": FAILED_BELOW}


def _ranked(run: FinishedRun) -> list[Row]:
    """The rows with a Dice, the lowest first."""
    rows = [row for row in run.first_rows if math.isfinite(row["dice"])]
    return sorted(rows, key=lambda row: (row["dice"], str(row["id"])))


def _pictures(run: FinishedRun) -> dict[str, Any]:
    ranked = _ranked(run)
    middle = max(0, (len(ranked) - SHOWN) // 2)
    failed = failures(run.first_rows)
    pictures = CasePictures(run)
    galleries = {
        "worst": [_picture(pictures, row) for row in ranked[:WORST_SHOWN]],
        "median": [_picture(pictures, row) for row in ranked[middle : middle + SHOWN]],
        "best": [_picture(pictures, row) for row in ranked[::-1][:SHOWN]],
    }
    shown = {picture["id"] for gallery in galleries.values() for picture in gallery}
    every = [str(row["id"]) for rows in failed.values() for row in rows]
    left_out = []
    for kind, rows in failed.items():
        galleries[kind] = []
        for row in rows:
            if str(row["id"]) in shown:
                continue
            if pictures.count >= MOST_PICTURES or pictures.size >= MOST_BYTES:
                left_out.append(str(row["id"]))
            else:
                galleries[kind].append(_picture(pictures, row))
    return {
        "galleries": {name: gallery for name, gallery in galleries.items() if gallery},
        "of_volumes": pictures.of_volumes,
        "planes": pictures.planes,
        "slices": pictures.slices,
        "failed": len(every),
        "failed_below": FAILED_BELOW,
        "already_shown": sum(name in shown for name in every),
        "left_out": left_out,
        "most_pictures": MOST_PICTURES,
        "most_megabytes": MOST_BYTES // 1_000_000,
    }


def _picture(pictures: CasePictures, row: Row) -> dict[str, Any]:
    source, missing = pictures.overlay(row)
    labels = [f"{label_title(name)} {number(row[label_column('dice', name)])}" for name in label_names([row])]
    fraction = row.get("truth_fraction")
    return {
        "id": str(row["id"]),
        "source": source,
        "missing": missing,
        "dice": number(row["dice"]),
        "iou": number(row.get("iou")),
        "labels": labels[:MOST_LABELS] if len(labels) > 1 else [],
        "more_labels": max(0, len(labels) - MOST_LABELS),
        "fold": row.get("fold"),
        "site": known(row.get("site")),
        "size": None if not isinstance(fraction, (int, float)) else percent(fraction, 1) if fraction > 0 else "",
        "nothing_marked": row.get("pred_px") == 0,
    }


def _wrong(run: FinishedRun) -> dict[str, Any]:
    wrong: Sequence[Row] = sorted(
        (row for row in run.first_rows if row["prediction"] != row["label"]),
        key=lambda row: (-abs(row["score"] - row["label"]), str(row["id"])),
    )
    rows = [
        {
            "id": str(row["id"]),
            "site": known(row.get("site")),
            "label": number(row["label"], 0),
            "score": row["score"],
            "threshold": number(row.get("threshold"), 2),
            "fold": row.get("fold"),
        }
        for row in wrong[:WRONG_SHOWN]
    ]
    return {"rows": rows, "wrong": len(wrong), "shown": WRONG_SHOWN}
