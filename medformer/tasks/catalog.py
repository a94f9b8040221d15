"""What a config may name: every table of named parts, with what is known of each, and the shipped configs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

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
from medformer.models.measures import measure_connectome_model, measure_mixer, measure_network
from medformer.models.networks.build import NETWORKS
from medformer.models.weights.table import WEIGHTS
from medformer.registry import Entry
from medformer.training.losses.segmentation import LOSSES, VOLUME_LOSSES
from medformer.training.trackers.build import TRACKERS

Row = Mapping[str, Any]

KEYS = "keys"
"""Of the JSON: the config keys of each task."""


class Section(NamedTuple):
    """One part of what there is.

    Attributes:
        title: What its names are, and the config key that takes one.
        names: All of them, without computing anything.
        rows: What is known of each.
        measure: What is measured of one of them on this machine, when it or the section is asked for.
    """

    title: str
    names: Sequence[str]
    rows: Callable[[], list[Row]]
    measure: Callable[[str], Row] | None = None


def _table(title: str, entries: Iterable[Entry[Any]], measure: Callable[[str], Row] | None = None) -> Section:
    entries = list(entries)
    return Section(title, [entry.name for entry in entries], lambda: [_row(entry) for entry in entries], measure)


def _row(entry: Entry[Any]) -> dict[str, Any]:
    """Everything that a table says about a part, without the part itself."""
    return {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "part"}


def _backbones() -> list[Row]:
    return [
        {
            **_row(entry),
            "depths": list(entry.part.depths),
            "channels": list(entry.part.channels),
            "mixers": list(entry.part.mixers),
        }
        for entry in VARIANTS.values()
    ]


def counted_backbones() -> list[Row]:
    """The rows of all backbones with their parameters, which takes a while: each is built."""
    return [{**row, **_count_backbone(row["name"])} for row in _backbones()]


def _count_backbone(name: str) -> Row:
    """What the row of a pattern says of its example, for the name that was asked for."""
    return {"parameters": variant_counts(VARIANTS[name].example if "<" in name else name)}


def _weights() -> list[Row]:
    facts = ("network", "data", "license", "size", "mean", "std", "origin")
    return [{**_row(entry), **{key: getattr(entry.part, key) for key in facts}} for entry in WEIGHTS.values()]


def _mixers() -> list[Row]:
    return [{**_row(entry), "parameters": describe_keys(mixer_parameters(entry.name))} for entry in MIXERS.values()]


def _configs() -> list[Row]:
    """Each shipped config with the comment that it begins with."""
    rows: list[Row] = []
    for name, file in shipped_configs().items():
        lines = file.read_text("utf-8").splitlines()
        comment = lines[: next((at for at, line in enumerate(lines) if not line.startswith("# ")), len(lines))]
        rows.append(
            {"name": name, "description": " ".join(" ".join(line.removeprefix("# ") for line in comment).split())}
        )
    return rows


_ATLASES = [Entry(one.name, one, f"{one.regions} regions; {one.title}", one.reference) for one in ATLASES.values()]
SECTIONS: Mapping[str, Section] = {
    "backbones": Section("backbones (model.backbone)", list(VARIANTS), _backbones, _count_backbone),
    "models": _table("networks of frames and volumes (model.name)", NETWORKS.values(), measure_network),
    "weights": Section("pretrained weights (model.weights)", list(WEIGHTS), _weights),
    "mixers": Section("token mixers (model.mixers)", list(MIXERS), _mixers, measure_mixer),
    "connectome_models": _table("connectome models (model.name)", CONNECTOME_MODELS.values(), measure_connectome_model),
    "connectome_defects": _table("defects of the published METAFormer (model.defects)", DEFECTS.values()),
    "connectome_measures": _table("connectivity measures (data.measure)", MEASURES.values()),
    "connectome_baselines": _table("baselines of connectomes", CONNECTOME_BASELINES.values()),
    "atlases": _table("atlases of ABIDE (--atlas)", _ATLASES),
    "volume_losses": _table("losses of volumes (loss.name)", VOLUME_LOSSES.values()),
    "volume_baselines": _table("baselines of volume classification", VOLUME_CLASSIFIERS.values()),
    "losses": _table("losses of frames (loss.name)", LOSSES.values()),
    "baselines": _table("baselines of frames", BASELINES.values()),
    "trackers": _table("trackers (training.tracker)", TRACKERS.values()),
    "splits": _table("named splits (--split)", NAMED_SPLITS.values()),
    "configs": Section("shipped configs (--config)", list(shipped_configs()), _configs),
}
"""By the key of the JSON, in its order; config keys, which belong to a task, are not among them."""


def collect_info() -> dict[str, Any]:
    """Return versions, every table of named parts, backbones with their parameter counts, configs and their keys."""
    return {
        "version": medformer.__version__,
        "packages": installed_versions(),
        **{name: section.rows() for name, section in SECTIONS.items()},
        "backbones": counted_backbones(),
        "configs": list(shipped_configs()),
        KEYS: {task: describe_keys(schema) for task, schema in SCHEMAS.items()},
    }
