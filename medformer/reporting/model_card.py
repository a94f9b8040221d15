"""The model card: Markdown with the front matter that model hubs read, of a run or of a bundle exported from it.

It follows Mitchell et al., Model Cards for Model Reporting (2019); the front matter is the one of the Hugging Face Hub
(`ModelCardData` of huggingface_hub, model-index included).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from medformer.crossval.run.directory import RunDirectory
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.scores import value, written
from medformer.reporting.sections import Facts, checks_of, facts_of
from medformer.reporting.sharing import shared_run
from medformer.reporting.wording import markdown_templates, render

FRONT = {"segmentation": ("dice", "iou"), "classification": ("auc", "balanced_accuracy", "sensitivity", "brier")}
"""The metrics of the front matter."""

_SETTINGS = ("epochs", "minutes", "batch_size", "lr", "precision")
_PIPELINES = {"segmentation": "image-segmentation", "classification": "tabular-classification"}


def build_model_card(run: FinishedRun, facts: Mapping[str, Facts], bundle: Mapping[str, Any] | None = None) -> str:
    """Return the model card of a run.

    Args:
        run: The run.
        facts: Of the sections of its report.
        bundle: What `bundle.json` says, for the card of a bundle.
    """
    name = str(run.config.get("model", {}).get("name", "network"))
    kind = "classification" if run.classification else "segmentation"
    training = run.config.get("training", {})
    templates = markdown_templates()
    return render(
        templates,
        "model_card.md.j2",
        facts["summary"],
        run=run,
        checks=checks_of(run, facts, templates),
        front_matter=_front_matter({**_front(str(run.record.get("task") or kind), kind), **_results(run, name, kind)}),
        name=name,
        kind=kind,
        task=run.record.get("task") or "",
        bundle=bundle,
        rows=[
            {"title": run.title(metric), **written(run, run.pooled, metric)}
            for metric in run.metric_table
            if metric in run.pooled["metrics"]
        ],
        settings=_settings(str(run.record.get("task")), training),
        pretrained=run.record.get("pretrained"),
    )


def bundle_card(path: Path, bundle: Mapping[str, Any]) -> str:
    """Return the model card of a bundle: that of the run, without names, or that of a network which was not tested.

    Args:
        path: The run's folder.
        bundle: What `bundle.json` will say.

    Raises:
        DataError: A file of the run is damaged.
    """
    if bundle["evaluation"] is not None:
        run = shared_run(read_finished_run(path))
        return build_model_card(run, facts_of(run, for_card=True), bundle)
    task, kind = bundle["task"], bundle["target"]
    return render(
        markdown_templates(),
        "untested_card.md.j2",
        {},
        front_matter=_front_matter(_front(task, kind)),
        name=bundle["network"]["name"],
        kind=kind,
        task=task,
        bundle=bundle,
        finished=RunDirectory(path).record()["state"] == "done",
        settings=_settings(task, bundle["training"]),
    )


def _settings(task: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """What a training went by: minutes take the place of epochs, and the batch of volumes is planned."""
    unused = {"epochs" if training.get("minutes") else "", "batch_size" if task == "volume" else ""}
    return {key: training[key] for key in _SETTINGS if training.get(key) and key not in unused}


def _front_matter(content: Mapping[str, Any]) -> Markup:
    # A name with a line `---` would end the front matter, however it is quoted. YAML quotes what it must.
    return Markup(yaml.safe_dump(_in_one_line(dict(content)), sort_keys=False, allow_unicode=True, width=10_000))


def _in_one_line(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _in_one_line(part) for key, part in content.items()}
    if isinstance(content, list):
        return [_in_one_line(part) for part in content]
    return " ".join(content.split()) if isinstance(content, str) else content


def _front(task: str, kind: str) -> dict[str, Any]:
    return {
        # Whoever trained the weights decides; the hub knows this as a license that is not stated.
        "license": "unknown",
        "library_name": "medformer",
        "pipeline_tag": _PIPELINES[kind],
        "tags": list(dict.fromkeys(["medical-imaging", kind, task, "metaformer", "research-use-only"])),
    }


def _results(run: FinishedRun, model: str, kind: str) -> dict[str, Any]:
    """The metrics of a run, and its results as far as they are known."""
    task = str(run.record.get("task") or kind)
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
    sites = "unnamed" if run.shared else ", ".join(run.sites) or "unnamed"
    dataset = {"name": sites, "type": task, "split": "out-of-fold test parts"}
    card: dict[str, Any] = {"metrics": [metric.hub_name for metric in chosen.values()]}
    if metrics:
        pipeline = _PIPELINES[kind]
        result = {"task": {"type": pipeline, "name": f"{task} {kind}"}, "dataset": dataset, "metrics": metrics}
        card["model-index"] = [{"name": model, "results": [result]}]
    return card
