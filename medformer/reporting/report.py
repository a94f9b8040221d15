"""Puts the sections together into one offline HTML file."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from medformer.files import write_text
from medformer.reporting.facts import Facts, read_facts
from medformer.reporting.model_card import build_model_card
from medformer.reporting.sections import SECTIONS
from medformer.reporting.sections.limits import RESEARCH_ONLY


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
    facts = read_facts(run_dir)
    write_text(facts.run.report_html, render(facts))
    write_text(facts.run.model_card_md, build_model_card(facts))
    return facts.run.report_html


def render(facts: Facts) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=PackageLoader("medformer.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    sections = [section for build in SECTIONS if (section := build(facts)) is not None]
    finished = str(facts.session.get("finished") or facts.session.get("started") or "")
    when = f"{finished[:10]} {finished[11:16]} UTC" if finished else "time unknown"
    return environment.get_template("report.html.j2").render(
        title=f"{str(facts.record.get('task', '')).capitalize()} report: {facts.run.path.resolve().name}",
        subtitle=f"medformer {facts.session.get('versions', {}).get('medformer', '')} · {when}",
        style=style,
        script=script,
        script_sha256=b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii"),
        sections=sections,
        research_only=RESEARCH_ONLY,
    )
