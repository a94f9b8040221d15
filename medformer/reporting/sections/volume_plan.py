"""How volumes were presented to the network: spacing, patch, strides and memory, planned from training cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.reporting.blocks import Block, Listing, Section, Table, Text
from medformer.reporting.facts import Facts

_GIGABYTE = 1e9


def build(facts: Facts) -> Section | None:
    """Tabulate what was planned; folds that differ have a column each."""
    plans = facts.volume_plans
    if not plans:
        return None
    columns = _columns(plans)
    rows = [[what, *(cell(plan) for _, plan in columns)] for what, cell in _CELLS.items()]
    text = (
        "Before training, each fold looked at its own training cases and settled how cases are presented to the "
        "network; test cases had no say in it. "
    )
    text += "All folds came to the same." if len(columns) == 1 else "The folds differ as the table says."
    header = ["What", *(name for name, _ in columns)]
    caption = "What was planned from the training cases"
    blocks: list[Block] = [Text(text), Table(caption, header, rows, text_columns=len(header), sortable=False)]
    notes = list(dict.fromkeys(note for plan in plans.values() for note in plan.notes))
    if notes:
        blocks.append(Listing(notes, label="How it came about"))
    return Section("volume-plan", "How volumes are presented", blocks)


def _columns(plans: Any) -> list[tuple[str, VolumePlan]]:
    """Plans that read the same share a column."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for fold, plan in plans.items():
        alike.setdefault(tuple(cell(plan) for cell in _CELLS.values()), []).append(fold)
    if len(alike) == 1:
        return [("All folds", next(iter(plans.values())))]
    return [
        (f"Fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}", plans[folds[0]])
        for folds in alike.values()
    ]


def _by(values: Sequence[float], digits: int = 0) -> str:
    return " × ".join(f"{value:.{digits}f}" for value in values)


def _field(plan: VolumePlan) -> str:
    return f"{_by([n * step for n, step in zip(plan.patch, plan.spacing, strict=True)])} mm"


def _strides(plan: VolumePlan) -> str:
    whole = [math.prod(axis) for axis in zip(*plan.strides, strict=True)]
    return f"{', '.join(_by(stride) for stride in plan.strides)}; in all {_by(whole)}"


def _intensity(plan: VolumePlan) -> str:
    return "; ".join(dict.fromkeys(map(_scheme, plan.intensity)))


def _scheme(channel: Intensity) -> str:
    if channel.scheme == "ct":
        return f"clipped to {channel.low:.0f} to {channel.high:.0f}, then scaled by the training cases' foreground"
    return "each volume by its own mean and standard deviation"


def _memory(plan: VolumePlan) -> str:
    return f"{plan.memory_bytes / _GIGABYTE:.1f} GB" if plan.memory_bytes else "not estimated"


_CELLS: dict[str, Callable[[VolumePlan], str]] = {
    "Orientation": lambda plan: plan.orientation,
    "Voxel size": lambda plan: f"{_by(plan.spacing, 2)} mm",
    "Patch": lambda plan: f"{_by(plan.patch)} voxels",
    "Field of view": _field,
    "Batch": lambda plan: f"{plan.batch_size} patch{'' if plan.batch_size == 1 else 'es'}",
    "Strides": _strides,
    "Kernels": lambda plan: ", ".join(_by(kernel) for kernel in plan.kernel_sizes),
    "Intensity": _intensity,
    "Labels": lambda plan: ", ".join(f"{value} {name}" for value, name in plan.labels) or "none",
    "Expected memory of training": _memory,
}
"""What a plan says, as a reader sees it."""
