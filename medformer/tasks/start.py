"""Fine-tuning in a fold: the first values of a network from those of another run, and the record of what was taken."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from medformer.config import AnyConfig
from medformer.crossval.run.contract import Context
from medformer.crossval.run.start.source import KEY, Start, settings_of
from medformer.errors import ConfigError
from medformer.files import write_json
from medformer.models.transfer import Parts, Transfer, transfer
from medformer.tensor_file import name_some

RECORD = "start.json"
"""In the folder of a fold that starts from a trained network: which, and what of it was taken."""

_RANGE = frozenset({"before.scale", "before.shift"})
"""Tensors of a peer that was built for weights which are shown images in another range (`Renormalize`)."""

LEAST = 0.01
"""Share of a network's parameters below which nothing was taken but what fits by chance, such as the bias of a head."""


def take(
    start: Start,
    model: nn.Module,
    config: AnyConfig,
    *,
    member: int = 0,
    stems: Collection[str] = (),
    parts: Mapping[str, Parts] | None = None,
    unlike: Mapping[str, str] | None = None,
) -> Transfer:
    """Fill a network with what fits of the network to start from; see `transfer`.

    Raises:
        ConfigError: Hardly any of its parameters fits (says how the two networks differ), or not all that are frozen.
        CheckpointError: Its files are damaged.
    """
    found = transfer(model, start.tensors(member), stems=stems, parts=parts, unlike=unlike)
    if any(name in _RANGE for name in found.unused):
        raise ConfigError(
            f"{KEY}: the network of {start.record.what} began with pretrained weights that are shown images in another "
            "range, and this run's is not built for them. Name the same model.weights; the file itself is not read."
        )
    if found.share < LEAST:
        there, here = start.record.settings, settings_of(config.model_dump(mode="json"))
        wanted = [
            f"{key}={_written(value)}"
            for key, value in there.items()
            if key.startswith("model.") and key in here and here[key] != value
        ]
        reasons = [f"{name}: {why}" for name, why in found.left.items()]
        raise ConfigError(
            f"{KEY}: the network of {start.record.what} is another one than this run's; {100 * found.share:.1f} % of "
            f"the parameters could be taken ({'; '.join(reasons[:3])}). "
            + (f"Build the same: {' '.join(wanted)}" if wanted else "Start from another run, or without one.")
        )
    kept = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if lacking := [f"{name}: {why}" for name, why in found.left.items() if name in kept]:
        raise ConfigError(
            f"{KEY}: model.frozen keeps levels of the encoder as they are, and the network of {start.record.what} does "
            f"not give all of their weights ({name_some(lacking)}). Set model.frozen=0."
        )
    return found


def record_start(context: Context, found: Transfer, config: AnyConfig, more: Sequence[str] = ()) -> None:
    """Say in one line what a fold starts from, and write it into the fold's folder.

    Args:
        context: Of the fold.
        found: What was taken.
        config: Of the run.
        more: Further differences between the two networks, such as those of plans.
    """
    assert context.start is not None
    differing = [*differences(context.start, config), *more]
    there = f" Set otherwise: {name_some(differing)}." if differing else ""
    what = context.start.record.what
    context.reporter.line(f"Starts from {what}: {found}.{there}")
    record = {"what": what, "sha256": context.start.record.sha256, **found.to_json(), "differing": differing}
    write_json(context.folder / RECORD, record)


def _written(value: Any) -> str:
    """A value as an override on the command line spells it."""
    return value if isinstance(value, str) else json.dumps(value)


def differences(start: Start, config: AnyConfig) -> list[str]:
    """How the config that the network to start from was built with differs, key by key."""
    there, here = start.record.settings, settings_of(config.model_dump(mode="json"))
    return [
        f"{key} {there[key]} there, {value} here" for key, value in here.items() if key in there and there[key] != value
    ]
