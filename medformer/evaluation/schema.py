"""The documented form of metrics.json, as a JSON Schema: its structure from schema.json, its metrics from the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medformer.evaluation.metrics import CLASSES, LABEL_MAPS, MASKS, in_summary
from medformer.files import read_json


def metrics_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of metrics.json; validate with the `jsonschema` package.

    It refuses keys that it does not describe. `format` in a metrics.json names the version it follows.
    """
    schema: dict[str, Any] = read_json(Path(__file__).with_name("schema.json"))
    parts = (("segmentation", MASKS, "mean"), ("label", LABEL_MAPS, "mean"), ("classification", CLASSES, "value"))
    for part, table, form in parts:
        metrics = in_summary(table).values()
        _metrics(schema, f"{part}_block")["properties"] = {
            metric.name: {
                "$ref": f"#/$defs/{form}",
                "description": f"{metric.definition[0].upper()}{metric.definition[1:]}.",
            }
            for metric in metrics
        }
        if part != "label":
            _metrics(schema, f"{part}_definitions")["properties"] = {
                metric.name: {"type": "string", "minLength": 1} for metric in metrics
            }
    for name in ("classification_block", "classification_definitions"):
        _metrics(schema, name)["required"] = list(CLASSES)
    return schema


def _metrics(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][name]["properties"]["metrics"]
    return found
