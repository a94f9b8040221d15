"""`medformer info`: all names and keys that a config may use, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import medformer
from medformer.config import SCHEMAS
from medformer.config_loading import shipped_configs
from medformer.config_problems import describe_keys
from medformer.connectome.atlases import ATLASES
from medformer.connectome.baselines import BASELINES as CONNECTOME_BASELINES
from medformer.connectome.measures import MEASURES
from medformer.crossval.run.record import installed_versions
from medformer.data.frames.named_splits import NAMED_SPLITS
from medformer.inference.baselines.frames import BASELINES
from medformer.inference.baselines.volumes import VOLUME_CLASSIFIERS
from medformer.models.backbone.mixers import MIXERS, mixer_parameters
from medformer.models.backbone.variants import VARIANTS, variant_counts
from medformer.models.connectome.build import CONNECTOME_MODELS, DEFECTS
from medformer.models.networks.build import NETWORKS
from medformer.registry import Entry
from medformer.training.losses.segmentation import LOSSES, VOLUME_LOSSES
from medformer.training.trackers.build import TRACKERS
from pipelines.console import say

_ATLASES = [Entry(one.name, one, f"{one.regions} regions; {one.title}", one.reference) for one in ATLASES.values()]
_TABLES: tuple[tuple[str, str, Iterable[Entry[Any]]], ...] = (
    ("models", "Segmentation networks", NETWORKS.values()),
    ("mixers", "Token mixers", MIXERS.values()),
    ("connectome_models", "Connectome models", CONNECTOME_MODELS.values()),
    ("connectome_defects", "Defects of the published METAFormer (model.defects)", DEFECTS.values()),
    ("connectome_measures", "Connectivity measures (data.measure)", MEASURES.values()),
    ("connectome_baselines", "Connectome baselines", CONNECTOME_BASELINES.values()),
    ("atlases", "Atlases of ABIDE", _ATLASES),
    ("volume_losses", "Volume losses", VOLUME_LOSSES.values()),
    ("volume_baselines", "Baselines of volume classification", VOLUME_CLASSIFIERS.values()),
    ("losses", "Losses", LOSSES.values()),
    ("baselines", "Baselines", BASELINES.values()),
    ("trackers", "Trackers (training.tracker)", TRACKERS.values()),
    ("splits", "Named splits", NAMED_SPLITS.values()),
)
"""Key in the JSON, title in the text, and the rows of each table of named parts."""


def collect_info() -> dict[str, Any]:
    """Return versions, every table of named parts, backbones with their parameter counts, configs and their keys."""
    backbones = [
        {
            "name": name,
            "description": entry.description,
            "paper": entry.paper,
            "depths": list(entry.part.depths),
            "channels": list(entry.part.channels),
            "mixers": list(entry.part.mixers),
            "parameters": variant_counts(name),
        }
        for name, entry in VARIANTS.items()
    ]
    tables = {key: [_row(entry) for entry in entries] for key, _, entries in _TABLES}
    for row in tables["mixers"]:
        row["parameters"] = describe_keys(mixer_parameters(row["name"]))
    return {
        "version": medformer.__version__,
        "packages": installed_versions(),
        "backbones": backbones,
        **tables,
        "configs": list(shipped_configs()),
        "keys": {task: describe_keys(schema) for task, schema in SCHEMAS.items()},
    }


def info(*, as_json: bool) -> None:
    """Print the tables for a person, or as JSON for a program."""
    content = collect_info()
    if as_json:
        say(json.dumps(content, indent=2))
        return
    say(f"medformer {content['version']} (torch {content['packages'].get('torch', '?')})")
    say("\nBackbones: parameters in millions, as a classifier of 1000 classes and without its head in 1-D, 2-D and 3-D")
    say(f"  {'name':<20}{'class.':>6}  {'1-D':>6}  {'2-D':>6}  {'3-D':>6}   token mixing")
    for row in content["backbones"]:
        counts = row["parameters"]
        features = "  ".join(f"{counts[f'features_{dims}d'] / 1e6:6.1f}" for dims in (1, 2, 3))
        say(f"  {row['name']:<20}{counts['classifier'] / 1e6:6.1f}  {features}   {row['description']}")
    for key, title, _ in _TABLES:
        say(f"\n{title}")
        for row in content[key]:
            say(f"  {row['name']:<32}{row['description']}" + (f" ({row['paper']})" if row["paper"] else ""))
    say(f"\nConfigs (--config): {', '.join(content['configs'])}")
    for task, keys in content["keys"].items():
        say(f"\nConfig keys of medformer {task} and their defaults")
        for row in keys:
            say(f"  {row['key']:<26}{json.dumps(row['default']):<16}{row['description']}")


def _row(entry: Entry[Any]) -> dict[str, Any]:
    """Everything that a table says about a part, without the part itself."""
    return {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "part"}
