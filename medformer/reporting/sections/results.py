"""The headline numbers, the metrics per fold, per repeat, per subgroup and pooled, and how to run it again."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping
from typing import Any

from medformer.reporting.figures.intervals import forest
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import FAILED_BELOW, estimate, failures, result_columns, value, written
from medformer.reporting.wording import absolute_paths, interval, number, without_folders

FEW_GROUPS = 10
_HEADLINES = ("auc", "balanced_accuracy", "sensitivity", "specificity")


def summary(run: FinishedRun) -> dict[str, Any]:
    """Collect the headline numbers, and what a reader must know before trusting them."""
    model = run.config.get("model", {})
    name = str(model.get("name") or "A model")
    # The name of a reference network contains its encoder; our backbone key is not used then.
    backbone = "" if ":" in name else model.get("backbone") or ""
    return {
        "model": name,
        "backbone": backbone,
        "auc": value(run.pooled, "auc"),
        "mean_iou": value(run.pooled, "iou"),
        "headlines": [
            {"label": run.metric_table[name].title, **written(run, run.pooled, name)}
            for name in (_HEADLINES if run.classification else ())
        ],
        "failed": 0 if run.classification else sum(map(len, failures(run.first_rows).values())),
        "failed_below": FAILED_BELOW,
        "few_groups": FEW_GROUPS,
        "spread": left_out_spread(run),
        "threshold": _threshold(run),
    }


def left_out_spread(run: FinishedRun) -> dict[str, Any]:
    """Describe how the primary metric differs between the values that were left out; empty in other schemes."""
    parts = run.metrics.get("by_fold") or {}
    found = {name: value(parts[fold], run.primary.name) for fold, name in run.left_out_values.items() if fold in parts}
    known = {name: score for name, score in found.items() if math.isfinite(score)}
    if len(known) < 2:
        return {}
    digits, scores = run.primary.digits, list(known.values())
    lowest, highest = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return {
        "parts": len(known),
        "undefined": len(found) - len(known),
        "lowest": {"name": lowest, "value": number(known[lowest], digits)},
        "highest": {"name": highest, "value": number(known[highest], digits)},
        "mean": number(statistics.fmean(scores), digits),
        "sd": number(statistics.stdev(scores), digits),
    }


def _threshold(run: FinishedRun) -> str:
    """Say where the thresholds of decisions are from."""
    if not run.decisions:
        return "the recorded threshold"
    learned = [record.get("learned", record.get("from") != "config") for record in run.decisions.values()]
    if all(learned):
        return "a threshold learned on inner validation cases"
    if any(learned):
        return "a threshold learned on inner validation cases where they sufficed, and 0.5 elsewhere"
    fixed = {number(record["threshold"], 2) for record in run.decisions.values()}
    return f"the fixed threshold {', '.join(sorted(fixed))}"


def reproduce(run: FinishedRun) -> dict[str, Any]:
    """Quote the recorded commands, and the one that builds the report again."""
    commands = [[str(word) for word in session.get("command", [])] for session in run.record.get("sessions", [])]
    recorded = [shlex.join(without_folders(word, absolute_paths(word)) for word in command) for command in commands]
    return {
        "commands": "\n".join(dict.fromkeys(filter(None, recorded))),
        "rebuild": f"medformer report {shlex.quote(run.name or 'RUN')}",
    }


def setup(run: FinishedRun) -> dict[str, Any]:
    """Quote the config without folders."""
    return {"config_text": without_folders(run.config_text, absolute_paths(run.config))}


SUBGROUPS = {"site": "Site", "size": "Lesion size", "sex": "Sex", "age": "Age"}
_SPREAD = {"Mean": "mean", "SD": "sd", "Median": "median", "Lower quartile": "q1", "Upper quartile": "q3"}


def results(run: FinishedRun) -> dict[str, Any]:
    """Collect the metrics of each part of the run, and what they mean."""
    parts = {}
    for column, title in {"repeat": "Repeat", "fold": "Fold"}.items():
        blocks = run.metrics.get(f"by_{column}") or {}
        if len(blocks) > 1:
            rows = [_part(run, title, name, block, column) for name, block in blocks.items()]
            parts[column] = {"rows": rows, "total": _part(run, title, "All", run.pooled, column)}
    described = run.definitions.get("metrics", {}) | {name: run.definitions.get(name) for name in ("max_e", "mean_e")}
    return {
        "parts": parts,
        "pooled": _values(run) if run.classification else _means(run),
        "meanings": {run.title(name): meaning for name, meaning in described.items() if meaning},
        "empty_policy": run.metrics.get("empty_policy", ""),
    }


def _part(run: FinishedRun, title: str, name: str, block: Mapping[str, Any], column: str) -> dict[str, Any]:
    left_out = run.left_out_values.get(name) if column == "fold" else None
    if column == "fold" and run.left_out:
        title = f"{title} ({run.left_out} left out)"
    cells = {title: f"{name} ({left_out})" if left_out else name, **result_columns(run, block)}
    if run.thresholded:
        rows = run.rows if block is run.pooled else [row for row in run.rows if str(row.get(column)) == name]
        found = {row["threshold"] for row in rows if "threshold" in row}
        cells["Threshold"] = number(found.pop(), 2) if len(found) == 1 else "per fold"
    return cells


def _means(run: FinishedRun) -> list[dict[str, Any]]:
    cases = f"{run.noun.capitalize()}s"
    rows: list[dict[str, Any]] = []
    for name, summary in run.pooled["metrics"].items():
        digits = run.metric_table[name].digits
        spread = {title: number(summary.get(key), digits) for title, key in _SPREAD.items()}
        last = {"95% interval of the mean": interval(summary, digits)}
        rows.append({"Metric": run.title(name), cases: summary.get("n"), **spread, **last})
    for name in ("max_e", "mean_e"):
        if name in run.pooled:
            rows.append({"Metric": run.title(name), cases: run.pooled["n"], "Mean": number(run.pooled[name])})
    return rows


def _values(run: FinishedRun) -> list[dict[str, str]]:
    rows = []
    for name in run.pooled["metrics"]:
        found = written(run, run.pooled, name)
        rows.append({"Metric": run.title(name), "Value": found["value"], "95% interval": found["interval"]})
    return rows


def has_subgroups(run: FinishedRun) -> bool:
    """Whether metrics.json has numbers of any subgroup."""
    return any(len(parts) > 1 for _, _, parts in subgroup_parts(run))


def subgroup_parts(run: FinishedRun) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Key, title and parts of every way to split the cases: those of every run, then the columns that the run names."""
    usual = [(column, title, run.metrics.get(f"by_{column}") or {}) for column, title in SUBGROUPS.items()]
    named: Mapping[str, Any] = run.metrics.get("by_covariate") or {}
    return [*usual, *((f"covariate-{number}", name, parts) for number, (name, parts) in enumerate(named.items()))]


