"""For label maps of volumes: how well each label is found, and whether predicted volumes agree with measured ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from medformer.evaluation.masks.volumes import label_column
from medformer.reporting.figures.intervals import AgreementPanel, bland_altman, forest
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import estimate, summary_of, value, written
from medformer.reporting.wording import between, interval, number, percent, signed

MOST_PANELS = 9


def labels(run: FinishedRun) -> dict[str, Any]:
    """Collect the metrics of each label, and draw Dice."""
    rows = []
    for name, part in run.labels.items():
        dice, volume = written(run, part, "dice"), part["volume"]
        rows.append(
            {
                "label": name,
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
    drawn = [(name, *estimate(part, "dice")) for name, part in run.labels.items()]
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
        title=name,
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
        "label": name,
        "compared": found["n"],
        "reference": number(volume["truth_ml"]["mean"], places),
        "predicted": number(volume["pred_ml"]["mean"], places),
        "bias": signed(found["bias"]["value"], places),
        "interval": interval(found["bias"], places),
        "limits": between(lower, upper, places, signed=True),
        "relative_error": percent(relative["mean"], 1, signed=True),
        "relative_sd": percent(relative["sd"], 1),
    }
