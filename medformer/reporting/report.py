"""Puts the sections together into one offline HTML file, and writes the model card: Markdown as model hubs read it."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment
from markupsafe import Markup

from medformer.files import write_text
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.scores import value, written
from medformer.reporting.sections import SECTIONS, Facts, checks_of, facts_of
from medformer.reporting.wording import html_templates, markdown_templates, render, source

FRONT = {"segmentation": ("dice", "iou"), "classification": ("auc", "balanced_accuracy", "sensitivity", "brier")}
"""The metrics of the front matter."""

_SETTINGS = ("epochs", "minutes", "batch_size", "lr", "precision")


def build_model_card(run: FinishedRun, facts: Mapping[str, Facts]) -> str:
    """Return the model card of a run (Mitchell et al., Model Cards for Model Reporting, 2019).

    The front matter is the one of the Hugging Face Hub (`ModelCardData` of huggingface_hub, model-index included).

    Args:
        run: The run.
        facts: Of the sections of its report.
    """
    name = str(run.config.get("model", {}).get("name", "network"))
    kind = "classification" if run.classification else "segmentation"
    training = run.config.get("training", {})
    # A name with a line `---` would end the front matter, however it is quoted.
    content = _in_one_line(_front_matter(run, name, kind))
    front_matter = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    templates = markdown_templates()
    return render(
        templates,
        "model_card.md.j2",
        facts["summary"],
        run=run,
        checks=checks_of(run, facts, templates),
        # YAML quotes what it must.
        front_matter=Markup(front_matter),
        name=name,
        kind=kind,
        folder=run.folder.path.resolve().name,
        rows=[
            {"title": run.title(metric), **written(run, run.pooled, metric)}
            for metric in run.metric_table
            if metric in run.pooled["metrics"]
        ],
        settings={key: training[key] for key in _SETTINGS if training.get(key)},
    )


def _in_one_line(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _in_one_line(part) for key, part in content.items()}
    if isinstance(content, list):
        return [_in_one_line(part) for part in content]
    return " ".join(content.split()) if isinstance(content, str) else content


def _front_matter(run: FinishedRun, model: str, kind: str) -> dict[str, Any]:
    task = str(run.record.get("task") or kind)
    pipeline = "tabular-classification" if run.classification else "image-segmentation"
    chosen = {name: run.metric_table[name] for name in FRONT[kind]}
    metrics = [
        {
            "type": metric.hub_name,
            "name": f"{f'mean {run.label(name)}' if metric.per_case else run.title(name)}, out of fold",
            "value": round(value(run.pooled, name), 4),
        }
        for name, metric in chosen.items()
        if math.isfinite(value(run.pooled, name))
    ]
    dataset = {"name": ", ".join(run.sites) or "unnamed", "type": task, "split": "out-of-fold test parts"}
    card: dict[str, Any] = {
        # Whoever trained the weights decides; the hub knows this as a license that is not stated.
        "license": "unknown",
        "library_name": "medformer",
        "pipeline_tag": pipeline,
        "tags": list(dict.fromkeys(["medical-imaging", kind, task, "metaformer", "research-use-only"])),
        "metrics": [metric.hub_name for metric in chosen.values()],
    }
    if metrics:
        result = {"task": {"type": pipeline, "name": f"{task} {kind}"}, "dataset": dataset, "metrics": metrics}
        card["model-index"] = [{"name": model, "results": [result]}]
    return card


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
        # Not text: its slashes are none of a path.
        script_sha256=Markup(b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")),
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