def subgroups(run: FinishedRun) -> dict[str, Any]:
    """Collect and draw the metrics of each subgroup, sites first."""
    found = {}
    for column, title, parts in subgroup_parts(run):
        if len(parts) < 2:
            # A single part is the whole, which has its own table.
            continue
        estimates = {name: estimate(part, run.primary.name) for name, part in parts.items()}
        drawn = {name: numbers for name, numbers in estimates.items() if math.isfinite(numbers[0])}
        meanings = run.definitions.get("covariate" if column.startswith("covariate") else column)
        found[column] = {
            "title": title,
            "rows": [{title: name, **result_columns(run, part)} for name, part in parts.items()],
            "drawn": [{"name": name, **written(run, parts[name], run.primary.name)} for name in drawn],
            "svg": _forest(run, column, {f"{name} (n = {parts[name]['n']})": drawn[name] for name in drawn}),
            "meanings": {name: meanings[name] for name in parts if name in meanings}
            if isinstance(meanings, Mapping)
            else {},
            "meaning": meanings
            if isinstance(meanings, str) and ("unknown" in parts or column.startswith("covariate"))
            else "",
            "few": [name for name, part in parts.items() if part["groups"] < FEW_GROUPS],
        }
    return {"subgroups": found, "whole": written(run, run.pooled, run.primary.name)["value"], "few_groups": FEW_GROUPS}


def _forest(run: FinishedRun, column: str, estimates: Mapping[str, tuple[float, float, float]]) -> str:
    if len(estimates) < 2:
        return ""
    rows = [(name, *numbers) for name, numbers in estimates.items()]
    reference, _, _ = estimate(run.pooled, run.primary.name)
    return forest(f"by-{column}", rows, xlabel=run.primary.phrase, reference=reference)
