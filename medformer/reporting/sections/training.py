"""How training went: where it started, what masked pretraining learned, and the learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medformer.evaluation.metrics import Metric, validation_metric_of
from medformer.reporting.figures.charts import Line, curves
from medformer.reporting.figures.intervals import forest
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import number, percent

LOSS = "train_loss"


REFERENCES = ("mean_edge_mse", "mean_visible_mse")
"""Errors of a prediction without learning; pretraining.json has one of them."""

UNITS = ("subjects", "patches", "frames")
"""What was reconstructed: the key of their number in pretraining.json."""


def start(run: FinishedRun) -> dict[str, Any]:
    """Say which network of another run each fold started from, and what of it was taken."""
    first = next(iter(run.starts.values()))
    rows = [
        {
            "fold": str(index),
            "taken": found["taken"],
            "adapted": len(found["adapted"]),
            "left": len(found["left"]),
            "share": percent(float(found["share"]), 1),
        }
        for index, found in run.starts.items()
    ]
    names = {
        title: [{"tensor": name, "why": str(why)} for name, why in first[key].items()]
        for key, title in (("adapted", "Adapted"), ("left", "Left at their first values"))
    }
    return {
        "what": ", ".join(dict.fromkeys(str(found["what"]) for found in run.starts.values())),
        "rows": rows,
        "names": {title: found for title, found in names.items() if found},
        "differing": list(dict.fromkeys(str(text) for found in run.starts.values() for text in found["differing"])),
    }


def wide(run: FinishedRun) -> dict[str, Any]:
    """Say which simple models stand beside the networks, and in how many folds a network is added."""
    networks = [(str(index), one) for index, found in run.gates.items() for one in found["networks"]]
    return {
        "level": "info",
        "connections": bool(run.cohort),
        "networks": len(networks),
        "used": sum(one["value"] > 0 for _, one in networks),
        "rows": [
            {
                "fold": index,
                "sees": one["sees"],
                "gate": number(one["value"]),
                "tried": number(one["best"]),
                "gain": number(one["gain"], 4),
                "error": number(one["error"], 4),
            }
            for index, one in networks
        ],
    }


def has_pretraining(run: FinishedRun) -> bool:
    """Whether the folds left records of pretraining that can be compared with a reference."""
    return _reference(run) is not None


def pretraining(run: FinishedRun) -> dict[str, Any]:
    """Compare the reconstruction error per fold with that of a prediction without learning."""
    reference, records = _reference(run), run.pretraining
    assert reference is not None
    atlases = list(dict.fromkeys(atlas for record in records.values() for atlas in record.get("atlases", {})))
    pooled = _pool(list(records.values()), reference, atlases)
    explained = {f"fold {index}": _explained(record, reference) for index, record in records.items()}
    rows = [(fold, max(0.0, share), math.nan, math.nan) for fold, share in explained.items()]
    whole = _explained(pooled, reference)
    settings = run.config.get("pretraining", {})
    return {
        "reference": reference,
        "units": _units(next(iter(records.values()))),
        "masked": settings.get("mask"),
        "ratio": settings.get("ratio"),
        "records": [_cells(str(index), record, reference) for index, record in records.items()],
        "total": _cells("All", pooled, reference) if len(records) > 1 else None,
        "atlases": atlases if len(atlases) > 1 else [],
        "worse": sum(share <= 0 for share in explained.values()),
        "explained": explained,
        "whole": whole,
        "svg": forest("pretraining", rows, xlabel="explained share", reference=max(0.0, whole)),
    }


def _reference(run: FinishedRun) -> str | None:
    records = run.pretraining.values()
    return next((key for key in REFERENCES if records and all(key in record for record in records)), None)


def _units(record: Mapping[str, Any]) -> str:
    return next((unit for unit in UNITS if unit in record), UNITS[0])


def _explained(record: Mapping[str, Any], reference: str) -> float:
    """1 - error / error of the reference; 0 where the reference has no error."""
    error = float(record[reference])
    return 1 - float(record["masked_mse"]) / error if error > 0 else 0.0


def _cells(name: str, record: Mapping[str, Any], reference: str) -> dict[str, Any]:
    parts = record.get("atlases", {})
    return {
        "fold": name,
        "units": record.get(_units(record)),
        "error": number(float(record["masked_mse"]), 4),
        "error_of_reference": number(float(record[reference]), 4),
        "explained": percent(_explained(record, reference), 1),
        **{f"explained {atlas}": percent(_explained(part, reference), 1) for atlas, part in parts.items()},
    }


def _pool(records: Sequence[Mapping[str, Any]], reference: str, atlases: Sequence[str]) -> dict[str, Any]:
    """Mean errors over what was hidden in all folds."""

    def mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        weights = [float(part.get("hidden") or 1) for part in parts]
        return {
            key: sum(weight * float(part[key]) for weight, part in zip(weights, parts, strict=True)) / sum(weights)
            for key in ("masked_mse", reference)
        }

    units = _units(records[0])
    parts = {
        atlas: mean([record["atlases"][atlas] for record in records if atlas in record.get("atlases", {})])
        for atlas in atlases
    }
    return {**mean(records), units: sum(int(record.get(units) or 0) for record in records), "atlases": parts}


def has_curves(run: FinishedRun) -> bool:
    """Whether any fold recorded a loss or a score of its inner validation part."""
    return bool(_panels(run, validated(run)))


def learning(run: FinishedRun) -> dict[str, Any]:
    """Describe and draw the loss and the inner-validation score per epoch of every fold."""
    metric = validated(run)
    panels = _panels(run, metric)
    rows = []
    for index, history in run.histories.items():
        losses, scores = (
            _finite(history.get(LOSS, ())),
            _finite(history.get(metric.validation_column, ())) if metric else [],
        )
        best = metric.best(scores) if metric and scores else None
        rows.append(
            {
                "fold": str(index),
                "epochs": max(len(scores), len(losses)),
                "loss": losses[-1] if losses else None,
                "best": best,
                "best_epoch": None if best is None else 1 + scores.index(best),
                "minutes": number(sum(_finite(history.get("seconds", ()))) / 60, 1),
            }
        )
    return {
        "panels": list(panels),
        "metric": metric,
        "folds": rows,
        "svg": curves("learning", panels, xlabel="epoch"),
    }


def validated(run: FinishedRun) -> Metric | None:
    """The metric that the learning curves have of the inner validation part; None without one."""
    return validation_metric_of(dict.fromkeys(column for history in run.histories.values() for column in history))


def _panels(run: FinishedRun, metric: Metric | None) -> dict[str, dict[str, Line]]:
    titles = {LOSS: "Training loss"}
    if metric:
        titles[metric.validation_column] = f"{metric.title} on the inner validation part"
    panels: dict[str, dict[str, Line]] = {}
    for column, title in titles.items():
        for index, history in run.histories.items():
            pairs = zip(history.get("epoch", ()), history.get(column, ()), strict=False)
            points = [(epoch, value) for epoch, value in pairs if math.isfinite(value)]
            if points:
                line = [epoch for epoch, _ in points], [value for _, value in points]
                panels.setdefault(title, {})[f"fold {index}"] = line
    return panels


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
