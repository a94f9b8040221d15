"""A short model card: Markdown with the YAML front matter that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from medformer.reporting.blocks import counted, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.results import label, value
from medformer.reporting.sections.limits import RESEARCH_ONLY, limits
from medformer.reporting.sections.summary import VERDICTS, warnings

SEGMENTATION = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "hd95_px",
    "hd95_mm",
    "nsd_px",
    "nsd_mm",
    "weighted_f",
    "mae",
)
CLASSIFICATION = (
    "auc",
    "average_precision",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "mcc",
    "brier",
    "calibration_slope",
    "ece",
)

# Hubs know some metrics by another name than the field does.
HUB_NAMES = {
    "dice": "dice",
    "iou": "mean_iou",
    "auc": "roc_auc",
    "average_precision": "average_precision",
    "balanced_accuracy": "balanced_accuracy",
    "sensitivity": "recall",
    "mcc": "matthews_correlation",
    "brier": "brier_score",
}
FRONT = {"segmentation": ("dice", "iou"), "classification": ("auc", "balanced_accuracy", "sensitivity", "brier")}


def build_model_card(facts: Facts) -> str:
    """Return the model card of a run (Mitchell et al., Model Cards for Model Reporting, 2019).

    The front matter is the one of the Hugging Face Hub (`ModelCardData` of huggingface_hub, model-index included).
    """
    environment = Environment(
        loader=PackageLoader("medformer.reporting"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.finalize = _plain
    name = str(facts.config.get("model", {}).get("name", "network"))
    training = facts.config.get("training", {})
    told = [
        f"{key} {training[key]}" for key in ("epochs", "minutes", "batch_size", "lr", "precision") if training.get(key)
    ]
    kind = _kind(facts)
    return environment.get_template("model_card.md.j2").render(
        front_matter=_Trusted(yaml.safe_dump(_front_matter(facts, name), sort_keys=False, allow_unicode=True)),
        title=f"{name} ({facts.run.path.resolve().name})",
        overview=f"{name} for {facts.record.get('task', '')} {kind}, trained with medformer.",
        research_only=RESEARCH_ONLY,
        cases=f"{counted(facts.cases, facts.noun)} from {counted(facts.groups, 'group')} (patients or sequences)",
        estimate="Value" if facts.classification else "Mean",
        rows=_rows(facts),
        warnings=list(warnings(facts)),
        checks=[f"{found.name}: {found.text}" for judge in VERDICTS if (found := judge(facts)) is not None],
        manifest=facts.record.get("manifest", ""),
        data_sha256=facts.record.get("data_sha256", ""),
        sites=f"{counted(len(facts.sites), 'site')}: {', '.join(facts.sites)}." if facts.sites else "Site unknown.",
        training=f"Settings: {', '.join(told)}. " if told else "",
        limits=limits(facts),
    )


class _Trusted(str):
    """Text that is already in its final form."""


def _plain(value: Any) -> Any:
    """Keep names from data from becoming markup: Markdown passes HTML through."""
    if isinstance(value, str) and not isinstance(value, _Trusted):
        return re.sub(r"([\\`<>|])", r"\\\1", " ".join(value.split()))
    return value


def _kind(facts: Facts) -> str:
    return "classification" if facts.classification else "segmentation"


def _rows(facts: Facts) -> Sequence[Sequence[str]]:
    pooled = facts.metrics["pooled"]
    names = CLASSIFICATION if facts.classification else SEGMENTATION
    return [
        [label(name, facts.metrics), number(value(pooled, name)), interval(pooled["metrics"][name])]
        for name in names
        if name in pooled["metrics"]
    ]


def _front_matter(facts: Facts, name: str) -> dict[str, Any]:
    pooled = facts.metrics["pooled"]
    kind = _kind(facts)
    task = str(facts.record.get("task") or kind)
    pipeline = "tabular-classification" if facts.classification else "image-segmentation"
    metrics = [
        {
            "type": HUB_NAMES[metric],
            "name": f"{'' if facts.classification else 'mean '}{label(metric, facts.metrics)}, out of fold",
            "value": round(value(pooled, metric), 4),
        }
        for metric in FRONT[kind]
        if number(value(pooled, metric)) != "–"
    ]
    dataset = {"name": ", ".join(facts.sites) or "unnamed", "type": task, "split": "out-of-fold test parts"}
    card: dict[str, Any] = {
        # Whoever trained the weights decides; the hub knows this as a license that is not stated.
        "license": "unknown",
        "library_name": "medformer",
        "pipeline_tag": pipeline,
        "tags": list(dict.fromkeys(["medical-imaging", kind, task, "metaformer", "research-use-only"])),
        "metrics": [HUB_NAMES[metric] for metric in FRONT[kind]],
    }
    if metrics:
        result = {"task": {"type": pipeline, "name": f"{task} {kind}"}, "dataset": dataset, "metrics": metrics}
        card["model-index"] = [{"name": name, "results": [result]}]
    return card
