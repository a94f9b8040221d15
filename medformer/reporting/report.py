"""Puts the sections together into one offline HTML file, and writes it beside the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medformer.files import write_text
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.model_card import build_model_card
from medformer.reporting.page import render_page
from medformer.reporting.paper.checklist import checklist_facts
from medformer.reporting.paper.statements import statements_of
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.sections import SECTIONS, Facts, checks_of, facts_of
from medformer.reporting.sharing import shared_run
from medformer.reporting.wording import html_templates, render


def build_report(run_dir: Path, *, share: bool = False) -> Path:
    """Write report.html and model_card.md from the run's files alone.

    Nothing in them depends on when they are built, so building again gives the same bytes.

    Args:
        run_dir: A run folder with oof.csv and metrics.json.
        share: Write report_share.html and model_card_share.md instead, without names and pictures of cases.

    Returns:
        The path of the report.

    Raises:
        ConfigError: Not a run folder.
        DataError: Missing or damaged files.
    """
    run = read_finished_run(run_dir)
    report, card = run.folder.report_html, run.folder.model_card_md
    if share:
        run, report, card = shared_run(run), run.folder.report_share_html, run.folder.model_card_share_md
    facts = facts_of(run)
    write_text(report, render_report(run, facts))
    write_text(card, build_model_card(run, facts))
    return report


def render_report(run: FinishedRun, facts: Mapping[str, Facts]) -> str:
    """Return the report as HTML."""
    templates = html_templates()
    finished = str(run.session.get("finished") or run.session.get("started") or "")
    sections = {
        section: render_section(section.key, run, facts, templates) for section in SECTIONS if section.key in facts
    }
    return render_page(
        ": ".join(filter(None, [f"{str(run.record.get('task', '')).capitalize()} report", run.name])),
        sections,
        shared=run.shared,
        version=run.session.get("versions", {}).get("medformer", ""),
        when=f"{finished[:10]} {finished[11:16]} UTC" if finished else "time unknown",
    )


def render_section(
    key: str, run: FinishedRun, facts: Mapping[str, Facts], templates: Environment | None = None
) -> Markup:
    """Return one section as HTML.

    Args:
        key: Of the section; it must be in `facts`.
        run: The run.
        facts: Of all sections that apply.
        templates: Those of HTML; read again unless given.
    """
    templates = templates or html_templates()
    more: dict[str, Any] = {}
    if key == "summary":
        more = {"checks": checks_of(run, facts, templates)}
    elif key == "checklist":
        more = checklist_facts(run, statements_of(run, facts, templates))
    return render(templates, f"sections/{key}.html.j2", facts[key], run=run, **more)
