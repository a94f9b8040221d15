"""The page of a folder that was scored: how well anybody's masks agree with the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import medformer
from medformer.crossval.run.directory import RunDirectory
from medformer.evaluation.masks.volumes import label_column
from medformer.files import write_text
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.page import Heading, render_page
from medformer.reporting.scores import FAILED_BELOW, failures
from medformer.reporting.sections import results, segmentation
from medformer.reporting.wording import html_templates, label_title, number, render

REPORT = "report.html"
MOST_CASES = 500
_MOST_LABELS = 8
_COLUMNS = ("dice", "iou", "sensitivity", "precision", "hd95_px", "hd95_mm", "nsd_mm", "mean_dice_256")

Facts = Callable[[FinishedRun], Mapping[str, Any]]

_SHARED: tuple[tuple[str, str, Facts, Callable[[FinishedRun], object]], ...] = (
    ("results", "Results", results.results, lambda run: True),
    ("labels", "Labels", segmentation.labels, lambda run: run.labels),
    ("agreement", "Volume agreement", segmentation.agreement, segmentation.compared_labels),
    ("distribution", "Distribution of scores", segmentation.distribution, segmentation.has_scores),
    ("lesions", "Lesions and false alarms", segmentation.lesions, segmentation.has_lesions),
    ("subgroups", "Sites and subgroups", results.subgroups, results.has_subgroups),
)
"""Sections that the report of a run has too."""


def write_evaluation(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    *,
    task: str,
    predictions: str,
    unpaired: Mapping[str, Sequence[str]],
) -> Path:
    """Write report.html beside the tables.

    Args:
        out: The folder.
        rows: One per case.
        summary: Of the rows.
        task: `polyp` or `volume`.
        predictions: What the predictions are called.
        unpaired: Names that were left out, by what they lack.

    Returns:
        Its path.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    path = Path(out) / REPORT
    write_text(path, render_evaluation(out, rows, summary, task=task, predictions=predictions, unpaired=unpaired))
    return path


def render_evaluation(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    *,
    task: str,
    predictions: str,
    unpaired: Mapping[str, Sequence[str]],
) -> str:
    """Return the page; see `write_evaluation`."""
    run = FinishedRun(RunDirectory(out), {"task": task}, "", summary, rows, None, None, {})
    templates = html_templates()
    facts: Mapping[str, Any] = {
        "failed": sum(map(len, failures(run.rows).values())),
        "failed_below": FAILED_BELOW,
        "few_groups": results.FEW_GROUPS,
        "resampled": summary.get("resampled", ""),
        "unpaired": unpaired,
        "each": run.groups == run.cases,
    }
    sections = {Heading("summary", "Summary"): render(templates, "evaluation/summary.html.j2", facts, run=run)}
    for key, title, of_run, applies in _SHARED:
        if applies(run):
            sections[Heading(key, title)] = render(templates, f"sections/{key}.html.j2", of_run(run), run=run)
    sections[Heading("cases", "Cases")] = render(templates, "evaluation/cases.html.j2", _cases(run), run=run)
    return render_page(
        f"Evaluation of {predictions}", sections, version=medformer.__version__, when=f"{run.cases} cases"
    )


def _cases(run: FinishedRun) -> dict[str, Any]:
    """The scores of each case, the lowest Dice first."""
    labels = list(run.labels) if len(run.labels) <= _MOST_LABELS else []
    shown = [name for name in _COLUMNS if any(name in row for row in run.rows)]
    grouped = any(row.get("group") not in (None, "", row["id"]) for row in run.rows)
    ordered = sorted(run.rows, key=lambda row: (math.isnan(row["dice"]), row["dice"], str(row["id"])))
    records = []
    for row in ordered[:MOST_CASES]:
        cells = {"Case": str(row["id"])}
        if grouped:
            cells["Group"] = str(row.get("group", ""))
        if run.sites:
            cells["Site"] = str(row.get("site", ""))
        for name in shown:
            cells[run.title(name)] = number(row.get(name), run.metric_table[name].digits)
        for label in labels:
            cells[f"Dice of {label_title(label)}"] = number(row.get(label_column("dice", label)))
        records.append(cells)
    text = 1 + grouped + bool(run.sites)
    return {"records": records, "text": text, "most": MOST_CASES}
