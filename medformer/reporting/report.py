"""Puts the sections together into one offline HTML file, and writes the model card."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from medformer.files import write_text
from medformer.reporting.finished_run import FinishedRun, read_finished_run
from medformer.reporting.model_card import build_model_card
from medformer.reporting.sections import SECTIONS, Facts, checks_of, facts_of
from medformer.reporting.wording import html_templates, render, source


def build_report(run_dir: Path) -> Path:
    """Write report.html and model_card.md from the run's files alone.

    Nothing in them depends on when they are built, so building again gives the same bytes.

    Args:
        run_dir: A run folder with oof.csv and metrics.json.

    Returns:
        The path of report.html.

    Raises:
        ConfigError: Not a run folder.
        DataError: Missing or damaged files.
    """
    run = read_finished_run(run_dir)
    facts = facts_of(run)
    write_text(run.folder.report_html, render_report(run, facts))
    write_text(run.folder.model_card_md, build_model_card(run, facts))
    return run.folder.report_html


def render_report(run: FinishedRun, facts: Mapping[str, Facts]) -> str:
    """Return the report as HTML."""
    templates = html_templates()
    script = source(templates, "report.js")
    finished = str(run.session.get("finished") or run.session.get("started") or "")
    sections = {
        section: render_section(section.key, run, facts, templates) for section in SECTIONS if section.key in facts
    }
    return templates.get_template("report.html.j2").render(
        title=f"{str(run.record.get('task', '')).capitalize()} report: {run.folder.path.resolve().name}",
        version=run.session.get("versions", {}).get("medformer", ""),
        when=f"{finished[:10]} {finished[11:16]} UTC" if finished else "time unknown",
        style=source(templates, "report.css"),
        script=script,
        script_sha256=b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii"),
        sections=sections,
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
    more = {"checks": checks_of(run, facts, templates)} if key == "summary" else {}
    return render(templates, f"sections/{key}.html.j2", facts[key], run=run, **more)
