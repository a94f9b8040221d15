"""For a segmentation: how scores are spread over cases, which lesions were found, and false alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from medformer.reporting.figures.charts import histogram
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import interval, number, thousands

_NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def has_scores(run: FinishedRun) -> bool:
    """Whether any case has a Dice or a surface distance."""
    return not run.classification and any(_known(run, column) for column in ("dice", "hd95_px", "hd95_mm"))


def distribution(run: FinishedRun) -> dict[str, Any]:
    """Draw the histograms of Dice and of the surface distance: a mean can hide a tail of failures."""
    facts: dict[str, Any] = {"dice": None, "distances": []}
    dice = _known(run, "dice")
    if dice:
        marks = {"mean": float(np.mean(dice)), "median": float(np.median(dice))}
        facts["dice"] = {
            **marks,
            "cases": len(dice),
            "low": sum(score < 0.5 for score in dice),
            "high": sum(score >= 0.9 for score in dice),
            "svg": histogram("dice", dice, xlabel=f"Dice of one {run.noun}", ylabel=f"{run.noun}s", marks=marks),
        }
    for name in ("hd95_px", "hd95_mm"):
        known = _known(run, name)
        if not known or not all(name in row for row in run.first_rows):
            continue
        metric = run.metric_table[name]
        median, upper = (float(value) for value in np.percentile(known, [50, 75]))
        facts["distances"].append(
            {
                **{key: number(end, metric.digits) for key, end in (("median", median), ("upper", upper))},
                "largest": number(max(known), metric.digits),
                "unit": metric.unit,
                "cases": len(known),
                "without": len(run.first_rows) - len(known),
                "meaning": run.definitions.get("metrics", {}).get(name, ""),
                "svg": histogram(
                    name.replace("_", "-"),
                    known,
                    xlabel=f"HD95 of one {run.noun} ({metric.unit})",
                    ylabel=f"{run.noun}s",
                    marks={"median": median, "upper quartile": upper},
                    high=_nice(max(known)),
                    digits=metric.digits,
                ),
            }
        )
    return facts


def _known(run: FinishedRun, column: str) -> list[float]:
    return [float(row[column]) for row in run.first_rows if math.isfinite(row.get(column, math.nan))]


def _nice(value: float) -> float:
    """The end of an axis that holds `value`."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return power * next(step for step in _NICE if value <= power * step)


def has_lesions(run: FinishedRun) -> bool:
    """Whether lesions or cases without a lesion were counted."""
    return any(isinstance(run.pooled.get(key), Mapping) for key in ("lesions", "negatives"))


def lesions(run: FinishedRun) -> dict[str, Any]:
    """Collect detection per lesion, and what was marked on cases without one."""
    negatives = run.pooled.get("negatives")
    facts: dict[str, Any] = {"lesions": None, "negatives": None}
    if isinstance(run.pooled.get("lesions"), Mapping):
        rows = [
            {"part": f"{title}: {name}", **_detection(part)}
            for column, title in (("site", "Site"), ("size", "Lesion size"))
            for name, part in (run.metrics.get(f"by_{column}") or {}).items()
            if isinstance(part.get("lesions"), Mapping)
        ]
        total = {"part": "All", **_detection(run.pooled)}
        facts |= {"lesions": run.pooled["lesions"], "rows": rows or [total], "total": total if rows else None}
    if isinstance(negatives, Mapping):
        alarmed = negatives["images_with_false_positive"]
        facts |= {"negatives": negatives["n"], "alarmed": alarmed, "false_alarms": _false_alarms(run, negatives)}
    return facts


def _detection(part: Mapping[str, Any]) -> dict[str, Any]:
    found = part["lesions"]
    return {
        "lesions": thousands(found["true"]),
        "found": thousands(found["hit"]),
        "recall": found["recall"],
        "regions": thousands(found["predicted"]),
        "false_regions": thousands(found["predicted"] - found["hit"]),
        "precision": found["precision"],
        "f1": found["f1"],
        "interval": interval(found),
        "missed": part.get("missed"),
    }


def _false_alarms(run: FinishedRun, negatives: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name in ("fp_px", "fp_ml"):
        area, metric = negatives.get(name), run.metric_table[name]
        if isinstance(area, Mapping):
            spread = {key: number(area.get(key), metric.digits) for key in ("mean", "median", "q3")}
            rows.append({"what": metric.title, **spread, "interval": interval(area, metric.digits)})
    return rows
