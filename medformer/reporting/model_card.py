"""A short model card: Markdown with the YAML front matter that model hubs read."""

from __future__ import annotations

import re
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from medformer.reporting.blocks import counted, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.results import LABELS
from medformer.reporting.sections.limits import RESEARCH_ONLY, limits
from medformer.reporting.sections.summary import warnings

SHOWN = ("dice", "iou", "sensitivity", "precision", "weighted_f", "s_measure", "mae")


def build_model_card(facts: Facts) -> str:
    """Return the model card of a run (Mitchell et al., Model Cards for Model Reporting, 2019)."""
    environment = Environment(
        loader=PackageLoader("medformer.reporting"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.finalize = _plain
    model = facts.config.get("model", {})
    name = str(model.get("name", "network"))
    metrics = facts.metrics["pooled"]["metrics"]
    training = facts.config.get("training", {})
    told = [
        f"{key} {training[key]}" for key in ("epochs", "minutes", "batch_size", "lr", "precision") if training.get(key)
    ]
    return environment.get_template("model_card.md.j2").render(
        front_matter=_Trusted(yaml.safe_dump(_front_matter(facts, name), sort_keys=False, allow_unicode=True)),
        title=f"{name} ({facts.run.path.resolve().name})",
        overview=f"{name} for {facts.record.get('task', 'segmentation')} segmentation, trained with medformer.",
        research_only=RESEARCH_ONLY,
        pooled=facts.metrics["pooled"],
        rows=[
            [LABELS[key], number(metrics[key]["mean"]), interval(metrics[key]), number(metrics[key]["median"])]
            for key in SHOWN
            if key in metrics
        ],
        warnings=list(warnings(facts)),
        manifest=facts.record.get("manifest", ""),
        data_sha256=facts.record.get("data_sha256", ""),
        sites=f"{counted(len(facts.sites), 'site')}: {', '.join(facts.sites)}." if facts.sites else "Site unknown.",
        training=f"Settings: {', '.join(told)}." if told else "",
        limits=limits(facts),
    )


class _Trusted(str):
    """Text that is already in its final form."""


def _plain(value: Any) -> Any:
    """Keep names from data from becoming markup: Markdown passes HTML through."""
    if isinstance(value, str) and not isinstance(value, _Trusted):
        return re.sub(r"([\\`<>])", r"\\\1", " ".join(value.split()))
    return value


def _front_matter(facts: Facts, name: str) -> dict[str, Any]:
    metrics = facts.metrics["pooled"]["metrics"]
    return {
        "library_name": "medformer",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical-imaging", "segmentation", str(facts.record.get("task", "")), "metaformer"],
        "metrics": ["dice", "iou"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-segmentation"},
                        "dataset": {"name": ", ".join(facts.sites) or "unnamed", "type": "private"},
                        "metrics": [
                            {
                                "type": key,
                                "name": f"mean {LABELS[key]}, out of fold",
                                "value": round(metrics[key]["mean"], 4),
                            }
                            for key in ("dice", "iou")
                            if number(metrics[key]["mean"]) != "–"
                        ],
                    }
                ],
            }
        ],
    }
