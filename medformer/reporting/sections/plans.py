"""What was planned before training: the folds, and how volumes are prepared for the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medformer.crossval.plan.balance import Balance, balance_table, plan_warnings
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.read.dataset_file import shown_labels
from medformer.errors import counted
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import shorten

MOST_ROWS = 90
MOST_LABELS = 12
LONGEST_NAME = 24
_GIGABYTE = 1e9


def plan(run: FinishedRun) -> dict[str, Any]:
    """Describe what each part of each fold consists of."""
    assert run.plan is not None
    return {
        "plan": run.plan,
        "warnings": plan_warnings(run.plan),
        **balanced(balance_table(run.plan)),
    }


def balanced(balance: Balance) -> dict[str, Any]:
    """A balance table; of very many parts, those that are tested."""
    titles = [shorten(name, LONGEST_NAME) for name in balance.header]
    # Two long names may differ only in the middle.
    titles = titles if len(set(titles)) == len(titles) else list(balance.header)
    whole, *parts = (dict(zip(titles, row, strict=True)) for row in balance.rows)
    tests = []
    if len(parts) > MOST_ROWS:
        tests = [row for row, part in zip(parts, balance.parts[1:], strict=True) if part.part == "test"]
    return {
        "parts": tests[:MOST_ROWS] or parts,
        "tests": len(tests),
        "whole": whole,
        "text_columns": 1 + balance.header.index("Part"),
        "hint": balance.hint,
        "most_rows": MOST_ROWS,
    }


def volume_plan(run: FinishedRun) -> dict[str, Any]:
    """Describe the plan of each fold; folds with equal plans share a column."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for fold, plan in run.volume_plans.items():
        alike.setdefault(tuple(cell(plan) for cell in _CELLS.values()), []).append(fold)
    columns = {
        "All folds" if len(alike) == 1 else f"Fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}": cells
        for cells, folds in alike.items()
    }
    rows = [
        {"What": what, **{title: cells[position] for title, cells in columns.items()}}
        for position, what in enumerate(_CELLS)
        if any(cells[position] for cells in columns.values())
    ]
    return {
        "rows": rows,
        "notes": list(dict.fromkeys(note for plan in run.volume_plans.values() for note in plan.notes)),
    }


def _by(values: Sequence[float], digits: int = 0) -> str:
    return " × ".join(f"{value:.{digits}f}" for value in values)


def _field(plan: VolumePlan) -> str:
    return f"{_by([n * step for n, step in zip(plan.patch, plan.spacing, strict=True)])} mm"


def _strides(plan: VolumePlan) -> str:
    whole = [math.prod(axis) for axis in zip(*plan.strides, strict=True)]
    return f"{', '.join(_by(stride) for stride in plan.strides)}; in all {_by(whole)}"


def _scheme(channel: Intensity) -> str:
    if channel.scheme == "ct":
        return (
            f"clipped to {channel.low:.0f} to {channel.high:.0f}, then scaled by the foreground of the training cases"
        )
    return "each volume by its own mean and standard deviation"


_CELLS: Mapping[str, Callable[[VolumePlan], str]] = {
    "Orientation": lambda plan: plan.orientation,
    "Voxel size": lambda plan: f"{_by(plan.spacing, 2)} mm",
    "Patch": lambda plan: f"{_by(plan.patch)} voxels",
    "Field of view": _field,
    "Batch": lambda plan: counted(plan.batch_size, "patch", "patches"),
    "Strides": _strides,
    "Kernels": lambda plan: ", ".join(_by(kernel) for kernel in plan.kernel_sizes),
    "Intensity": lambda plan: "; ".join(dict.fromkeys(map(_scheme, plan.intensity))),
    "Labels": lambda plan: shown_labels(plan.labels, MOST_LABELS),
    "Regions": lambda plan: "; ".join(
        f"{region.name}: {', '.join(map(str, region.values))}, written as {region.written}" for region in plan.regions
    ),
    "Expected memory of training": lambda plan: (
        f"{plan.memory_bytes / _GIGABYTE:.1f} GB" if plan.memory_bytes else "not estimated"
    ),
}
"""What a plan says, row by row."""
