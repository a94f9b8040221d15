"""Whether predicted volumes can stand for measured ones: bias and limits of agreement of each label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from medformer.evaluation.masks.volumes import label_column
from medformer.reporting.blocks import Block, Figure, Section, Table, Text, counted, interval, number, signed
from medformer.reporting.facts import Facts
from medformer.reporting.figures.agreement import AgreementPanel, bland_altman

MOST_PANELS = 9


def build(facts: Facts) -> Section | None:
    """Draw and tabulate how predicted and reference volumes differ."""
    compared = {name: part["volume"] for name, part in facts.labels.items() if part["volume"]["agreement"]["n"]}
    if not compared:
        return None
    blocks: list[Block] = [
        Text(
            "A volume that is measured from a predicted label map is off by the bias on average, and in 95 of 100 "
            "cases by something between the limits of agreement. Whether that is good enough depends on how small a "
            "difference matters to the reader, not on a p-value."
        ),
        _figure(facts, compared),
        _table(compared),
    ]
    rule = facts.metrics.get("definitions", {}).get("agreement")
    if isinstance(rule, str):
        blocks.append(Text(f"How it is computed: {rule}."))
    return Section("agreement", "Volume agreement", blocks)


def digits(volume: Mapping[str, Any]) -> int:
    """Decimals of milliliters that are worth printing beside a mean volume of this size."""
    mean = volume["truth_ml"]["mean"]
    if not isinstance(mean, (int, float)) or not math.isfinite(mean) or mean <= 0:
        return 3
    return min(4, max(0, 2 - math.floor(math.log10(mean / 3))))


def _figure(facts: Facts, compared: Mapping[str, Any]) -> Figure:
    panels = []
    for name, volume in list(compared.items())[:MOST_PANELS]:
        truth, marked = (
            np.array([row[label_column(column, name)] for row in facts.rows], np.float64)
            for column in ("truth_ml", "pred_ml")
        )
        kept = (np.maximum(truth, marked) > 0) & np.isfinite(truth) & np.isfinite(marked)
        found = volume["agreement"]
        ends = [_known(found[key]) for key in ("lower", "bias", "upper")]
        panels.append(
            AgreementPanel(
                name,
                ((truth + marked) / 2)[kept].tolist(),
                (marked - truth)[kept].tolist(),
                bias=ends[1][0],
                limits=(ends[0][0], ends[2][0]),
                spans=[end[1:] for end in ends],
            )
        )
    said = "; ".join(
        f"{name} bias {signed(volume['agreement']['bias']['value'], digits(volume))} ml, limits "
        f"{number(volume['agreement']['lower']['value'], digits(volume))} to "
        f"{number(volume['agreement']['upper']['value'], digits(volume))} ml"
        for name, volume in list(compared.items())[:MOST_PANELS]
    )
    more = len(compared) - len(panels)
    caption = (
        f"Each dot is a {facts.noun}: how much larger it is predicted than the reference says, against its size. Solid "
        "line: bias; dashed lines: limits of agreement; bars at the right: their 95% intervals. A trend from left to "
        "right means that the error depends on the size."
    )
    if more:
        caption += f" {counted(more, 'more label')} {'is' if more == 1 else 'are'} in the table alone."
    return Figure(bland_altman("agreement", panels), f"Bland-Altman plots: {said}.", caption)


def _table(compared: Mapping[str, Any]) -> Table:
    rows = []
    for name, volume in compared.items():
        found, places = volume["agreement"], digits(volume)
        relative = volume["relative_error"]
        rows.append(
            [
                name,
                number(found["n"]),
                number(volume["truth_ml"]["mean"], places),
                number(volume["pred_ml"]["mean"], places),
                signed(found["bias"]["value"], places),
                interval(found["bias"], places),
                _limits(found, places),
                f"{signed(_percent(relative['mean']), 1)}%" if number(relative["mean"]) != "–" else "–",
                f"{number(_percent(relative['sd']), 1)}%" if number(relative["sd"]) != "–" else "–",
            ]
        )
    header = [
        "Label",
        "Compared",
        "Mean reference (ml)",
        "Mean predicted (ml)",
        "Bias (ml)",
        "95% interval",
        "Limits of agreement (ml)",
        "Mean relative error",
        "SD of it",
    ]
    return Table("Predicted against reference volumes", header, rows)


def _limits(found: Mapping[str, Any], places: int) -> str:
    if number(found["lower"]["value"]) == "–":
        return "–"
    return f"{signed(found['lower']['value'], places)} to {signed(found['upper']['value'], places)}"


def _percent(share: float) -> float:
    return 100 * share


def _known(entry: Mapping[str, Any]) -> tuple[float, float, float]:
    value, low, high = (float("nan") if entry[key] is None else float(entry[key]) for key in ("value", "low", "high"))
    return value, low, high
