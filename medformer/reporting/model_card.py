"""A short model card: Markdown with the YAML front matter that model hubs read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import value, written
from medformer.reporting.sections import Facts, checks_of
from medformer.reporting.wording import markdown_templates, render

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
    front_matter = yaml.safe_dump(_front_matter(run, name, kind), sort_keys=False, allow_unicode=True)
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
