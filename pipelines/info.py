"""`medformer info`: everything that a config can say, as data."""

from __future__ import annotations

import json
from typing import Any

import medformer
from pipelines.console import say


def collect_info() -> dict[str, Any]:
    """Return versions, every table of named parts, backbones with their parameter counts, configs and their keys."""
    from medformer.config import SCHEMAS
    from medformer.config_loading import shipped_configs
    from medformer.config_problems import describe_keys
    from medformer.connectome.atlases import ATLASES
    from medformer.connectome.baselines import BASELINES as CONNECTOME_BASELINES
    from medformer.connectome.measures import MEASURES
    from medformer.crossval.run.record import installed_versions
    from medformer.data.frames.named_splits import NAMED_SPLITS
    from medformer.inference.baselines.table import BASELINES
    from medformer.inference.baselines.volume_linear import VOLUME_CLASSIFIERS
    from medformer.models.backbone.mixers import MIXERS, mixer_parameters
    from medformer.models.backbone.variants import VARIANTS, variant_counts
    from medformer.models.connectome.build import CONNECTOME_MODELS
    from medformer.models.connectome.defects import DEFECTS
    from medformer.models.networks.build import NETWORKS
    from medformer.registry import Registry
    from medformer.training.losses.image_losses import LOSSES
    from medformer.training.losses.volume_losses import VOLUME_LOSSES
    from medformer.training.trackers.build import TRACKERS

    def listed(table: Registry[Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": entry.name,
                "description": entry.description,
                "paper": entry.paper,
                "sizes": entry.sizes,
                "cannot": dict(entry.cannot),
            }
            for entry in table.values()
        ]

    return {
        "version": medformer.__version__,
        "packages": installed_versions(),
        "models": listed(NETWORKS),
        "backbones": [
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
        ],
        "mixers": [{**row, "parameters": describe_keys(mixer_parameters(row["name"]))} for row in listed(MIXERS)],
        "connectome_models": listed(CONNECTOME_MODELS),
        "connectome_defects": listed(DEFECTS),
        "connectome_measures": listed(MEASURES),
        "connectome_baselines": listed(CONNECTOME_BASELINES),
        "atlases": [
            {"name": atlas.name, "description": f"{atlas.regions} regions; {atlas.title}", "paper": atlas.reference}
            for atlas in ATLASES.values()
        ],
        "volume_models": [row for row in listed(NETWORKS) if "3-D" not in row["cannot"]],
        "volume_losses": listed(VOLUME_LOSSES),
        "volume_baselines": listed(VOLUME_CLASSIFIERS),
        "losses": listed(LOSSES),
        "baselines": listed(BASELINES),
        "trackers": listed(TRACKERS),
        "splits": listed(NAMED_SPLITS),
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
    for title, key in (
        ("Models", "models"),
        ("Token mixers", "mixers"),
        ("Connectome models", "connectome_models"),
        ("Defects of the published METAFormer (model.defects)", "connectome_defects"),
        ("Connectivity measures (data.measure)", "connectome_measures"),
        ("Connectome baselines", "connectome_baselines"),
        ("Atlases of ABIDE", "atlases"),
        ("Volume models", "volume_models"),
        ("Volume losses", "volume_losses"),
        ("Baselines of volume classification", "volume_baselines"),
        ("Losses", "losses"),
        ("Baselines", "baselines"),
        ("Trackers (training.tracker)", "trackers"),
        ("Named splits", "splits"),
    ):
        say(f"\n{title}")
        for row in content[key]:
            say(f"  {row['name']:<32}{row['description']}" + (f" ({row['paper']})" if row["paper"] else ""))
    say(f"\nConfigs (--config): {', '.join(content['configs'])}")
    for task, keys in content["keys"].items():
        say(f"\nConfig keys of medformer {task} and their defaults")
        for row in keys:
            say(f"  {row['key']:<26}{json.dumps(row['default']):<16}{row['description']}")
