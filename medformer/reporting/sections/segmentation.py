"""For a segmentation: how scores are spread over cases, which lesions were found, and false alarms.

For label maps of volumes also: how well each label is found, and whether predicted volumes agree with measured ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from medformer.evaluation.masks.volumes import label_column
from medformer.reporting.figures.charts import histogram
from medformer.reporting.figures.intervals import AgreementPanel, bland_altman, forest
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import estimate, summary_of, value, written
from medformer.reporting.wording import between, interval, label_title, number, percent, signed, thousands

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


MOST_PANELS = 9


def labels(run: FinishedRun) -> dict[str, Any]:
    """Collect the metrics of each label, and draw Dice."""
    rows = []
    for name, part in run.labels.items():
        dice, volume = written(run, part, "dice"), part["volume"]
        rows.append(
            {
                "label": label_title(name),
                "present": part["present"],
                "dice": dice["value"],
                "interval": dice["interval"],
                "median_dice": summary_of(part, "dice").get("median"),
                "hd95": number(summary_of(part, "hd95_mm").get("median"), run.metric_table["hd95_mm"].digits),
                "nsd": value(part, "nsd_mm"),
                "bias": signed(volume["agreement"]["bias"]["value"], digits(volume)),
                "missed": part["missed"],
                "false_alarms": part["false_alarms"],
            }
        )
    drawn = [(label_title(name), *estimate(part, "dice")) for name, part in run.labels.items()]
    drawn = [row for row in drawn if math.isfinite(row[1])]
    whole = value(run.pooled, "dice")
    return {
        "rows": rows,
        "tolerance": run.metrics.get("nsd_tolerance", {}).get("mm"),
        "whole": whole,
        "svg": forest("by-label", drawn, xlabel=run.primary.phrase, reference=whole) if len(drawn) > 1 else "",
    }


def compared_labels(run: FinishedRun) -> dict[str, Any]:
    """The volumes of each label for which predicted and reference volumes were compared."""
    return {name: part["volume"] for name, part in run.labels.items() if part["volume"]["agreement"]["n"]}


def agreement(run: FinishedRun) -> dict[str, Any]:
    """Describe and draw how predicted and reference volumes differ."""
    compared = compared_labels(run)
    shown = list(compared)[:MOST_PANELS]
    panels = [_panel(run, name, compared[name]["agreement"]) for name in shown]
    rows = [_cells(name, volume) for name, volume in compared.items()]
    return {
        "rows": rows,
        "drawn": rows[: len(shown)],
        "not_drawn": len(compared) - len(shown),
        "svg": bland_altman("agreement", panels),
    }


def digits(volume: Mapping[str, Any]) -> int:
    """Decimals of milliliters that are worth printing beside a mean volume of this size."""
    mean = volume["truth_ml"]["mean"]
    if not isinstance(mean, (int, float)) or not math.isfinite(mean) or mean <= 0:
        return 3
    return min(4, max(0, 2 - math.floor(math.log10(mean / 3))))


def _panel(run: FinishedRun, name: str, found: Mapping[str, Any]) -> AgreementPanel:
    truth, predicted = (
        np.array([row[label_column(column, name)] for row in run.rows], np.float64)
        for column in ("truth_ml", "pred_ml")
    )
    kept = (np.maximum(truth, predicted) > 0) & np.isfinite(truth) & np.isfinite(predicted)
    lower, bias, upper = (
        [math.nan if found[key][end] is None else float(found[key][end]) for end in ("value", "low", "high")]
        for key in ("lower", "bias", "upper")
    )
    return AgreementPanel(
        title=label_title(name),
        means=((truth + predicted) / 2)[kept].tolist(),
        differences=(predicted - truth)[kept].tolist(),
        bias=bias[0],
        limits=(lower[0], upper[0]),
        spans=[(low, high) for _, low, high in (lower, bias, upper)],
    )


def _cells(name: str, volume: Mapping[str, Any]) -> dict[str, Any]:
    found, places, relative = volume["agreement"], digits(volume), volume["relative_error"]
    lower, upper = (found[key]["value"] for key in ("lower", "upper"))
    return {
        "label": label_title(name),
        "compared": found["n"],
        "reference": number(volume["truth_ml"]["mean"], places),
        "predicted": number(volume["pred_ml"]["mean"], places),
        "bias": signed(found["bias"]["value"], places),
        "interval": interval(found["bias"], places),
        "limits": between(lower, upper, places, signed=True),
        "relative_error": percent(relative["mean"], 1, signed=True),
        "relative_sd": percent(relative["sd"], 1),
    }
