"""The documented form of metrics.json, as a JSON Schema that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medformer.files import read_json

SCHEMA_FILE = Path(__file__).with_name("metrics.schema.json")


def metrics_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of metrics.json; validate with the `jsonschema` package.

    It refuses keys that it does not describe. `format` in a metrics.json names the version it follows.
    """
    schema: dict[str, Any] = read_json(SCHEMA_FILE)
    return schema
