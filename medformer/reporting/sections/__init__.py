"""The table of the report's sections, in reading order.

A section has three parts: a row in `SECTIONS`; a facts function in this folder, which is named like the key of the
section and returns what is true of the run, as plain data; and a template with its words, tables and layout,
`reporting/templates/sections/<key>.html.j2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.sections import (
    attribution,
    checks,
    classification,
    cohort,
    decisions,
    gallery,
    memory,
    plans,
    results,
    segmentation,
    training,
)
from medformer.reporting.wording import render

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class ReportSection:
    """A part of the report with a heading and an entry in the contents.

    Attributes:
        key: Its id in the page and the name of its template.
        title: Its heading.
        facts: What is true of the run; the template sees these names, and `run`. Some templates need the run alone.
        applies: Whether a run has this section.
        is_check: The facts hold a `level` ("ok", "info", "warning"), and `templates/checks/<key>.j2` states the finding
            in one sentence, for the summary and the model card.
    """

    key: str
    title: str
    facts: Callable[[FinishedRun], Facts] = lambda run: {}
    applies: Callable[[FinishedRun], object] = lambda run: True
    is_check: bool = False


SECTIONS = (
    ReportSection("summary", "Summary", results.summary),
    ReportSection("results", "Results", results.results),
    ReportSection("ranking", "ROC, precision and calibration", classification.ranking, lambda run: run.classification),
    ReportSection("labels", "Labels", segmentation.labels, lambda run: run.labels),
    ReportSection("agreement", "Volume agreement", segmentation.agreement, segmentation.compared_labels),
    ReportSection("distribution", "Distribution of scores", segmentation.distribution, segmentation.has_scores),
    ReportSection("lesions", "Lesions and false alarms", segmentation.lesions, segmentation.has_lesions),
    ReportSection("subgroups", "Sites and subgroups", results.subgroups, results.has_subgroups),
    ReportSection("gallery", "Cases", gallery.gallery),
    ReportSection("memory", "What the memory retrieved", memory.memory, lambda run: run.recalls),
    ReportSection("audit", "Leakage audit", checks.audit, is_check=True),
    ReportSection(
        "baselines",
        "Comparison with baselines",
        checks.baselines,
        lambda run: run.baselines or run.failed_baselines,
        is_check=True,
    ),
    ReportSection("wide", "The simple model and the network", training.wide, lambda run: run.gates, is_check=True),
    ReportSection("canary", "Permuted labels", checks.canary, lambda run: run.canary, is_check=True),
    ReportSection("site-probe", "Site probe", checks.site_probe, lambda run: run.site_probe, is_check=True),
    ReportSection(
        "decisions", "Thresholds and calibration", decisions.decisions, decisions.has_decisions, is_check=True
    ),
    ReportSection("attribution", "What the scores rest on", attribution.attribution, lambda run: run.explanation),
    ReportSection("data", "The data", cohort.data),
    ReportSection("cohort", "The cohort", cohort.cohort, lambda run: run.cohort),
    ReportSection("plan", "Fold plan", plans.plan, lambda run: run.plan),
    ReportSection("volume-plan", "How volumes are prepared", plans.volume_plan, lambda run: run.volume_plans),
    ReportSection("start", "Where training started", training.start, lambda run: run.starts),
    ReportSection("pretraining", "Masked pretraining", training.pretraining, training.has_pretraining),
    ReportSection("learning", "Learning curves", training.learning, training.has_curves),
    ReportSection("setup", "How it was run", results.setup),
    ReportSection("reproduce", "Reproduce", results.reproduce),
    ReportSection("limits", "Known limits"),
    ReportSection("checklist", "Reporting checklist"),
)


def facts_of(run: FinishedRun, *, for_card: bool = False) -> dict[str, Facts]:
    """Collect the facts of every section that applies to a run, by the key of the section.

    Args:
        run: The run.
        for_card: Leave out the sections that the model card says nothing of, whose pictures take time.
    """
    wanted = [section for section in SECTIONS if section.key == "summary" or section.is_check or not for_card]
    return {section.key: section.facts(run) for section in wanted if section.applies(run)}


def checks_of(run: FinishedRun, facts: Mapping[str, Facts], templates: Environment) -> list[dict[str, str]]:
    """Return the findings of the checks: `key` and `title` of the section, `level`, and `finding` as a sentence."""
    return [
        {
            "key": section.key,
            "title": section.title,
            "level": facts[section.key]["level"],
            "finding": render(templates, f"checks/{section.key}.j2", facts[section.key], run=run),
        }
        for section in SECTIONS
        if section.is_check and section.key in facts
    ]
